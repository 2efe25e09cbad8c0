"""The plan says before training what training then takes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from measured import measured_peak
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


def write_measured(config: CellPaintingVlmConfig, held: LoraSettings, step: Step, out: Path):
    torch.set_num_threads(1)
    (out / "bytes").write_text(str(measured_peak(config, held, step, ANSWER, out)))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_planned_peak_is_the_measured_one(tmp_path, precision, checkpointing):
    held, bf16 = settings(base_precision=precision), precision == "bfloat16"
    config, step = small_config(), replace(STEP, checkpointing=checkpointing, bf16=bf16)
    planned = plan_describe(config, held, step, ANSWER).peak
    process = FORK.Process(target=write_measured, args=(config, held, step, tmp_path))
    process.start()
    process.join()
    measured = int((tmp_path / "bytes").read_text())
    print(f"planned {planned / 1e6:.1f} MB, measured {measured / 1e6:.1f} MB")
    assert planned == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize(
    ("checkpointing", "changed"),
    [(False, {}), (True, {"base_precision": "4bit"}), (True, {"lora_rank": 64})],
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
            train_tower_and_heads(model)
            align = AlignConfig(align_num_targets=2, align_prompt_targets=2)
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
