"""Real JUMP fields, one with two stains missing, through prepare, embed and describe."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from tiny import tiny_adapter, tiny_model

from captions.facts import measure_facts
from data.store import load_profiles
from vlm.adapters import ALIGN, DESCRIBE, save_adapter, save_base


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fields") / "model"
    model, processor = tiny_model()
    save_base(model, processor, folder)
    adapted = tiny_adapter(model, ALIGN)
    adapted = tiny_adapter(adapted, DESCRIBE, projector=True)
    for name in (ALIGN, DESCRIBE):
        save_adapter(adapted, name, folder)
    return folder


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return lambda *words: monkeypatch.setattr(sys, "argv", list(map(str, words)))


def test_real_fields_are_prepared_embedded_and_described(
    shared, tmp_path, model_folder, script, capsys
):
    script(
        "prepare_data.py", "--source", "fields", "--input", shared / "jump_fields",
        "--out", tmp_path / "data", "--size", 64, "--crop", 256, "--measure", "false",
        "--processes", 1,
    )  # fmt: skip
    import describe_well
    import embed_wells
    import prepare_data

    prepare_data.main()
    wells = ("--model", model_folder, "--data", tmp_path / "data")
    script("embed_wells.py", *wells, "--out", tmp_path / "embeddings.parquet")
    embed_wells.main()
    embedded = pd.read_parquet(tmp_path / "embeddings.parquet")
    features = embedded.filter(like="embedding_").to_numpy()
    assert len(embedded) == 6  # four folders with one field, one with two
    assert np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-4)
    three = embedded["Metadata_Plate"].str.contains("BR00117006")
    assert three.sum() == 1

    capsys.readouterr()
    plate = embedded.loc[three, "Metadata_Plate"].iloc[0]
    script("describe_well.py", *wells, "--plate", plate, "--well", "A01", "--json", "true")
    describe_well.main()
    record = json.loads(capsys.readouterr().out)
    assert record["plate"] == plate
    assert record["reference"] == "none (single field)"


def test_tiles_of_real_fields_are_verified_by_measurement(
    shared, tmp_path, model_folder, script, capsys
):
    script(
        "prepare_data.py", "--source", "fields", "--input", shared / "jump_fields",
        "--out", tmp_path, "--size", 128, "--tile_wells", 256, "--processes", 1,
        "--plates", "BR00117006_A01_three_channels,cdrp_bio_field,source9_A03",
    )  # fmt: skip
    import describe_well
    import prepare_data

    prepare_data.main()
    assert "36 wells" in capsys.readouterr().out
    asked = ("--query", "Metadata_Well == 'A01'", "--verify", "true", "--cells", "true")
    script(
        "describe_well.py", "--model", model_folder, "--data", tmp_path, *asked, "--json", "true"
    )
    describe_well.main()
    records = json.loads(capsys.readouterr().out)
    assert len(records) == 3
    assert all(record["reference"].startswith("data set's median tile") for record in records)
    assert any(record["measured"] for record in records)  # microscopes differ, and that is found
    # The cells of 2011 are stained otherwise, whatever a model says.
    facts = measure_facts(load_profiles(tmp_path, normalized=True))
    cdrp = facts[facts["Metadata_Plate"] == "cdrp_bio_field"]
    assert set(cdrp.loc[cdrp["channel"] == "ER/RNA", "direction"]) == {"decreased"}
    three = facts[facts["Metadata_Plate"].str.endswith("three_channels")]
    assert not three["channel"].str.contains("ER|Mito").any()
