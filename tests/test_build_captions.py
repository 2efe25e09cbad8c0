"""The script that writes a store's texts, run as a user runs it."""

import json
import runpy
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT
from test_facts import FEATURES, gaussian_plates

from data.channels import CHANNELS
from data.store import FORMAT


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the script in this process: (exit code, what it printed, its error lines)."""
    monkeypatch.syspath_prepend(ROOT / "scripts")

    def run_script(*arguments: object) -> tuple[int, str, list[str]]:
        script = str(ROOT / "scripts" / "build_captions.py")
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        code = 0
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            code = end.code
        printed = capsys.readouterr()
        return code, printed.out, printed.err.splitlines()

    return run_script


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
    profiles.to_parquet(tmp_path / "profiles_normalized.parquet")
    profiles.drop(columns=FEATURES).to_parquet(tmp_path / "wells.parquet")
    return tmp_path


def test_the_three_tables_are_written(run, store):
    code, printed, errors = run("--data", store, "--mask", "pathway", "function")
    assert (code, errors) == (0, [])
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
        "prompts.parquet",
    ]


@pytest.mark.parametrize(
    "missing", ["manifest.json", "wells.parquet", "profiles_normalized.parquet"]
)
def test_an_unprepared_folder_is_one_clear_line(run, store, missing):
    (store / missing).unlink()
    code, _, errors = run("--data", store)
    assert (code, len(errors)) == (2, 1)
    assert missing in errors[0]
    assert not (store / "captions").exists()


def test_an_unknown_field_is_one_clear_line(run, store):
    code, _, errors = run("--data", store, "--mask", "smell")
    assert (code, len(errors)) == (2, 1)
    assert "'smell'" in errors[0]
