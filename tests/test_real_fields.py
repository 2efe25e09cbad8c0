"""Real JUMP fields, one with two stains missing, through prepare, embed and describe."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from tiny import tiny_adapter, tiny_model

from vlm.adapters import ALIGN, DESCRIBE, save_adapter, save_base


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return lambda *words: monkeypatch.setattr(sys, "argv", list(map(str, words)))


def test_real_fields_are_prepared_embedded_and_described(shared, tmp_path, script, capsys):
    model, processor = tiny_model()
    save_base(model, processor, tmp_path / "model")
    adapted = tiny_adapter(model, ALIGN)
    adapted = tiny_adapter(adapted, DESCRIBE, projector=True)
    for name in (ALIGN, DESCRIBE):
        save_adapter(adapted, name, tmp_path / "model")

    script(
        "prepare_data.py", "--source", "fields", "--input", shared / "jump_fields",
        "--out", tmp_path / "data", "--size", 64, "--crop", 256, "--measure", "false",
        "--processes", 1,
    )  # fmt: skip
    import describe_well
    import embed_wells
    import prepare_data

    prepare_data.main()
    wells = ("--model", tmp_path / "model", "--data", tmp_path / "data")
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
