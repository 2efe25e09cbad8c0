"""What a run's descriptions are scored on, beside their controls, from its files."""

import json
from pathlib import Path

import pandas as pd
import pytest

from captions.effects import EFFECT_COLUMNS
from captions.facts import FACT_COLUMNS
from data.errors import InputError
from data.store import Manifest, save_manifest
from eval.run_metrics import collect_claims, score_details, score_run_claims
from eval.run_report import claims_table, details_table, parts_table

LABEL = "Metadata_target_list"
WELLS = [("P", f"A{i:02d}") for i in range(1, 7)]
DIM = ("cells", "Mito", "intensity", "decreased", -6.0, 0.001, "clearly", "f", 1)
SAID = ["Mito: clearly dimmer."] * 2 + ["Mito: dimmer."] + ["No significant change from controls."]


def claims_json(answer: str, confidence: float) -> str:
    if "dimmer" not in answer:
        return "[]"
    names = ("compartment", "channel", "property", "direction")
    return json.dumps([dict(zip(names, DIM[:4], strict=True)) | {"confidence": confidence}])


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    """A run's descriptions and its store: A01 to A03 are dimmer, A03 is said to be so wrongly."""
    run, data = tmp_path / "run", tmp_path / "data"
    (data / "captions").mkdir(parents=True)
    run.mkdir()
    facts = [(*key, *DIM) for key in WELLS[:2]] + [(*key, *DIM) for key in WELLS[4:]]
    pd.DataFrame(facts, columns=list(FACT_COLUMNS)).to_parquet(data / "captions" / "facts.parquet")
    effects = pd.DataFrame(WELLS, columns=["Metadata_Plate", "Metadata_Well"])
    effects = effects.assign(**dict.fromkeys(EFFECT_COLUMNS, 0.0))
    effects["cells Mito intensity"] = [-6.0, -6.0, -2.5, 0.1, -6.0, -6.0]
    effects.to_parquet(data / "captions" / "effects.parquet")
    profiles = pd.DataFrame(WELLS, columns=["Metadata_Plate", "Metadata_Well"])
    profiles["Metadata_broad_sample"] = [f"R{i}" for i in range(6)]
    profiles[LABEL] = ["T1", "T1", "T2", "T3", "T4", "T4"]
    profiles["Metadata_split"] = ["test"] * 4 + ["train"] * 2
    profiles.to_parquet(data / "profiles.parquet")
    save_manifest(data, Manifest("plates", ["DNA"], 32, "same-plate controls", True))
    for name, answers in {
        "descriptions": SAID,
        "descriptions_blank": ["Nothing was imaged."] * 4,
        "descriptions_wrong_controls": SAID[::-1],
    }.items():
        table = pd.DataFrame(WELLS[:4], columns=["plate", "well"]).assign(answer=answers)
        table["claims"] = [claims_json(answer, 0.75) for answer in answers]
        table.to_parquet(run / f"{name}.parquet")
    return run, data


def test_a_run_is_scored_beside_its_controls_and_in_detail(folders):
    collected = collect_claims(*folders, 0, LABEL, "Metadata_split == 'train'")
    claims, _ = score_run_claims(collected, LABEL)
    sources = {"model", "blank_image", "wrong_controls", "shuffled_image", "majority"}
    assert set(claims) == sources == set(claims_table(claims)["source"].str.replace(" ", "_"))
    assert claims["model"]["precision"] == pytest.approx(2 / 3)
    assert claims["blank_image"]["recall"] == 0.0
    assert claims["wrong_controls"]["recall"] == 0.5

    details = score_details(collected, LABEL)
    assert details["strength"]["strength_agreement"] == 1.0
    assert details["silence"] == {
        "abstention_precision": 1.0,
        "abstention_recall": 0.5,
        "claims_an_unchanged_well": 0.5,
    }
    assert details["false_claims"] == {  # A03's, and it was only too weak
        "n": 1,
        "same_direction": 1.0,
        "weak": 1.0,
        "median_effect": 2.5,
    }
    # Three claims, each .75 sure; two are right.
    assert details["calibration"]["n"] == 3
    error = details["calibration"]["expected_calibration_error"]
    assert error == pytest.approx(abs(2 / 3 - 0.75))
    assert details["by_channel"]["Mito"]["n_predicted"] == 3
    json.dumps(details)
    assert details_table(details)["expected calibration error"].tolist() == [error]
    assert parts_table(details, "property")["property"].tolist() == ["intensity"]


def test_descriptions_of_other_wells_are_refused(folders):
    run, data = folders
    table = pd.read_parquet(run / "descriptions_blank.parquet")
    table.iloc[::-1].to_parquet(run / "descriptions_blank.parquet")
    with pytest.raises(InputError, match=r"descriptions_blank\.parquet has other wells"):
        collect_claims(run, data, 0, LABEL, "Metadata_split == 'train'")
    (run / "descriptions_blank.parquet").unlink()
    with pytest.raises(InputError, match="is missing"):
        collect_claims(run, data, 0, LABEL, "Metadata_split == 'train'")
