"""The plan says before training what training then takes."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from measured import Measured, measured_align, measured_describe
from processes import FORK, run_script
from tiny import tiny_model
from transformers import LlamaConfig, Qwen3Config

from contrastive.configuration import AlignConfig
from contrastive.plan import plan_align
from contrastive.trainer import train_tower_and_heads
from vlm import CellPaintingVlmConfig, CellPaintingVlmForConditionalGeneration
from vlm.adapters import ALIGN
from vlm.lora import LoraSettings, add_adapter, lora_config
from vlm.plan import Step, count_describe, largest_batches, plan_describe

STEP = Step(batch=4, length=192, checkpointing=False, bf16=False)
ANSWER = 40


def small_config() -> CellPaintingVlmConfig:
    """Large enough that a step's memory is not noise."""
    config = tiny_model()[0].config
    config.text_config = LlamaConfig(
        vocab_size=4000,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        tie_word_embeddings=True,
    )
    return config


def settings(**changed) -> LoraSettings:
    return LoraSettings(lora_dropout=0.0, **changed)


def write_measured(measure: Callable[..., Measured], arguments: tuple, out: Path) -> None:
    torch.set_num_threads(1)
    (out / "bytes.json").write_text(json.dumps(measure(*arguments, out)))


def hold_against_measured(
    held: LoraSettings, step: Step, align: AlignConfig | None, scratch: Path
) -> None:
    config = small_config()
    if align is None:
        plan = plan_describe(config, held, step, ANSWER)
        measure, arguments = measured_describe, (config, held, step, ANSWER)
    else:
        plan = plan_align(config, held, align, step)
        measure, arguments = measured_align, (config, held, align, step)
    process = FORK.Process(target=write_measured, args=(measure, arguments, scratch))
    process.start()
    process.join()
    measured = Measured(*json.loads((scratch / "bytes.json").read_text()))
    for part in Measured._fields:
        planned, found = (getattr(bytes_of, part) / 1e6 for bytes_of in (plan, measured))
        print(f"{part}: planned {planned:.2f} MB, measured {found:.2f} MB")
    assert plan.weights == pytest.approx(measured.weights, rel=0.02)
    assert plan.peak == pytest.approx(measured.peak, rel=0.1)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "8bit", "4bit"])
def test_the_planned_peak_is_the_measured_one(tmp_path, precision, checkpointing):
    step = replace(STEP, checkpointing=checkpointing, bf16=precision != "float32")
    hold_against_measured(settings(base_precision=precision), step, None, tmp_path)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", ["bfloat16", "4bit"])
def test_of_phase_align_too(tmp_path, precision, checkpointing):
    step = replace(STEP, checkpointing=checkpointing, bf16=True)
    hold_against_measured(settings(base_precision=precision), step, AlignConfig(), tmp_path)


def test_where_gradients_are_added_up_and_weights_averaged_too(tmp_path):
    step = replace(STEP, checkpointing=True, accumulates=True)
    hold_against_measured(settings(lora_rank=64), step, None, tmp_path)
    align = AlignConfig(align_chunk_wells=10, align_ema_decay=0.9)
    hold_against_measured(settings(lora_rank=64), step, align, tmp_path)


@pytest.mark.parametrize(
    ("checkpointing", "changed"),
    [
        (False, {}),
        (True, {"base_precision": "4bit"}),
        (True, {"base_precision": "8bit"}),
        (True, {"lora_rank": 64}),
    ],
)
def test_few_layers_say_what_all_do(checkpointing, changed):
    config, step = small_config(), replace(STEP, checkpointing=checkpointing, bf16=True)
    config.text_config.num_hidden_layers = 11
    found, whole = (
        plan(config, settings(**changed), step) for plan in (plan_describe, count_describe)
    )
    assert found == whole


def test_layers_of_several_kinds_are_all_counted():
    config = small_config()
    kinds = ["sliding_attention", "full_attention", "full_attention"] * 2
    config.text_config = Qwen3Config(
        vocab_size=500, hidden_size=64, intermediate_size=128, num_hidden_layers=6,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16,
        layer_types=kinds, use_sliding_window=True, sliding_window=64,
    )  # fmt: skip
    assert plan_describe(config, settings(), STEP) == count_describe(config, settings(), STEP)


def test_parameters_are_those_of_the_real_model():
    config = tiny_model()[0].config
    for describe in (False, True):
        model = CellPaintingVlmForConditionalGeneration(config)
        model = add_adapter(model, ALIGN, lora_config(settings(), describe))
        if describe:
            plan = plan_describe(config, settings(), replace(STEP, length=64))
        else:
            align = AlignConfig(align_num_targets=2, align_prompt_targets=2)
            train_tower_and_heads(model, align.weights)
            plan = plan_align(config, settings(), align, STEP)
        assert plan.parameters == sum(p.numel() for p in model.parameters())
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert plan.trained == trained
        assert plan.gradients == 4 * trained
        assert plan.tokens == (4 * 64 if describe else 4 * 96)


def test_fewer_bits_and_checkpointing_take_less():
    config = small_config()
    rows = largest_batches(config, settings(), replace(STEP, bf16=True))
    assert len(rows) == 6
    by = {(r["base_precision"], r["gradient_checkpointing"]): r for r in rows}
    for size in ("16 GB", "24 GB", "80 GB", "141 GB"):
        assert by["bfloat16", True][size] > by["bfloat16", False][size] > 0
        assert by["4bit", False][size] >= by["bfloat16", False][size]
    assert by["bfloat16", False]["24 GB"] > by["bfloat16", False]["16 GB"]
    plans = {
        p: plan_describe(config, settings(base_precision=p), STEP)
        for p in ("float32", "bfloat16", "8bit", "4bit")
    }
    weights = [plan.weights for plan in plans.values()]
    assert weights == sorted(weights, reverse=True)
    assert len(set(weights)) == 4


def test_the_largest_batch_fits_and_few_more_do_not(monkeypatch):
    """Where the optimizer takes more than the activations of a few dialogues."""
    config, held = small_config(), settings(lora_rank=128)
    step = replace(STEP, length=64, checkpointing=True, bf16=True)
    peaks = {
        batch: plan_describe(config, held, replace(step, batch=batch)).peak
        for batch in (1, 2, 64, 65)
    }
    assert peaks[2] - peaks[1] < 0.5 * (peaks[65] - peaks[64])
    monkeypatch.setattr("vlm.plan.DEVICES", (1.3,))
    row = largest_batches(config, held, step)[1]  # float32, checkpointed
    batch = row["1.3 GB"]
    fits, more = (
        plan_describe(config, held, replace(step, batch=n)).needed
        for n in (batch, int(1.1 * batch) + 5)
    )
    assert fits <= 1.3 < more


def test_a_plan_is_printed_without_data_or_weights_or_a_gpu(tmp_path):
    small_config().text_config.save_pretrained(tmp_path / "language")  # no weights there
    words = "--language_model language --backbone packaged:efficientnet-lite0 --plan true"
    arguments = ("--config", ROOT / "configs" / "smolvlm_2b.yaml", *words.split(" "))
    code, printed = run_script("train_lora", *arguments, cwd=tmp_path)
    assert code == 0, printed[-3000:]
    for words in ("tokens a step", "fits: 16 GB yes", "per_device_train_batch_size", "4bit"):
        assert words in printed
    assert {path.name for path in tmp_path.iterdir()} == {"language", "printed.txt"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine's GPU takes bf16")
def test_training_in_bf16_is_still_refused_without_a_gpu(tmp_path):
    config = ROOT / "configs" / "smolvlm_2b.yaml"
    code, printed = run_script("train_lora", "--config", config, cwd=tmp_path)
    assert code == 2, printed[-3000:]
    assert "use_cpu" in printed.splitlines()[-1]
