"""Train MorphoCLIP: phase align, then phase describe.

accelerate launch scripts/train_lora.py --config configs/quickstart.yaml
accelerate launch scripts/train_lora.py --config configs/quickstart.yaml --phase describe

With no arguments it trains the embedded default (configs/quickstart.yaml), simulating and
preparing its plates first where they are missing. A run that was interrupted goes on when the
same command is given again; a phase that is finished is not repeated.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from _cli import parse_config, run_main
from accelerate import Accelerator, DistributedDataParallelKwargs
from transformers import set_seed
from trl import SFTConfig

from captions.descriptions import CHANGES, subject
from captions.facts import EFFECT_COLUMNS, FACT_SLOTS
from captions.lessons import draw_lessons
from contrastive.trainer import AlignConfig, align
from data.errors import InputError
from data.files import atomic_path
from data.store import load_manifest, load_wells
from eval.leaks import TRAINING_TEXT, collect_training_text
from vlm.adapters import (
    ALIGN,
    DESCRIBE,
    Vlm,
    add_adapter,
    bare,
    load_model,
    lora_config,
    save_adapter,
    save_base,
)
from vlm.instruct import rows_of_wells, train_describe, well_readouts, well_tokens
from vlm.pretrained import PACKAGED_BACKBONE, PACKAGED_LANGUAGE_MODEL, build_model
from vlm.soft_words import begin_with_words
from vlm.wells import WellBank, fit_reference, open_wells

ROOT = Path(__file__).resolve().parent.parent
SUBJECTS = list(dict.fromkeys(subject(slot) for slot in FACT_SLOTS))
READOUT_GROUPS = [SUBJECTS.index(subject(slot)) for slot in FACT_SLOTS]
"""A token for each subject that descriptions speak about: what it says is in one place."""
CHANGES_OF_SLOTS = [
    (CHANGES[slot.property, "increased"], CHANGES[slot.property, "decreased"])
    for slot in FACT_SLOTS
]
KEY = ["Metadata_Plate", "Metadata_Well"]
DEFAULT_CONFIG = ROOT / "configs" / "quickstart.yaml"


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
        default=PACKAGED_LANGUAGE_MODEL, metadata={"help": "packaged:NAME, a folder or a hub id"}
    )
    backbone: str = field(
        default=PACKAGED_BACKBONE, metadata={"help": "packaged:NAME or a timm model name"}
    )
    num_text_layers: int | None = field(
        default=None, metadata={"help": "keep only the first layers of the language model"}
    )
    image_size: int = field(default=128, metadata={"help": "side of the fields the backbone sees"})
    hidden_size: int = field(default=192, metadata={"help": "width of the tower's tokens"})
    lessons: int = field(
        default=4000, metadata={"help": "drawn readouts that phase describe learns to put in words"}
    )
    num_latents: int = field(
        default=4, metadata={"help": "queries of the cross-channel transformer"}
    )
    feature_dropout: float = field(default=0.3, metadata={"help": "on backbone features"})
    lora_rank: int = field(default=16, metadata={"help": "rank of both adapters"})
    lora_alpha: int = field(default=32, metadata={"help": "LoRA's scale, alpha / rank"})
    lora_dropout: float = field(default=0.05, metadata={"help": "on LoRA's input"})
    lora_target_modules: str = field(
        default=r".*language_model.*\.(q|k|v|o|gate|up|down)_proj",
        metadata={"help": "regular expression that matches whole module names"},
    )

    def __post_init__(self) -> None:
        if self.phase not in ("align", "describe", "both"):
            raise InputError(f"phase is {self.phase!r}; expected align, describe or both")


def main() -> None:
    """Parse, make missing default data, run the phases."""
    default = len(sys.argv) == 1
    arguments = ["--config", str(DEFAULT_CONFIG)] if default else None
    config, align_config, describe_config = parse_config(
        TrainConfig, AlignConfig, SFTConfig, arguments=arguments
    )
    if default and not (Path(config.data) / "captions" / "dialogues.parquet").exists():
        subprocess.run(
            [sys.executable, ROOT / "scripts" / "run_quickstart.py", "--until", "captions"],
            check=True,
        )
    ddp = DistributedDataParallelKwargs(find_unused_parameters=True)  # steps without prompts
    accelerator = Accelerator(cpu=describe_config.use_cpu, kwargs_handlers=[ddp])
    set_seed(describe_config.seed)
    model_folder = Path(config.out) / "model"
    if config.phase in ("align", "both") and not (model_folder / ALIGN).is_dir():
        with recorded_seconds(config.out, ALIGN):
            run_align(config, align_config, describe_config.seed, accelerator)
            if accelerator.is_main_process:
                record_training_text(config, align_config.align_label_column, keep=False)
    if config.phase in ("describe", "both") and not (model_folder / DESCRIBE).is_dir():
        with recorded_seconds(config.out, DESCRIBE):
            run_describe(config, describe_config)
            if accelerator.is_main_process:
                record_training_text(config, align_config.align_label_column, keep=True)
    accelerator.print(f"model: {model_folder}")


def run_align(
    config: TrainConfig, align_config: AlignConfig, seed: int, accelerator: Accelerator
) -> None:
    """Build a model, train its tower, heads and `align` adapter, write the model folder."""
    manifest = load_manifest(config.data)
    model, processor = build_model(
        config.language_model,
        config.backbone,
        tuple(manifest.channels),
        config.num_text_layers,
        config.image_size,
        hidden_size=config.hidden_size,
        readout_groups=READOUT_GROUPS,
        num_latents=config.num_latents,
        feature_dropout=config.feature_dropout,
    )
    model.to(accelerator.device)
    bank = open_wells(config.data, model, processor).query(config.train_query)
    fit_reference(model, bank)
    effects = pd.read_parquet(captions_file(config.data, "effects"))
    effects = bank.wells[KEY].merge(effects, on=KEY, how="left")[list(EFFECT_COLUMNS)]
    prompts = pd.read_parquet(captions_file(config.data, "prompts"))
    peft_model = add_adapter(model, ALIGN, _lora(config, projector=False))
    align(
        peft_model,
        processor.tokenizer,
        bank,
        prompts,
        effects.to_numpy(np.float32),
        align_config,
        Path(config.out),
        seed,
        accelerator,
    )
    if accelerator.is_main_process:
        folder = Path(config.out) / "model"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(describe_checkpoints(config.out), ignore_errors=True)  # an older model's
        scratch = Path(config.out) / ".align"
        save_adapter(peft_model, ALIGN, scratch)
        save_base(peft_model.unload(), processor, folder)
        (scratch / ALIGN).rename(folder / ALIGN)  # last: its presence says the phase is finished
        scratch.rmdir()
    accelerator.wait_for_everyone()


def run_describe(config: TrainConfig, describe_config: SFTConfig) -> None:
    """Train the `describe` adapter of the run's model and put it into the model folder."""
    folder = Path(config.out) / "model"
    model, processor = load_model(folder)
    bank = open_wells(config.data, bare(model), processor).query(config.train_query)
    tokens, dialogues = describe_examples(config, describe_config.seed, model, bank)
    begin_with_words(bare(model), processor.tokenizer, SUBJECTS, CHANGES_OF_SLOTS)
    model = add_adapter(model, DESCRIBE, _lora(config, projector=True))
    describe_config.output_dir = str(describe_checkpoints(config.out))
    train_describe(
        model,
        processor,
        tokens,
        dialogues,
        describe_config,
    )
    if describe_config.process_index == 0:
        save_adapter(model, DESCRIBE, folder)
        shutil.rmtree(describe_checkpoints(config.out))  # a new model must not go on from these


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
    channels = load_manifest(config.data).channels
    imaged = [
        [stain for stain, is_there in zip(channels, mask, strict=True) if is_there]
        for mask in bank.channel_mask
    ]
    lessons, readouts = draw_lessons(well_readouts(model, bank), imaged, config.lessons, seed)
    tower = bare(model).model.vision_tower
    drawn = tower.with_readout(tokens[lessons["well"]], torch.from_numpy(readouts))
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
    tables = [
        pd.read_parquet(captions_file(config.data, name))
        for name in ("prompts", "dialogues", "reagents")
    ]
    seen = collect_training_text(wells, *tables, label_column)
    path = Path(config.out) / TRAINING_TEXT
    if keep and path.is_file():
        seen = pd.concat([pd.read_parquet(path), seen]).drop_duplicates()
    with atomic_path(path) as temporary:
        seen.to_parquet(temporary, index=False)


def describe_checkpoints(out: str) -> Path:
    """Where phase describe keeps what it needs to go on after an interruption."""
    return Path(out) / "describe_checkpoints"


@contextmanager
def recorded_seconds(out: str, phase: str) -> Iterator[None]:
    """Add what a phase took to OUT/train_seconds.json."""
    started = time.monotonic()
    yield
    path = Path(out) / "train_seconds.json"
    seconds = json.loads(path.read_text()) if path.exists() else {}
    seconds[phase] = round(time.monotonic() - started, 1)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(seconds))


def captions_file(data: str, name: str) -> Path:
    """Find a captions table of a prepared store."""
    load_wells(data)  # says it clearly when this is no prepared store
    path = Path(data) / "captions" / f"{name}.parquet"
    if not path.is_file():
        raise InputError(f"{path} is missing: run scripts/build_captions.py --data {data}")
    return path


def _lora(config: TrainConfig, projector: bool):
    return lora_config(
        config.lora_rank,
        config.lora_alpha,
        config.lora_dropout,
        config.lora_target_modules,
        projector,
    )


if __name__ == "__main__":
    run_main(main)
