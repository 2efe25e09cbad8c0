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

from captions.prompts import PROMPT_FIELDS, join_fields
from contrastive.configuration import AlignConfig
from contrastive.objective import LOSSES
from contrastive.trainer import align
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


def prompts_of(bank: WellBank) -> pd.DataFrame:
    """Prompts as `build_prompts` makes them, with a context, an identity and a mechanism."""
    reagents = bank.wells.drop_duplicates("Metadata_broad_sample")
    fields = dict.fromkeys(PROMPT_FIELDS, "") | {
        "context": "U2OS",
        "identity": reagents["Metadata_broad_sample"],
        "mechanism": "target " + reagents["Metadata_target_list"],
    }
    table = reagents[["Metadata_broad_sample"]].assign(
        **fields,
        Metadata_preset="enriched",
        Metadata_prompt_fields="context|identity|mechanism",
    )
    table["prompt"] = [join_fields(row, PROMPT_FIELDS) for row in table.to_dict("records")]
    return table


def shifts_of(bank: WellBank) -> np.ndarray:
    """Different shifts for every target; the last slot was not measured in the first well."""
    number = bank.wells["Metadata_target_list"].str[1:].replace("", "9").astype(int)
    shifts = np.stack([5.0 * (number // 3**k % 3 - 1) for k in range(SLOTS)], axis=1)
    shifts[0, -1] = np.nan
    return shifts.astype(np.float32)


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
    arguments = (processor.tokenizer, bank, prompts, shifts_of(bank), config or settings())
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
    for part in ("loss", "clip", "same_label", "shift"):
        assert records[-1][part] < 0.9 * records[0][part], part
    assert gap(model) > gap(untrained) + 0.5
    assert [record["step"] for record in records] == list(range(0, 40, 2))


ALONE = {"align_clip_weight": 0, "align_same_label_weight": 0, "align_shift_weight": 0}


@pytest.mark.parametrize("loss", ["siglip", "cwcl", "soft_label", "replicate"])
def test_every_loss_learns_by_itself(tmp_path, loss):
    changed = ALONE | {f"align_{loss}_weight": 1.0, "align_steps": 24, "align_prompt_every": 1}
    run(tmp_path, config=settings(**changed))
    records = history(tmp_path)
    assert set(records[0]) == {"step", "loss", loss}  # a weight of zero costs nothing
    last = np.mean([record[loss] for record in records[-4:]])
    assert last < 0.95 * np.mean([record[loss] for record in records[:4]])


@pytest.mark.parametrize("loss", LOSSES)
def test_what_is_trained_is_what_a_loss_reaches(tmp_path, loss):
    """Others DeepSpeed would let decay; FSDP2 could not load their optimizer."""
    changed = ALONE | {f"align_{loss}_weight": 1.0, "align_steps": 1, "align_prompt_every": 1}
    model = run(tmp_path, config=settings(**changed))
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), name


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
    prompts = prompts_of(tiny_bank())
    prompts = prompts[prompts["Metadata_broad_sample"] != "crispr-2"]
    with pytest.raises(InputError, match="no prompt for the reagent crispr-2"):
        run(tmp_path, prompts=prompts)


def test_a_prompt_that_is_too_long_loses_fields_and_is_named(tmp_path, capsys):
    prompts = prompts_of(tiny_bank())
    first = prompts["Metadata_broad_sample"] == "compound-1"
    prompts.loc[first, "mechanism"] = "nocodazole " * 100
    prompts.loc[first, "prompt"] = f"U2OS: compound-1. {'nocodazole ' * 100}."
    run(tmp_path, config=settings(align_steps=1), prompts=prompts)
    assert "prompt_field_left_out (1): compound-1: mechanism" in capsys.readouterr().out
    prompts.loc[first, "identity"] = "nocodazole " * 100
    with pytest.raises(
        InputError, match=r"identity of compound-1 are \d+ tokens, more than .* = 96"
    ):
        run(tmp_path, prompts=prompts)


def test_field_dropout_reads_other_prompts_and_is_reproducible(tmp_path):
    def losses(name: str, dropout: float) -> list[float]:
        run(tmp_path / name, config=settings(align_steps=4, align_field_dropout=dropout))
        lines = (tmp_path / name / "align_history.jsonl").read_text().splitlines()
        return [json.loads(line)["clip"] for line in lines]

    full, dropped = losses("full", 0.0), losses("dropped", 1.0)
    assert losses("again", 1.0) == dropped != full
    with pytest.raises(InputError, match="align_field_dropout is 2"):
        settings(align_field_dropout=2)


def test_an_average_of_weights_ends_between_them_and_goes_on_exactly(tmp_path):
    averaged = {"align_ema_decay": 0.8}
    plain = run(tmp_path / "plain")
    whole = run(tmp_path / "whole", config=settings(**averaged))
    assert history(tmp_path / "whole") == history(tmp_path / "plain")  # it trains the same
    name = "model.vision_tower.linear_maps"
    start = tiny_model()[0].state_dict()[name]
    ends = [model.get_base_model().state_dict()[name] - start for model in (plain, whole)]
    assert 0.2 * ends[0].norm() < ends[1].norm() < 0.95 * ends[0].norm()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", broken(5, KeyboardInterrupt()), settings(**averaged))
    resumed = run(tmp_path / "cut", config=settings(**averaged))
    assert_same_weights(whole, resumed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"align_clip_weight": -1}, "align_clip_weight is -1; expected 0 or more"),
        ({"align_cwcl_weight": float("nan")}, "align_cwcl_weight is nan"),
        (ALONE, "no loss has a weight: set one of align_.*soft_label"),
        (ALONE | {"align_clip_weight": 1}, "align_prompt_every is 2, and steps without prompts"),
        ({"align_chunk_wells": 0}, "align_chunk_wells is 0; expected 1 or more"),
        ({"align_num_same_plate": -2}, "align_num_same_plate is -2; expected 0 or more"),
        ({"align_reagents_per_target": 0}, "align_reagents_per_target is 0"),
        ({"align_temperature": 0}, "align_temperature is 0; expected above 0"),
        ({"align_ema_decay": 1}, "align_ema_decay is 1; expected 0 to below 1"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(changed, message):
    with pytest.raises(InputError, match=message):
        settings(**changed)
