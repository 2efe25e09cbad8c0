"""The script that writes a store's texts, run as a user runs it."""

import json
from pathlib import Path

import pandas as pd
import pytest
from test_facts import FEATURES, gaussian_plates

from data.channels import CHANNELS
from data.store import FORMAT


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A prepared store without pixels: one plate, 16 controls, two wells of a compound."""
    plate = {"wells": 18, "sites": 18, "sha256": "", "channels_present": [True] * 4 + [False]}
    manifest = {
        "source": "plates",
        "channels": list(CHANNELS),
        "size": 8,
        "simulated": True,
        "reference": "same-plate controls",
        "plates": {"P1": plate},
        "format": FORMAT,
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    profiles = gaussian_plates(16, 2, 0)
    profiles.loc[16:, "Nuclei_AreaShape_Area"] = profiles.loc[16:, "Nuclei_AreaShape_Perimeter"] = (
        30.0
    )
    treated = profiles["Metadata_control_type"] == ""
    profiles = profiles.assign(
        Metadata_broad_sample=treated.map({True: "BRD-1", False: "DMSO"}),
        Metadata_modality=treated.map({True: "compound", False: "control"}),
        Metadata_pert_iname=treated.map({True: "torin-1", False: "DMSO"}),
        Metadata_target_list=treated.map({True: "MTOR", False: ""}),
        Metadata_gene="",
        Metadata_smiles="",
        Metadata_Cell_type="U2OS",
        Metadata_Time=48,
        Metadata_split="train",
    )
    for name in ("profiles", "profiles_normalized"):  # of one plate, in units of its controls
        profiles.to_parquet(tmp_path / f"{name}.parquet")
    profiles.drop(columns=FEATURES).to_parquet(tmp_path / "wells.parquet")
    return tmp_path


def test_the_tables_are_written(run, store):
    code, printed, error = run("build_captions", "--data", store, "--mask", "pathway", "function")
    assert (code, error) == (0, "")
    facts, prompts, dialogues = (
        pd.read_parquet(store / "captions" / f"{name}.parquet")
        for name in ("facts", "prompts", "dialogues")
    )
    assert {"W016", "W017"} <= set(facts["Metadata_Well"])
    assert prompts["prompt"].tolist() == [
        "U2OS cells, 48 h: compound torin-1. mTOR inhibitor, target MTOR.",
        "U2OS cells, 48 h: negative control.",
    ]
    described = dialogues[dialogues["kind"] == "description"]
    assert len(described) == 18 + 2  # each well, and the two changed ones once more
    assert (dialogues["answer"] == "Mito was not imaged.").any()
    assert "2 of 2" in printed
    assert sorted(path.name for path in (store / "captions").iterdir()) == [
        "dialogues.parquet",
        "effects.parquet",
        "facts.parquet",
        "genes.parquet",
        "prompts.parquet",
        "reagents.parquet",
        "report.json",
        "shifts.parquet",
    ]
    report = json.loads((store / "captions" / "report.json").read_text())
    assert report["problems"] == {}
    assert report["coverage"]["prompts with mechanism"] == "1 of 1 known"
    assert report["sources"]["packaged sentences"]["licence"] == "Apache-2.0"
    reagents = pd.read_parquet(store / "captions" / "reagents.parquet")
    assert reagents["mechanism_source"].tolist() == ["packaged sentences", ""]
    assert pd.read_parquet(store / "captions" / "genes.parquet").index.tolist() == ["MTOR"]


def test_what_is_unknown_or_refused_is_counted_and_fatal_only_when_asked(run, store, tmp_path):
    for name in ("wells", "profiles_normalized"):
        table = pd.read_parquet(store / f"{name}.parquet")
        treated = table["Metadata_broad_sample"] == "BRD-1"
        table.loc[treated, "Metadata_smiles"] = "C1CC"
        table.loc[treated, "Metadata_target_list"] = "MTOR|NOSUCH"
        table.loc[treated, "Metadata_pert_iname"] = "novel"
        table.to_parquet(store / f"{name}.parquet")
    annotation = tmp_path / "annotation"
    annotation.mkdir()
    (annotation / "ReactomePathways.gmt").write_text("")
    code, printed, error = run("build_captions", "--data", store, "--annotation", annotation)
    assert (code, error) == (0, "")
    problems = json.loads((store / "captions" / "report.json").read_text())["problems"]
    assert {name: found["count"] for name, found in problems.items()} == {
        "table_empty": 1,
        "compound_unknown": 1,
        "smiles_refused": 1,
        "gene_unknown": 1,
        "prompt_field_left_out": 1,
    }
    assert "notice: smiles_refused (1): BRD-1 (novel): C1CC" in printed
    code, _, error = run("build_captions", "--data", store, "--annotation", annotation, "--strict")
    assert code == 2
    assert "strict: table_empty: 1 (Reactome)" in error


def test_training_prompts_do_not_mention_what_is_held_out(run, store):
    wells = pd.read_parquet(store / "wells.parquet")
    other = wells[wells["Metadata_broad_sample"] == "BRD-1"].assign(
        Metadata_broad_sample="BRD-2",
        Metadata_pert_iname="AZD8055",
        Metadata_target_list="PIK3CA",
        Metadata_split="test",
        Metadata_Plate="P2",
    )
    pd.concat([wells, other]).to_parquet(store / "wells.parquet")
    manifest = json.loads((store / "manifest.json").read_text())
    manifest["plates"]["P2"] = manifest["plates"]["P1"]
    (store / "manifest.json").write_text(json.dumps(manifest))
    # AZD8055 is held out and an mTOR inhibitor, as torin-1 is: its mechanism is masked there.
    assert run("build_captions", "--data", store)[0] == 0
    prompts = pd.read_parquet(store / "captions" / "prompts.parquet")
    mechanisms = prompts.set_index("Metadata_broad_sample")["mechanism"]
    assert mechanisms.to_dict() == {
        "BRD-1": "",
        "BRD-2": "mTOR inhibitor, target PIK3CA",
        "DMSO": "",
    }
    assert run("build_captions", "--data", store, "--mask_held_out", "false")[0] == 0
    prompts = pd.read_parquet(store / "captions" / "prompts.parquet")
    assert (prompts["mechanism"] != "").sum() == 2


@pytest.mark.parametrize(
    "missing",
    ["manifest.json", "wells.parquet", "profiles.parquet", "profiles_normalized.parquet"],
)
def test_an_unprepared_folder_is_one_clear_line(run, store, missing):
    (store / missing).unlink()
    code, _, error = run("build_captions", "--data", store)
    assert code == 2
    assert missing in error
    assert not (store / "captions").exists()


def test_an_unknown_field_is_one_clear_line(run, store):
    code, _, error = run("build_captions", "--data", store, "--mask", "smell")
    assert code == 2
    assert "'smell'" in error
