"""How fast both phases train, against the plain way: every step through the vision tower.

    python benchmarks/training_speed.py
    python benchmarks/training_speed.py --language_model FOLDER --backbone base --device cuda

Same base, same wells, same dialogues, same optimizer steps, frozen backbone. "plain" is, for phase
describe, TRL's own SFTTrainer with its DataCollatorForVisionLanguageModeling: pixels go through
processor and tower in every step. For phase align it is our loop without kept features: pixels of
all sites of a batch's wells and of their plates' controls go through the backbone. "compiled" is
phase describe with `torch_compile`. Each measurement runs in a process of its own; the cost of
what is kept (the backbone's features and the tower's tokens, once a training) is told apart, and so
is that of compiling. On a CPU, seconds are those of the process on all its cores, so that other
programs do not count.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from contrastive.configuration import AlignConfig
from contrastive.trainer import align
from data.store import load_sites, read_pixels
from vlm.adapters import ALIGN, DESCRIBE, bare, load_model, save_base
from vlm.assembly import build_model
from vlm.instruct import encode_dialogues, train_describe, well_tokens
from vlm.lora import LoraSettings, add_adapter, lora_config
from vlm.pixels import with_pixels
from vlm.pretrained import PACKAGED_BACKBONE, PACKAGED_LANGUAGE_MODEL
from vlm.processing import CellPaintingProcessor
from vlm.wells import WellBank, fit_reference, open_wells

# The tests' small plates and prompts serve here too; tests/ is no package.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from helpers import write_tiff_plate, write_tiny_store
from test_align import prompts_of

QUESTION = "What changed in this well, compared with the controls of its plate?"
ANSWERS = (
    "No significant change from controls.",
    "Nuclei: clearly larger, less round. Mito: dimmer, more granular. Cell count: lower.",
    "ER: strongly brighter. RNA: more granular, clearly brighter. AGP: dimmer.",
)
SITES = 4
WAYS = {"describe": ("plain", "ours", "compiled"), "align": ("plain", "ours")}


def main() -> None:
    """Measure all, print the ratios."""
    options = parse()
    if options.measure:
        print(json.dumps(measure(options)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_inputs(options, folder)
        found = {}
        # Compiled here and now, and by no helper whose seconds would not count.
        fresh = {"TORCHINDUCTOR_CACHE_DIR": scratch, "TORCHINDUCTOR_COMPILE_THREADS": "1"}
        for phase, ways in WAYS.items():
            for way in ways:
                command = [sys.executable, __file__, *sys.argv[1:], "--folder", scratch]
                done = subprocess.run(
                    [*command, "--measure", f"{phase}-{way}"],
                    stdout=subprocess.PIPE,
                    check=True,
                    env=os.environ | fresh,
                )
                found[phase, way] = json.loads(done.stdout.splitlines()[-1])
    print(f"{'':18}{'s a step':>10}{'tokens/s':>10}{'wells/s':>10}{'peak GB':>10}{'once, s':>10}")
    for (phase, way), row in found.items():
        print(
            f"{phase:9}{way:9}{row['step']:10.3f}{row['tokens'] / row['step']:10.0f}"
            f"{row['wells'] / row['step']:10.1f}{row['peak']:10.2f}{row['once']:10.1f}"
        )
    for phase, (plain, *ours) in WAYS.items():
        for way in ours:
            ratio = found[phase, plain]["step"] / found[phase, way]["step"]
            print(f"{phase}, {way}: {ratio:.1f} times the throughput of the plain way")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--language_model", default=PACKAGED_LANGUAGE_MODEL)
    parser.add_argument("--backbone", default=PACKAGED_BACKBONE)
    parser.add_argument("--num_text_layers", type=int, default=8)
    parser.add_argument("--image_size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    return parser.parse_args()


def make_inputs(options: argparse.Namespace, folder: Path) -> None:
    """Draw two small plates, prepare them, build the model."""
    torch.manual_seed(0)
    for barcode in ("P1", "P2"):
        write_tiff_plate(folder / "raw", barcode, sites=SITES, size=2 * options.image_size)
    write_tiny_store(folder / "raw", folder / "prepared", size=options.image_size, measure=False)
    model, processor = build_model(
        options.language_model,
        options.backbone,
        num_text_layers=options.num_text_layers,
        image_size=options.image_size,
        readout_groups=list(range(8)),
    )
    fit_reference(model, open_wells(folder / "prepared", model, processor))
    save_base(model, processor, folder / "model")
    for cached in (folder / "prepared" / "cache").iterdir():
        cached.unlink()


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Train some steps: seconds, tokens and wells a step, peak GB, seconds that are paid once."""
    phase, way = options.measure.split("-")
    folder = Path(options.folder)
    model, processor = load_model(folder / "model")
    model.to(options.device)
    started = seconds_now(options)
    bank = open_wells(folder / "prepared", bare(model), processor)
    once = seconds_now(options) - started if way != "plain" else 0.0
    adapter = lora_config(LoraSettings(lora_dropout=0.0), describe=phase == "describe")
    model = add_adapter(model, DESCRIBE if phase == "describe" else ALIGN, adapter)
    run = measure_describe if phase == "describe" else measure_align
    row = run(model, processor, bank, way, options)
    peak = (
        torch.cuda.max_memory_allocated() / 2**30
        if options.device == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    )
    return {**row, "peak": peak, "once": once + row["once"]}


def seconds_now(options: argparse.Namespace) -> float:
    """Time that has passed; on a CPU, time that was worked."""
    return sum(os.times()[:4]) if options.device == "cpu" else time.monotonic()


def timed(seconds: Callable[[int], float], steps: int) -> dict[str, float]:
    """Tell the time of a step from that of starting, by training shorter and longer."""
    first = seconds(1)  # warms up, and compiles
    few, many = seconds(2), seconds(2 + steps)
    step = (many - few) / steps
    return {"step": step, "first": first - step, "once": max(0.0, few - 2 * step)}


def measure_describe(
    model, processor: CellPaintingProcessor, bank: WellBank, way: str, options: argparse.Namespace
) -> dict[str, float]:
    """Phase describe: with TRL as it is, or as we train."""
    dialogues = pd.DataFrame({"well": range(len(bank))}).assign(
        question=QUESTION, answer=[ANSWERS[row % len(ANSWERS)] for row in range(len(bank))]
    )
    encoded = encode_dialogues(dialogues, processor, None)
    sites = load_sites(Path(options.folder) / "prepared")

    def read(rows: dict[str, list]) -> dict[str, list]:
        images = [[read_pixels(sites, bank.sites_of[well])] for well in rows["well"]]
        return {"images": images, "prompt": rows["prompt"], "completion": rows["completion"]}

    table = [
        {
            "well": dialogue["well"],
            "prompt": processor.ask(dialogue["question"]),
            "completion": dialogue["answer"] + processor.end_of_answer,
        }
        for dialogue in dialogues.to_dict("records")
    ]

    def seconds(steps: int) -> float:
        args = SFTConfig(
            output_dir=str(Path(options.folder) / "describe"),
            max_steps=steps,
            torch_compile=way == "compiled",
            per_device_train_batch_size=options.batch,
            learning_rate=1e-4,
            max_length=None,
            save_strategy="no",
            report_to="none",
            use_cpu=options.device == "cpu",
            bf16=options.device == "cuda",
            gradient_checkpointing=False,
            dataloader_drop_last=True,
            remove_unused_columns=False,
            disable_tqdm=True,
        )
        started = seconds_now(options)
        if way != "plain":
            train_describe(model, processor, well_tokens(model, bank), dialogues, args)
        else:
            SFTTrainer(
                model=model,
                args=args,
                train_dataset=Dataset.from_list(table).with_transform(read),
                processing_class=processor,
            ).train()
        return seconds_now(options) - started

    if way == "plain":
        for name, parameter in model.named_parameters():
            if "vision_tower" in name or "_projection" in name:
                parameter.requires_grad_(False)
    found = timed(seconds, options.steps)
    found["once"] = {"plain": 0.0, "ours": found["once"], "compiled": found["first"]}[way]
    tokens = options.batch * float(np.mean(encoded["length"]))
    return {**found, "tokens": tokens, "wells": options.batch}


def measure_align(
    model, processor: CellPaintingProcessor, bank: WellBank, way: str, options: argparse.Namespace
) -> dict[str, float]:
    """Phase align, with kept features or with pixels."""
    if way == "plain":
        bank = with_pixels(bank, Path(options.folder) / "prepared", processor, SITES, 2 * SITES)
    prompts = prompts_of(bank)
    groups = len(set(bare(model).config.vision_config.readout_groups))
    effects = np.zeros((len(bank), groups), np.float32)

    def seconds(steps: int) -> float:
        settings = AlignConfig(
            align_steps=steps, align_num_targets=2, align_num_unlabelled=4, align_prompt_every=5
        )
        accelerator = Accelerator(cpu=options.device == "cpu")
        # A folder of its own: a run goes on from the checkpoints that it finds.
        with tempfile.TemporaryDirectory(dir=options.folder) as out:
            started = seconds_now(options)
            align(
                model, processor.tokenizer, bank, prompts, effects, settings,
                Path(out), 0, accelerator,
            )  # fmt: skip
            return seconds_now(options) - started

    step = timed(seconds, 5 * options.steps)["step"]  # every fifth step reads prompts
    length = float(
        np.mean([len(processor.tokenizer(text)["input_ids"]) for text in prompts["prompt"]])
    )
    return {"step": step, "tokens": 4 * length / 5, "wells": 12, "once": 0.0}


if __name__ == "__main__":
    main()
