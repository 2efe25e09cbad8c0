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
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from _cli import parse_config, run_main
from _launch import join_processes, own_deepspeed_settings
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from transformers import AutoProcessor, set_seed
from transformers.training_args import OptimizerNames
from trl import SFTConfig

from captions.descriptions import CHANGES, STRENGTHS, subject
from captions.effects import EFFECT_COLUMNS
from captions.facts import CLEAR_EFFECT, FACT_SLOTS, STRONG_EFFECT
from captions.lessons import TOLD_EFFECT, draw_lessons
from captions.slots import needed_stains
from contrastive.configuration import AlignConfig
from contrastive.plan import plan_text
from contrastive.trainer import align
from data.channels import CHANNELS, STAINS
from data.errors import InputError
from data.files import atomic_path
from data.store import load_manifest, load_wells
from eval.leaks import TRAINING_TEXT, collect_training_text
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
from vlm.instruct import rows_of_wells, train_describe, well_readouts, well_tokens
from vlm.lora import LoraSettings, Vlm, add_adapter, lora_config
from vlm.model_config import model_config
from vlm.pixels import backbone_learns, with_pixels
from vlm.plan import Step
from vlm.pretrained import (
    PACKAGED_BACKBONE,
    PACKAGED_LANGUAGE_MODEL,
    PACKAGED_TEXT_ENCODER,
    build_model,
)
from vlm.runs import forget_unfinished, recorded_seconds, start_run
from vlm.soft_words import begin_with_words
from vlm.wells import WellBank, fit_reference, open_wells

ROOT = Path(__file__).resolve().parent.parent
SUBJECTS = list(dict.fromkeys(subject(slot) for slot in FACT_SLOTS))
READOUT_GROUPS = [SUBJECTS.index(subject(slot)) for slot in FACT_SLOTS]
READOUT_STAINS = [needed_stains(slot) for slot in FACT_SLOTS]
CHANGES_OF_SLOTS = [
    (CHANGES[slot.property, "increased"], CHANGES[slot.property, "decreased"])
    for slot in FACT_SLOTS
]
STRONGER_EFFECTS = np.array([CLEAR_EFFECT, STRONG_EFFECT])
KEY = ["Metadata_Plate", "Metadata_Well"]
DEFAULT_CONFIG = ROOT / "configs" / "quickstart.yaml"


@dataclass
class RunningConfig(SFTConfig):
    """TRL's settings of phase describe; seed, precision and tracking are both phases'."""

    plan: bool = field(
        default=False, metadata={"help": "only print parameters, memory and tokens a step"}
    )
    report_to: None | str | list[str] = field(  # noqa: RUF036  # the order that TRL parses
        default=None,
        metadata={"help": "trackers of both phases; by default tensorboard where it is installed"},
    )

    def __post_init__(self) -> None:
        if self.report_to is None:
            self.report_to = "tensorboard" if find_spec("tensorboard") else "none"
        if self.plan:
            self.use_cpu = True  # without a GPU bf16 is refused, which only training has to be
        super().__post_init__()


@dataclass
class TrainConfig:
    """What to train, on what, and where it goes."""

    data: str = field(metadata={"help": "prepared store with captions"})
    out: str = field(metadata={"help": "run folder; the model goes to OUT/model"})
    phase: str = field(default="both", metadata={"help": "align, describe or both"})
    train_query: str = field(
        default="Metadata_split == 'train'",
        metadata={"help": "pandas query on wells: those that training sees, in both phases"},
    )
    language_model: str = field(
        default=PACKAGED_LANGUAGE_MODEL,
        metadata={"help": "a language model or a VLM: packaged:NAME, a folder or a hub id"},
    )
    backbone: str = field(
        default=PACKAGED_BACKBONE,
        metadata={
            "help": "base (the VLM's own vision tower), packaged:NAME, a timm model, a folder or "
            "a hub id"
        },
    )
    backbone_layers: list[int] | None = field(
        default=None, metadata={"help": "its feature maps; three of them by default"}
    )
    text_encoder: str | None = field(
        default=None,
        metadata={
            "help": "what reads prompts in place of the language model, itself frozen: "
            f"{PACKAGED_TEXT_ENCODER}, a folder or a hub id"
        },
    )
    stem: str = field(
        default="shared",
        metadata={"help": "shared: it sees every channel by itself; inflated: all together"},
    )
    num_text_layers: int | None = field(
        default=None,
        metadata={"help": "keep only so many layers of the language model, most of them upper"},
    )
    image_size: int = field(default=128, metadata={"help": "side of the fields the backbone sees"})
    hidden_size: int = field(default=192, metadata={"help": "width of the tower's tokens"})
    lessons: int = field(
        default=4000, metadata={"help": "drawn readouts that phase describe learns to put in words"}
    )
    measured_dialogues: int | None = field(
        default=None,
        metadata={
            "help": "so many dialogues about training wells are learned from; all by default"
        },
    )
    num_latents: int = field(
        default=4, metadata={"help": "queries of the cross-channel transformer"}
    )
    feature_dropout: float = field(default=0.3, metadata={"help": "on backbone features"})
    resume: bool = field(
        default=True, metadata={"help": "go on where an interrupted run stopped; false begins anew"}
    )

    def __post_init__(self) -> None:
        if self.phase not in ("align", "describe", "both"):
            raise InputError(f"phase is {self.phase!r}; expected align, describe or both")
        if self.stem not in ("shared", "inflated"):
            raise InputError(f"stem is {self.stem!r}; expected shared or inflated")


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


def describe_examples(
    config: TrainConfig, seed: int, model: Vlm, bank: WellBank
) -> tuple[torch.Tensor, pd.DataFrame]:
    """Collect what phase describe learns from: dialogues about training wells, drawn lessons.

    Returns
    -------
    tokens : (n_wells + lessons, T, D) float Tensor
    dialogues : DataFrame
        well (row of `tokens`), question, answer.
    """
    tokens = well_tokens(model, bank)
    measured = pd.read_parquet(captions_file(config.data, "dialogues")).merge(bank.wells[KEY])
    if config.measured_dialogues is not None:
        few = min(config.measured_dialogues, len(measured))
        measured = measured.sample(few, random_state=seed)
    manifest = load_manifest(config.data)
    imaged = [manifest.imaged_stains(barcode) for barcode in bank.wells["Metadata_Plate"]]
    lessons, readouts = draw_lessons(well_readouts(model, bank), imaged, config.lessons, seed)
    tower = bare(model).model.vision_tower
    left = [[stain in imaged for stain in manifest.channels] for imaged in lessons.pop("imaged")]
    drawn = tower.with_readout(
        tokens[lessons["well"].to_numpy()], torch.from_numpy(readouts), torch.tensor(left)
    )
    lessons["well"] = np.arange(len(lessons)) + len(tokens)
    examples = [rows_of_wells(measured, bank.wells), lessons]
    return torch.cat([tokens, drawn]), pd.concat(examples, ignore_index=True)


def record_training_text(config: TrainConfig, label_column: str, keep: bool) -> None:
    """Write OUT/training_text.parquet: the texts and labels that training saw.

    Only where a phase was trained: captions that are built anew later must not replace what an
    earlier phase saw, which `keep` keeps. Drawn lessons are left out: they are made of the words
    of facts, which name no perturbation.
    """
    wells = load_wells(config.data).query(config.train_query)
    prompts, dialogues, reagents = (
        pd.read_parquet(captions_file(config.data, name))
        for name in ("prompts", "dialogues", "reagents")
    )
    seen = collect_training_text(wells, prompts, dialogues, reagents, label_column)
    path = Path(config.out) / TRAINING_TEXT
    if keep and path.is_file():
        seen = pd.concat([pd.read_parquet(path), seen]).drop_duplicates()
    with atomic_path(path) as temporary:
        seen.to_parquet(temporary, index=False)


def tracked(out: Path) -> Path:
    """Where TensorBoard finds the curves of both phases."""
    return out / "tensorboard"


def describe_checkpoints(out: Path) -> Path:
    """Where phase describe keeps what it needs to go on after an interruption."""
    return out / "describe_checkpoints"


def captions_file(data: str, name: str) -> Path:
    """Find a captions table of a prepared store."""
    load_wells(data)  # says it clearly when this is no prepared store
    path = Path(data) / "captions" / f"{name}.parquet"
    if not path.is_file():
        raise InputError(f"{path} is missing: run scripts/build_captions.py --data {data}")
    return path


if __name__ == "__main__":
    run_main(main)
