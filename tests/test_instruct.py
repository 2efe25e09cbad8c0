"""Phase describe on a tiny model: what is learnt from, what is trained, what stays as it was."""

import json
import os
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from tiny import tiny_adapter, tiny_bank, tiny_model
from trl import SFTConfig

from captions.questions import DESCRIBE
from data.errors import InputError
from vlm.adapters import ALIGN, adapter_state
from vlm.adapters import DESCRIBE as DESCRIBE_ADAPTER
from vlm.describe import describe
from vlm.instruct import (
    IGNORED,
    WellCollator,
    encode_dialogues,
    rows_of_wells,
    train_describe,
    well_embeddings,
    well_tokens,
)
from vlm.wells import fit_reference

ANSWERS = {"": "No significant change from controls.", "T0": "Mito: clearly dimmer."}


def dialogues_of(wells: pd.DataFrame) -> pd.DataFrame:
    table = wells[["Metadata_Plate", "Metadata_Well"]].copy()
    table["question"] = DESCRIBE
    table["answer"] = wells["Metadata_target_list"].map(ANSWERS).fillna("Nuclei: strongly larger.")
    return table


def settings(out: Path, **changed) -> SFTConfig:
    values = {
        "output_dir": str(out),
        "max_steps": 12,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "max_length": 120,
        "logging_steps": 1,
        "save_steps": 100,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "seed": 0,
        "disable_tqdm": True,
    }
    return SFTConfig(**values | changed)


def two_adapters(dropout: float = 0.0):
    """A model as phase describe finds it: `align` trained a little, `describe` fresh."""
    model, processor = tiny_model()
    fit_reference(model, tiny_bank())
    model = tiny_adapter(model, ALIGN)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    torch.manual_seed(5)
    return tiny_adapter(model, DESCRIBE_ADAPTER, projector=True, dropout=dropout), processor


def losses(out: Path) -> list[float]:
    state = json.loads((max(out.glob("checkpoint-*")) / "trainer_state.json").read_text())
    return [record["loss"] for record in state["log_history"] if "loss" in record]


def test_only_the_answer_and_its_end_are_labels():
    _, processor = tiny_model()
    wells = tiny_bank().wells
    example = encode_dialogues(rows_of_wells(dialogues_of(wells)[:1], wells), processor, None)[0]
    labels = [label for label in example["labels"] if label != IGNORED]
    tokenizer = processor.tokenizer
    assert tokenizer.decode(labels) == "Mito: clearly dimmer.<|im_end|>"
    assert example["labels"][-len(labels) :] == labels  # nothing after the answer
    text = tokenizer.decode(example["input_ids"])
    well = "<image>" * processor.image_seq_length
    assert text == (
        f"<|im_start|>user\n{well}{DESCRIBE}<|im_end|>\n<|im_start|>assistant\n"
        "Mito: clearly dimmer.<|im_end|>"
    )
    assert example["length"] == len(example["input_ids"]) == len(example["labels"])


def test_wells_are_found_by_plate_and_position():
    wells = tiny_bank().wells
    order = wells.sample(frac=1, random_state=0).index
    assert list(rows_of_wells(dialogues_of(wells).loc[order], wells)["well"]) == list(order)


def test_a_dialogue_that_is_too_long_is_named():
    _, processor = tiny_model()
    wells = tiny_bank().wells
    dialogues = dialogues_of(wells)
    dialogues.loc[3, "answer"] = "Mito: clearly dimmer. " * 30
    asked = re.escape(DESCRIBE)
    expected = rf"dialogues row 3 \('{asked}'\): \d+ tokens, more than max_length = 120"
    with pytest.raises(InputError, match=expected):
        encode_dialogues(rows_of_wells(dialogues, wells), processor, 120)


def test_a_well_that_is_not_given_is_named():
    wells = tiny_bank().wells
    dialogues = dialogues_of(wells)
    dialogues.loc[1, "Metadata_Well"] = "P24"
    with pytest.raises(InputError, match="dialogues row 1: well P24 of plate P1 is not given"):
        rows_of_wells(dialogues, wells)


def test_the_collator_pads_on_the_right_and_brings_each_its_well():
    tokens = torch.arange(3.0)[:, None, None].expand(3, 2, 4)
    batch = WellCollator(tokens, pad_token_id=9)(
        [
            {"input_ids": [1, 2, 3], "labels": [IGNORED, 2, 3], "well": 2},
            {"input_ids": [9], "labels": [9], "well": 0},  # a pad token that is text counts
        ]
    )
    assert batch["input_ids"].tolist() == [[1, 2, 3], [9, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[IGNORED, 2, 3], [9, IGNORED, IGNORED]]
    assert torch.equal(batch["well_tokens"], tokens[[2, 0]])


def test_it_learns_to_describe_and_leaves_the_embedding_alone(tmp_path):
    model, processor = two_adapters()
    bank = tiny_bank()
    model.set_adapter(ALIGN)
    text = processor.tokenizer("U2OS cells, 48 h", return_tensors="pt")
    prompt = {name: text[name] for name in ("input_ids", "attention_mask")}
    embedded = well_embeddings(model, bank)
    embedded_prompt = model.get_base_model().embed_prompts(**prompt)
    model.set_adapter(DESCRIBE_ADAPTER)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    dialogues = rows_of_wells(dialogues_of(bank.wells), bank.wells)
    train_describe(
        model, processor, well_tokens(model, bank), dialogues, settings(tmp_path, max_steps=80)
    )
    found = losses(tmp_path)
    assert found[-1] < 0.3 * found[0]
    changed = {
        name for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed
    assert all(f".{DESCRIBE_ADAPTER}." in name for name in changed)
    assert any("multi_modal_projector" in name for name in changed)
    assert (well_embeddings(model, bank) == embedded).all()
    model.set_adapter(ALIGN)
    assert torch.equal(model.get_base_model().embed_prompts(**prompt), embedded_prompt)

    spoken = describe(model, processor, bank, DESCRIBE, max_new_tokens=40, batch_size=5)
    expected = dialogues_of(bank.wells)["answer"]
    right = sum(said.text == true for said, true in zip(spoken, expected, strict=True))
    assert right / len(bank) > 0.9  # it reads the well: the question is always the same
    tokens = well_tokens(model, bank)
    (alone,) = describe(model, processor, tokens[:1], DESCRIBE, max_new_tokens=40)
    assert alone.text == spoken[0].text  # whoever is asked beside it
    # Its probabilities are those with which the model reads its own answer.
    ids = processor(text=processor.ask(DESCRIBE) + alone.text)["input_ids"]
    with torch.inference_mode():
        logits = model(input_ids=ids, well_tokens=tokens[:1]).logits[0].log_softmax(dim=-1)
    n = len(alone.probabilities)
    given = logits[-n - 1 : -1].gather(1, ids[0, -n:, None]).exp().squeeze(1)
    torch.testing.assert_close(given, torch.tensor(alone.probabilities), atol=1e-4, rtol=1e-3)
    assert alone.ends[-1] == len(alone.text)
    assert alone.text[: alone.ends[0]] == processor.tokenizer.decode(ids[0, -n])


@pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="torch.compile needs a C++ compiler"
)
def test_compiled_it_learns_the_same(tmp_path):
    wells = tiny_bank().wells
    dialogues = rows_of_wells(dialogues_of(wells), wells)
    dialogues["answer"] = dialogues["answer"][0]  # of one length: compiled once
    learnt = []
    for compiled in (False, True):
        model, processor = two_adapters()
        args = settings(tmp_path, torch_compile=compiled, max_steps=2)
        state = train_describe(model, processor, well_tokens(model, tiny_bank()), dialogues, args)
        learnt.append(adapter_state(model, DESCRIBE_ADAPTER, state))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert learnt[0].keys() == learnt[1].keys()
    for key, value in learnt[0].items():
        assert torch.allclose(value, learnt[1][key], atol=1e-4), key


def test_an_interrupted_run_ends_as_if_it_had_not_been(tmp_path):
    def train(out: Path, bank, **changed):
        model, processor = two_adapters(dropout=0.1)
        dialogues = rows_of_wells(dialogues_of(bank.wells), bank.wells)
        tokens = well_tokens(model, bank)
        train_describe(model, processor, tokens, dialogues, settings(out, save_steps=4, **changed))
        return model

    class Cut(Exception):  # noqa: N818
        pass

    whole = train(tmp_path / "whole", tiny_bank())
    call = WellCollator.__call__
    batches = []

    def cut_in_the_seventh(self, examples):
        batches.append(1)
        if len(batches) > 6:
            raise Cut
        return call(self, examples)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Cut):
        patch.setattr(WellCollator, "__call__", cut_in_the_seventh)
        train(tmp_path / "cut", tiny_bank())
    assert (tmp_path / "cut" / "checkpoint-4").is_dir()
    resumed = train(tmp_path / "cut", tiny_bank())
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    theirs = resumed.state_dict()
    for name, value in whole.state_dict().items():
        assert torch.allclose(value, theirs[name], atol=1e-7), name
