"""The bytes that torch's allocator hands out in real steps of both phases."""

import copy
import json
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator
from peft import PeftModel
from torch.optim.swa_utils import AveragedModel
from torch.profiler import ProfilerActivity, profile, record_function
from transformers.initialization import no_init_weights

from contrastive.align_model import AlignModel
from contrastive.configuration import AlignConfig
from contrastive.gradient_cache import backward_in_chunks, split_rows
from contrastive.objective import Truth, align_losses
from contrastive.trainer import Wells, _optimizer, _parameter_groups, train_tower_and_heads
from vlm import CellPaintingVlmConfig, CellPaintingVlmForConditionalGeneration
from vlm.adapters import bare, load_base
from vlm.lora import LoraSettings, add_adapter, lora_config, unquantized_modules
from vlm.plan import Step

STEPS = "two steps"


class Measured(NamedTuple):
    """Bytes: what a model holds before its first step, and the most in two steps."""

    weights: int
    peak: int


def measured_describe(
    config: CellPaintingVlmConfig, settings: LoraSettings, step: Step, answer: int, scratch: Path
) -> Measured:
    """Train two real steps of phase describe, in a process that has made no tensors before.

    The weights are without a meaning.

    Parameters
    ----------
    config : CellPaintingVlmConfig
    settings : LoraSettings
    step : Step
    answer : int
        Tokens of an answer.
    scratch : Path
        A folder for the profiler's trace, and for a base that is to be quantised.
    """

    def build() -> Callable[[], None]:
        model = _adapted(config, settings, step, scratch, describe=True)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, foreach=False)
        ids = torch.full((step.batch, step.length), 5)
        ids[:, : config.image_seq_length] = config.image_token_index
        labels = ids.clone()
        labels[:, :-answer] = -100
        tokens = torch.zeros(step.batch, config.image_seq_length, config.vision_config.hidden_size)
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}

        def one_step() -> None:
            for _ in range(2 if step.accumulates else 1):
                with torch.autocast("cpu", torch.bfloat16, enabled=step.bf16):
                    loss = model(**batch, well_tokens=tokens, use_cache=False).loss
                loss.backward()
                del loss
            optimizer.step()
            optimizer.zero_grad()

        return one_step

    return _measure(build, scratch)


def measured_align(
    config: CellPaintingVlmConfig,
    settings: LoraSettings,
    align: AlignConfig,
    step: Step,
    scratch: Path,
    sites: int = 4,
) -> Measured:
    """Train two real steps of phase align, both with prompts, as `contrastive.trainer` does.

    In a process that has made no tensors before, too.

    Parameters
    ----------
    config, settings, step, scratch
        As above; of `step`, batch and length do not matter.
    align : AlignConfig
    sites : int
        Of a well.
    """

    def build() -> Callable[[], None]:
        model = _adapted(config, settings, step, scratch, describe=False)
        train_tower_and_heads(model, align.weights)
        accelerator = Accelerator(cpu=True, mixed_precision="bf16" if step.bf16 else "no")
        trained = AlignModel(model, align.weights)
        groups = _parameter_groups(trained, align)
        optimizer = _optimizer(groups, align.align_optimizer)
        trained, optimizer = accelerator.prepare(trained, optimizer)
        learnt = torch.nn.ParameterList(p for p in trained.parameters() if p.requires_grad)
        average = AveragedModel(learnt) if align.align_ema_decay else None
        chunks = math.ceil(align.wells / (align.align_chunk_wells or align.wells))
        losses_of = partial(
            align_losses,
            truth=_truth(config, align),
            weights=align.weights,
            temperature=align.align_temperature,
        )
        read = partial(_read_chunks, model, align, sites, chunks)

        def one_step() -> None:
            optimizer.zero_grad()
            backward_in_chunks(trained, read, chunks, losses_of, accelerator)
            accelerator.clip_grad_norm_(trained.parameters(), 1.0)
            optimizer.step()
            if average is not None:
                average.update_parameters(learnt)

        return one_step

    return _measure(build, scratch)


def _measure(build: Callable[[], Callable[[], None]], scratch: Path) -> Measured:
    """Build a model and take two steps.

    The peak is what `torch.cuda.max_memory_allocated` says of a GPU. Resident memory also holds
    the libraries, their workspaces, and what the C allocator keeps: that depends on the machine.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        one_step = build()
        with record_function(STEPS):
            for _ in range(2):
                one_step()
    profiler.export_chrome_trace(str(scratch / "trace.json"))
    events = json.loads((scratch / "trace.json").read_text())["traceEvents"]
    started = next(event["ts"] for event in events if event["name"] == STEPS)
    held = sorted(
        (event["ts"], event["args"]["Total Allocated"])
        for event in events
        if event["name"] == "[memory]"
    )
    return Measured(
        weights=[size for time, size in held if time < started][-1],
        peak=max(size for time, size in held if time >= started),
    )


def _adapted(
    config: CellPaintingVlmConfig,
    settings: LoraSettings,
    step: Step,
    scratch: Path,
    describe: bool,
) -> PeftModel:
    """Build a base with a phase's adapter on it, ready to learn."""
    model = _unlearnt(config, "bfloat16" if settings.quantized else settings.base_precision)
    if settings.quantized:
        # Of another type than the loaded one: what is only mapped from the file is not counted.
        model.bfloat16().save_pretrained(scratch / "base")
        del model
        model = load_base(scratch / "base", settings.base_precision)
    adapted = add_adapter(model, "measured", lora_config(settings, describe)).train()
    if step.checkpointing:
        language_model = adapted.get_base_model().model.language_model
        language_model.gradient_checkpointing_enable({"use_reentrant": False})
    return adapted


def _unlearnt(
    config: CellPaintingVlmConfig, precision: str
) -> CellPaintingVlmForConditionalGeneration:
    """Build a model as `vlm.adapters.load_base` loads one; to draw billions of weights is slow."""
    with no_init_weights():
        model = CellPaintingVlmForConditionalGeneration._from_config(
            copy.deepcopy(config), dtype=getattr(torch, precision)
        )
    model.tie_weights()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.01)
    for name in unquantized_modules(model):
        if name != "lm_head":
            model.get_submodule(name).float()
    return model


def _read_chunks(
    model: PeftModel, align: AlignConfig, sites: int, count: int
) -> Iterator[tuple[Wells, Wells]]:
    """Give wells and prompts of a batch chunk by chunk, as a bank reads them."""
    tower = bare(model).model.vision_tower
    channels, features = len(tower.config.channels), tower.reference_center.shape[1]
    targets = min(align.align_prompt_targets, align.align_num_targets)
    prompts = align.align_reagents_per_target * targets
    for rows, told in zip(split_rows(align.wells, count), split_rows(prompts, count), strict=True):
        N, R = rows.stop - rows.start, told.stop - told.start
        ids = torch.full((R, align.align_max_prompt_tokens), 5)
        yield (
            {
                "channel_features": torch.zeros(N, sites, channels, features),
                "control_features": torch.zeros(N, 1, channels, features),
                "channel_mask": torch.ones(N, channels, dtype=torch.bool),
            },
            {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        )


def _truth(config: CellPaintingVlmConfig, align: AlignConfig) -> Truth:
    """Say of a batch's wells what the losses ask."""
    N = align.wells
    return Truth(
        labels=torch.ones(N, 1),
        reagents=torch.arange(N) // 2,
        plates=torch.arange(N) % 2,
        shifts=torch.zeros(N, len(config.vision_config.readout_groups)),
        reagents_per_label=align.align_reagents_per_target,
    )
