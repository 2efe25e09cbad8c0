"""The benchmark of a preference step: what its trainer is shown, and that it runs on a tiny run."""

import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import ROOT

from captions.descriptions import parse_description
from captions.questions import DESCRIBE
from vlm.adapters import load_model
from vlm.instruct import IGNORED, WellCollator, encode_dialogues


@pytest.fixture
def preference(monkeypatch):
    """The benchmark's module."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import preference

    return preference


@pytest.fixture
def data(training_folder, tmp_path) -> Path:
    """The tiny store, one plate of it held out."""
    folder = tmp_path / "prepared"
    shutil.copytree(training_folder / "prepared", folder)
    wells = pd.read_parquet(folder / "wells.parquet")
    wells.loc[wells["Metadata_Plate"] == "G1", "Metadata_split"] = "test"
    wells.to_parquet(folder / "wells.parquet")
    return folder


def test_it_prefers_lessons_and_scores_what_comes_of_it(
    preference, whole_run, data, monkeypatch, capsys
):
    batches = []
    call = preference.PairCollator.torch_call

    def kept(self, examples):
        batches.append((self, examples, call(self, examples)))
        return batches[-1][-1]

    monkeypatch.setattr(preference.PairCollator, "torch_call", kept)
    common = ["--model", whole_run, "--data", data, "--seeds", 1, "--steps", 1, "--batch", 3]
    monkeypatch.setattr(sys, "argv", ["preference", *map(str, common)])
    preference.main()
    printed = capsys.readouterr().out
    for row in ("tower, by rule", "as it was", "more SFT", "DPO"):
        assert f"| {row} " in printed
    assert "DPO less as it was: false claims a well " in printed
    # Before its first step the model is its own reference: every pair's loss is log 2.
    assert "'train_loss': '0.6931'" in printed

    ((collator, examples, batch),) = batches
    processor = load_model(whole_run)[1]
    end = processor.end_of_answer
    for name, rows in (("chosen", slice(0, 3)), ("rejected", slice(3, 6))):
        lessons = pd.DataFrame(examples).assign(
            question=DESCRIBE, answer=[one[name].removesuffix(end) for one in examples]
        )
        sft = WellCollator(collator.tokens, collator.pad_token_id)(
            list(encode_dialogues(lessons, processor, None))
        )
        length = sft["input_ids"].shape[1]
        assert torch.equal(batch["input_ids"][rows, :length], sft["input_ids"])
        assert torch.equal(batch["attention_mask"][rows, :length], sft["attention_mask"])
        asked = batch["completion_mask"][rows, :length].bool()
        assert torch.equal(asked, sft["labels"] != IGNORED)
        assert torch.equal(batch["well_tokens"][rows], sft["well_tokens"])
    for one in examples:
        assert parse_description(one["chosen"]) != parse_description(one["rejected"])
    assert len(batch["well_tokens"].unique(dim=0)) == 3


def test_counts_are_told_by_hand(preference):
    mito, nuclei = (
        next(iter(parse_description(text))) for text in ("Mito: dimmer.", "Nuclei: larger.")
    )
    truth = preference.Truth(
        [{mito}, set()], [{mito}, set()], pd.Series(["a", "b"]).to_numpy(str), [False, False]
    )
    assert preference.count([{mito, nuclei}, {nuclei}], truth).tolist() == [
        [1, 1, 1, 1],
        [1, 0, 0, 1],
    ]
