"""Phase align on a tiny model: it learns, and goes on exactly where it was interrupted."""

import json
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from tiny import tiny_adapter, tiny_bank, tiny_model

from contrastive.trainer import AlignConfig, align
from data.errors import InputError
from vlm.adapters import ALIGN
from vlm.instruct import well_embeddings
from vlm.wells import WellBank, fit_reference

SLOTS = 3


@dataclass
class BrokenBank(WellBank):
    """A bank that goes wrong after some batches."""

    good_batches: int = 0
    error: BaseException | None = None

    def batch(self, rows, generator=None):
        """As `WellBank.batch`, until it breaks."""
        inputs = super().batch(rows, generator)
        self.good_batches -= 1
        if self.good_batches < 0:
            if self.error is not None:
                raise self.error
            inputs["channel_features"] = inputs["channel_features"] * float("nan")
        return inputs


def settings(**changed) -> AlignConfig:
    values = {
        "align_steps": 8,
        "align_warmup_steps": 2,
        "align_num_targets": 4,
        "align_num_unlabelled": 2,
        "align_prompt_every": 2,
        "align_save_steps": 3,
        "align_learning_rate": 3e-3,
    }
    return AlignConfig(**values | changed)


def prompts_of(bank: WellBank) -> pd.Series:
    names = bank.wells["Metadata_broad_sample"].unique()
    targets = bank.wells.groupby("Metadata_broad_sample")["Metadata_target_list"].first()
    return pd.Series([f"{name}, target {targets[name]}" for name in names], index=names)


def effects_of(bank: WellBank) -> np.ndarray:
    """Different effects for every target; the last slot was not measured in the first well."""
    number = bank.wells["Metadata_target_list"].str[1:].replace("", "9").astype(int)
    effects = np.stack([5.0 * (number // 3**k % 3 - 1) for k in range(SLOTS)], axis=1)
    effects[0, -1] = np.nan
    return effects.astype(np.float32)


def run(out, bank=None, config=None, prompts=None):
    """Train a fresh model; with dropout, so that random states matter."""
    torch.manual_seed(0)
    bank = bank or tiny_bank()
    model, processor = tiny_model()
    fit_reference(model, bank)
    model = tiny_adapter(model, ALIGN, dropout=0.1)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.1
    prompts = prompts_of(bank) if prompts is None else prompts
    arguments = (processor.tokenizer, bank, prompts, effects_of(bank), config or settings())
    torch.manual_seed(1)
    align(model, *arguments, out, 0, Accelerator(cpu=True))
    return model


def history(out) -> list[dict]:
    return [json.loads(line) for line in (out / "align_history.jsonl").read_text().splitlines()]


def checkpoints(out) -> list[str]:
    return [path.name for path in (out / "align_checkpoints").iterdir()]


def broken(good_batches: int, error: BaseException | None) -> BrokenBank:
    return BrokenBank(**vars(tiny_bank()), good_batches=good_batches, error=error)


def assert_same_weights(one, other) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def test_the_losses_fall_and_targets_come_together(tmp_path):
    def gap(model) -> float:
        """Mean cosine within targets, minus between them."""
        embedded = well_embeddings(model, bank)
        targets = bank.wells["Metadata_target_list"].to_numpy()
        treated = targets != ""
        cosine = embedded[treated] @ embedded[treated].T
        same = targets[treated][:, None] == targets[treated][None, :]
        return cosine[same & ~np.eye(len(cosine), dtype=bool)].mean() - cosine[~same].mean()

    bank = tiny_bank(noise=3.0)
    untrained, _ = tiny_model()
    fit_reference(untrained, bank)
    model = run(tmp_path, bank, config=settings(align_steps=40))
    records = history(tmp_path)
    for part in ("loss", "prompt", "same_label", "effect"):
        assert records[-1][part] < 0.9 * records[0][part], part
    assert gap(model) > gap(untrained) + 0.5
    assert [record["step"] for record in records] == list(range(0, 40, 2))


def test_siglip_learns_too(tmp_path):
    run(tmp_path, config=settings(align_loss="siglip", align_steps=30))
    records = history(tmp_path)
    assert records[-1]["prompt"] < 0.9 * records[0]["prompt"]


def test_only_what_should_be_trained_is_changed(tmp_path):
    model = run(tmp_path)
    before = dict(tiny_model()[0].named_parameters())
    changed = set()
    for name, after in model.get_base_model().named_parameters():
        plain = name.replace(".base_layer", "")
        if plain in before and not torch.equal(after, before[plain]):
            changed.add(plain.split(".")[1] if plain.startswith("model.") else plain.split(".")[0])
        assert "backbone" not in name or torch.equal(after, before[plain])
    assert changed == {"vision_tower", "well_projection", "text_projection"}
    lora = [p for name, p in model.named_parameters() if "lora_B" in name]
    assert lora
    assert all(p.abs().max() > 0 for p in lora)  # B starts at zero


def test_an_interrupted_run_ends_as_if_it_had_not_been(tmp_path):
    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):  # in step 5; the last checkpoint is of step 3
        run(tmp_path / "cut", broken(5, KeyboardInterrupt()))
    assert checkpoints(tmp_path / "cut") == ["checkpoint-3"]
    resumed = run(tmp_path / "cut")
    assert history(tmp_path / "cut") == history(tmp_path / "whole")
    assert_same_weights(whole, resumed)
    assert checkpoints(tmp_path / "cut") == ["checkpoint-8"]


def test_after_the_last_step_nothing_is_done_again(tmp_path):
    """Killed between its last step and the model's saving, it has still learnt everything."""
    whole = run(tmp_path)
    again = run(tmp_path, broken(0, KeyboardInterrupt()))
    assert_same_weights(whole, again)
    assert len(history(tmp_path)) == 4


def test_checkpoints_hold_no_frozen_weights(tmp_path):
    model = run(tmp_path)
    kept = load_file(tmp_path / "align_checkpoints" / "checkpoint-8" / "trained.safetensors")
    assert not any("backbone" in name or "base_layer" in name for name in kept)
    assert any("lora_" in name for name in kept)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    assert sum(value.numel() for value in kept.values()) < frozen


def test_killed_while_saving_it_goes_on_from_the_last_whole_checkpoint(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole")
    save = Accelerator.save_state
    saved = []

    def die_in_the_second(self, folder, *args, **kwargs):
        save(self, folder, *args, **kwargs)
        saved.append(folder)
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Accelerator, "save_state", die_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut")
    monkeypatch.undo()
    assert checkpoints(tmp_path / "cut") == ["checkpoint-3"]
    resumed = run(tmp_path / "cut")
    assert_same_weights(whole, resumed)
    assert checkpoints(tmp_path / "cut") == ["checkpoint-8"]


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(tmp_path):
    with pytest.raises(InputError, match=r"loss is nan at step 4.*align_learning_rate"):
        run(tmp_path, broken(4, None))
    assert checkpoints(tmp_path) == ["checkpoint-3"]


def test_a_reagent_without_a_prompt_is_named(tmp_path):
    prompts = prompts_of(tiny_bank()).drop("crispr-2")
    with pytest.raises(InputError, match="no prompt for the reagent crispr-2"):
        run(tmp_path, prompts=prompts)


def test_a_prompt_that_is_too_long_is_named(tmp_path):
    prompts = prompts_of(tiny_bank())
    prompts["compound-1"] = "nocodazole " * 100
    with pytest.raises(InputError, match=r"prompt of compound-1 has \d+ tokens, more than .* = 96"):
        run(tmp_path, prompts=prompts)


def test_an_unknown_loss_is_named():
    with pytest.raises(InputError, match="align_loss is 'hinge'; expected clip or siglip"):
        AlignConfig(align_loss="hinge")
