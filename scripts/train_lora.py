"""Train MorphoCLIP: phase align, then phase describe.

accelerate launch scripts/train_lora.py --config configs/quickstart.yaml
accelerate launch scripts/train_lora.py --config configs/quickstart.yaml --phase describe
python scripts/train_lora.py --config configs/quickstart.yaml --plan true

With no arguments it trains the embedded default (configs/quickstart.yaml), simulating and
preparing its plates first where they are missing. A run that was interrupted goes on when the
same command is given again, exactly as if it had not been; a phase that is finished is not
repeated. docs/scaling.md says how to run it on one GPU, many, or a laptop.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from _cli import parse_config, run_main
from _launch import join_processes, own_deepspeed_settings
from _train_config import RunningConfig, TrainConfig
from _train_data import captions_file, describe_examples, record_training_text
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from transformers import AutoProcessor, set_seed
from transformers.training_args import OptimizerNames

from captions.descriptions import CHANGES, STRENGTHS, subject
from captions.effects import EFFECT_COLUMNS
from captions.facts import CLEAR_EFFECT, FACT_SLOTS, STRONG_EFFECT
from captions.lessons import TOLD_EFFECT
from captions.slots import needed_stains
from contrastive.configuration import AlignConfig
from contrastive.plan import plan_text
from contrastive.trainer import align
from data.channels import CHANNELS, STAINS
from data.errors import InputError
from data.store import load_manifest
from vlm.adapters import (
    ALIGN,
    DESCRIBE,
    adapter_state,
    bare,
    find_model,
    load_base,
    load_model,
    save_adapter,
    save_aligned,
    save_base,
)
from vlm.assembly import build_model
from vlm.instruct import KEY, train_describe
from vlm.lora import LoraSettings, add_adapter, lora_config
from vlm.model_config import model_config
from vlm.pixels import backbone_learns, with_pixels
from vlm.plan import Step
from vlm.runs import forget_unfinished, recorded_seconds, start_run
from vlm.soft_words import begin_with_words
from vlm.wells import fit_reference, open_wells

ROOT = Path(__file__).resolve().parent.parent
SUBJECTS = list(dict.fromkeys(subject(slot) for slot in FACT_SLOTS))
READOUT_GROUPS = [SUBJECTS.index(subject(slot)) for slot in FACT_SLOTS]
READOUT_STAINS = [needed_stains(slot) for slot in FACT_SLOTS]
CHANGES_OF_SLOTS = [
    (CHANGES[slot.property, "increased"], CHANGES[slot.property, "decreased"])
    for slot in FACT_SLOTS
]
STRONGER_EFFECTS = np.array([CLEAR_EFFECT, STRONG_EFFECT])
DEFAULT_CONFIG = ROOT / "configs" / "quickstart.yaml"


def main() -> None:
    """Parse, make missing default data, run the phases."""
    default = len(sys.argv) == 1
    arguments = ["--config", str(DEFAULT_CONFIG)] if default else None
    config, lora, align_config, sft = parse_config(
        TrainConfig, LoraSettings, AlignConfig, RunningConfig, arguments=arguments
    )
    if default and not (Path(config.data) / "captions" / "dialogues.parquet").exists():
        subprocess.run(
            [sys.executable, ROOT / "scripts" / "run_quickstart.py", "--until", "captions"],
            check=True,
        )
    if sft.plan:
        print(plan(config, lora, align_config, sft))
        return
    out = Path(config.out)
    processes = join_processes(align_config, sft)
    os.environ.setdefault(
        "TENSORBOARD_LOGGING_DIR", str(tracked(out) / DESCRIBE)
    )  # for the Trainer
    if lora.quantized and sft.mixed_precision != "bf16":
        raise InputError(f"base_precision {lora.base_precision} computes in bf16: set bf16: true")
    phases = [
        phase
        for phase in (ALIGN, DESCRIBE)
        if config.phase in (phase, "both") and not (out / "model" / phase).is_dir()
    ]
    if phases and processes.is_main_process:
        captions_file(config.data, "dialogues")
        if ALIGN not in phases:
            find_model(out)
        if not config.resume:
            forget_unfinished(out)
        settings = vars(config) | vars(lora) | vars(align_config) | sft.to_dict()
        base = {"language model": config.language_model, "backbone": config.backbone}
        start_run(out, settings, base, processes.num_processes)
    processes.wait_for_everyone()
    for phase in phases:
        with recorded_seconds(out, phase), own_deepspeed_settings(processes):
            if phase == ALIGN:
                run_align(config, lora, align_config, sft)
            else:
                run_describe(config, lora, sft, processes)
            if processes.is_main_process:
                label = align_config.align_label_column
                record_training_text(config, label, keep=phase == DESCRIBE)
    processes.print(f"model: {out / 'model'}")


def plan(
    config: TrainConfig, lora: LoraSettings, align_config: AlignConfig, sft: RunningConfig
) -> str:
    """Say what this training needs, without loading weights."""
    store = Path(config.data) / "manifest.json"
    channels = load_manifest(config.data).channels if store.exists() else CHANNELS
    model = model_config(**model_parts(config, channels))
    step = Step(
        batch=sft.per_device_train_batch_size,
        length=sft.max_length or 1024,
        checkpointing=sft.gradient_checkpointing,
        bf16=sft.mixed_precision == "bf16",
        small_optimizer="8bit" in OptimizerNames(sft.optim).value,
        accumulates=sft.gradient_accumulation_steps > 1,
    )
    return plan_text(model, lora, align_config, step)


def model_parts(config: TrainConfig, channels: Sequence[str]) -> dict[str, Any]:
    """What a model is made of, for building it and for planning it."""
    return {
        "language_model": config.language_model,
        "backbone": config.backbone,
        "channels": tuple(channels),
        "num_text_layers": config.num_text_layers,
        "stem": config.stem,
        "backbone_layers": config.backbone_layers,
        "text_encoder": config.text_encoder,
        "hidden_size": config.hidden_size,
        "readout_groups": READOUT_GROUPS,
        "readout_stains": READOUT_STAINS,
        "num_latents": config.num_latents,
        "feature_dropout": config.feature_dropout,
    }


def run_align(
    config: TrainConfig,
    lora: LoraSettings,
    align_config: AlignConfig,
    sft: RunningConfig,
) -> None:
    """Build a model, train its tower, heads and `align` adapter, write the model folder."""
    out = Path(config.out)
    accelerator = Accelerator(  # of this phase only: it holds models and optimizers
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],  # no prompts
        log_with=[name for name in sft.report_to or () if name in LOGGER_TYPE_TO_CLASS] or None,
        project_dir=tracked(out),
    )
    base = out / "base"
    with accelerator.main_process_first():
        if not base.is_dir():
            set_seed(sft.seed)
            write_base(config, accelerator.device, base)
        model = load_base(base, lora.base_precision, accelerator.device)
        processor = AutoProcessor.from_pretrained(base)
        bank = open_wells(config.data, model, processor).query(config.train_query)
    shifts = pd.read_parquet(captions_file(config.data, "shifts"))
    shifts = bank.wells[KEY].merge(shifts, on=KEY, how="left")[list(EFFECT_COLUMNS)]
    prompts = pd.read_parquet(captions_file(config.data, "prompts"))
    if sft.gradient_checkpointing:
        model.model.language_model.gradient_checkpointing_enable({"use_reentrant": False})
    set_seed(sft.seed)  # whether or not the base was made just now
    peft_model = add_adapter(model, ALIGN, lora_config(lora, describe=False))
    if backbone_learns(model):
        bank = with_pixels(
            bank,
            config.data,
            processor,
            align_config.align_sites_per_well,
            align_config.align_controls_per_plate,
        )
        if sft.gradient_checkpointing:
            backbone = model.model.vision_tower.backbone
            backbone.gradient_checkpointing_enable({"use_reentrant": False})
    start = adapter_state(peft_model, ALIGN) if lora.pissa else None
    accelerator.init_trackers(ALIGN)
    state = align(
        peft_model,
        processor.prompt_tokenizer,
        bank,
        prompts,
        shifts.to_numpy(np.float32),
        align_config,
        out,
        sft.seed,
        accelerator,
    )
    if accelerator.is_main_process:
        shutil.rmtree(describe_checkpoints(out), ignore_errors=True)  # an older model's
        save_aligned(base, peft_model, processor, out / "model", state, start)
        forget_unfinished(out)  # last: until the model is whole a run can go on from there
    accelerator.wait_for_everyone()


def write_base(config: TrainConfig, device: torch.device, folder: Path) -> None:
    """Build the untrained model, fit its reference to the training wells, write it."""
    parts = model_parts(config, load_manifest(config.data).channels)
    model, processor = build_model(**parts, image_size=config.image_size)
    model.to(device)
    fit_reference(model, open_wells(config.data, model, processor).query(config.train_query))
    save_base(model, processor, folder)


def run_describe(
    config: TrainConfig, lora: LoraSettings, sft: RunningConfig, processes: AcceleratorState
) -> None:
    """Train the `describe` adapter of the run's model and put it into the model folder."""
    folder = Path(config.out) / "model"
    model, processor = load_model(folder, lora.base_precision, processes.device)
    with processes.main_process_first():
        bank = open_wells(config.data, bare(model), processor).query(config.train_query)
    tokens, dialogues = describe_examples(config, sft.seed, model, bank)
    set_seed(sft.seed)
    begin_with_words(
        bare(model),
        processor.tokenizer,
        SUBJECTS,
        CHANGES_OF_SLOTS,
        told_from=np.arcsinh(TOLD_EFFECT / 2),
        strengths=list(zip(STRENGTHS[1:], np.arcsinh(STRONGER_EFFECTS / 2), strict=True)),
        stains=STAINS,
    )
    model = add_adapter(model, DESCRIBE, lora_config(lora, describe=True))
    start = adapter_state(model, DESCRIBE) if lora.pissa else None
    sft.output_dir = str(describe_checkpoints(Path(config.out)))
    state = train_describe(model, processor, tokens, dialogues, sft)
    if processes.is_main_process:
        save_adapter(model, DESCRIBE, folder, state, start)
        shutil.rmtree(describe_checkpoints(Path(config.out)))  # a new model must not use these
    processes.wait_for_everyone()


def tracked(out: Path) -> Path:
    """Where TensorBoard finds the curves of both phases."""
    return out / "tensorboard"


def describe_checkpoints(out: Path) -> Path:
    """Where phase describe keeps what it needs to go on after an interruption."""
    return out / "describe_checkpoints"


if __name__ == "__main__":
    run_main(main)
