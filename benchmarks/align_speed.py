"""Phase align: wells a second against a plain PyTorch loop, and memory against batch size.

    python benchmarks/align_speed.py
    python benchmarks/align_speed.py --language_model packaged:smollm2-135m-instruct

Speed, all in one run with the same model, wells, prompts, losses and optimizer: "plain" reads each
well's TIFF files in every step, as a Dataset without our store would, and sends them and their
plate's controls through the backbone; "store" reads pixels from the prepared store; "cached" takes
the backbone's kept features, as training does by default. Memory: peak of a step beyond what the
process held before, a process of its own for each batch size, with gradient caching and without.
The language model is tiny by default, so that what is compared is not hidden behind it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import tifffile
import torch
import torch.nn.functional as F
from accelerate import Accelerator

from contrastive.batches import TargetBatches
from contrastive.configuration import AlignConfig
from contrastive.losses import clip_loss, same_label_loss, shift_loss
from contrastive.prompt_tokens import fit_prompts, read_prompts
from contrastive.trainer import align, train_tower_and_heads
from vlm.adapters import ALIGN, bare
from vlm.assembly import build_model
from vlm.lora import LoraSettings, add_adapter, lora_config
from vlm.pixels import with_pixels
from vlm.wells import WellBank, fit_reference, open_wells

# The tests' small plates and models serve here too; tests/ is no package.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from helpers import CHANNEL_FILES, write_tiff_plate, write_tiny_store
from test_align import prompts_of
from tiny import save_tiny_language_model, tiny_bank

SITES, SLOTS, SIZE = 4, 8, 128
LABEL = "Metadata_target_list"
BATCHES = (256, 1024, 4096)
CHUNK = 256


def main() -> None:
    """Measure, print both tables."""
    options = parse()
    if options.peak:
        print(json.dumps(peak_of_a_step(*options.peak)))
        return
    torch.set_num_threads(options.threads)
    seconds = measure_speed(options)
    print(f"{'':8}{'s a step':>10}{'wells/s':>10}{'of plain':>10}")
    for way, taken in seconds.items():
        ratio = seconds["plain"] / taken
        print(f"{way:8}{taken:10.4f}{settings(1).wells / taken:10.1f}{ratio:10.1f}")
    print(f"\n{'wells':>8}{'whole, MB':>12}{f'chunks of {CHUNK}, MB':>22}")
    for wells in BATCHES:
        whole, chunked = (measure_peak(wells, chunk) for chunk in (wells, CHUNK))
        print(f"{wells:8}{whole:12.0f}{chunked:22.0f}")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--language_model", help="instead of a tiny one")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peak", type=int, nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def settings(steps: int) -> AlignConfig:
    """Small batches: 12 wells; every fifth step reads prompts."""
    return AlignConfig(align_steps=steps, align_num_targets=2, align_num_unlabelled=4)


def measure_speed(options: argparse.Namespace) -> dict[str, float]:
    """Seconds of a step, by way."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for barcode in ("P1", "P2"):
            write_tiff_plate(folder / "raw", barcode, sites=SITES, size=2 * SIZE)
        write_tiny_store(folder / "raw", folder / "prepared", size=SIZE, measure=False)
        language = options.language_model or str(save_tiny_language_model(folder / "language"))
        model, processor = build_model(
            language, image_size=SIZE, readout_groups=list(range(SLOTS)),
            num_text_layers=8 if options.language_model else None,
        )  # fmt: skip
        bank = open_wells(folder / "prepared", model, processor)
        fit_reference(model, bank)
        model = add_adapter(
            model, ALIGN, lora_config(LoraSettings(lora_dropout=0.0), describe=False)
        )
        pixels = with_pixels(bank, folder / "prepared", processor, SITES, 2 * SITES)
        found = {
            "plain": plain_loop(model, processor, bank, folder / "raw" / "images", options.steps)
        }
        for way, source in (("store", pixels), ("cached", bank)):
            steps = options.steps if way == "store" else 20 * options.steps
            few, many = (our_loop(model, processor, source, n, folder) for n in (5, 5 + steps))
            found[way] = (many - few) / steps
    return found


def our_loop(model, processor, bank: WellBank, steps: int, folder: Path) -> float:
    """Train with `align`; seconds."""
    effects = np.zeros((len(bank), SLOTS), np.float32)
    with tempfile.TemporaryDirectory(dir=folder) as out:  # a run goes on from its checkpoints
        started = time.process_time()
        align(
            model, processor.prompt_tokenizer, bank, prompts_of(bank), effects, settings(steps),
            Path(out), 0, Accelerator(cpu=True),
        )  # fmt: skip
        return time.process_time() - started


def plain_loop(model, processor, bank: WellBank, images: Path, steps: int) -> float:
    """Train as one would without this repository's store, caches and trainer; seconds a step."""
    vlm, tokenizer = bare(model), processor.prompt_tokenizer
    tower = vlm.model.vision_tower
    train_tower_and_heads(model, settings(steps).weights)
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-4)
    batches = TargetBatches(bank.wells, LABEL, 2, 4, seed=0)
    prompts, _ = fit_prompts(prompts_of(bank), batches.reagents, tokenizer, 96)
    control = (bank.wells["Metadata_control_type"] == "negcon").to_numpy()
    effects = torch.zeros(len(bank), SLOTS)

    def read(well: int) -> torch.Tensor:
        """All sites of a well: (S, C, H, W)."""
        name = bank.wells["Metadata_Well"][well]
        row, column = ord(name[0]) - ord("A") + 1, int(name[1:])
        folder = images / bank.wells["Metadata_Plate"][well]
        planes = [
            tifffile.imread(
                folder / f"r{row:02d}c{column:02d}f{site:02d}p01-{channel}sk1fk1fl1.tiff"
            )
            for site in range(1, SITES + 1)
            for channel in list(CHANNEL_FILES)[::-1]
        ]
        stacked = torch.from_numpy(np.stack(planes).astype(np.float32))
        small = F.interpolate(stacked[None], size=(SIZE, SIZE), mode="area")[0]
        small = small.reshape(SITES, len(CHANNEL_FILES), SIZE, SIZE).numpy().astype(np.uint16)
        return processor.image_processor.preprocess(small[:, None])["pixel_values"][:, 0]

    started = time.process_time()
    for step in range(steps):
        batch = batches.draw(step)
        own = torch.stack([read(well) for well in batch.rows])
        with torch.no_grad():
            features = tower.encode_channels(own)
            zeros = {}  # a plate's controls, once a batch
            for plate in np.unique(bank.plate_of[batch.rows]):
                chosen = np.flatnonzero(control & (bank.plate_of == plate))[:2]
                zeros[plate] = tower.encode_channels(torch.cat([read(c) for c in chosen])[None])[0]
        controls = torch.stack([zeros[plate] for plate in bank.plate_of[batch.rows]])
        seen = tower(channel_features=features, control_features=controls)
        wells = F.normalize(vlm.well_projection(seen.pooler_output), dim=-1)
        labels = torch.from_numpy(batches.labels[batches.reagent_of[batch.rows]])
        loss = same_label_loss(wells, labels, 0.1) + shift_loss(seen.readout, effects[batch.rows])
        if step % 5 == 0:
            generator = np.random.default_rng(step)
            tokens = read_prompts(prompts, batch.reagents, tokenizer, 0.0, generator)
            told = vlm.embed_prompts(**tokens)
            for place in (0, 1):
                loss = loss + clip_loss(
                    wells[2 * place : 8 : 4], told[place::2], torch.tensor(14.0)
                )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (time.process_time() - started) / steps


def measure_peak(wells: int, chunk: int) -> float:
    """Megabytes that a step adds, measured in a process of its own."""
    command = [sys.executable, __file__, "--peak", str(wells), str(chunk)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def peak_of_a_step(wells: int, chunk: int) -> float:
    """Train two steps on `wells` wells, `chunk` at once; megabytes that they add at their peak."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        language = str(save_tiny_language_model(Path(scratch)))
        model, processor = build_model(language, image_size=SIZE, readout_groups=range(SLOTS))
    bank = random_bank(wells, model.model.vision_tower.reference_center.shape[1])
    fit_reference(model, bank)
    model = add_adapter(model, ALIGN, lora_config(LoraSettings(), describe=False))
    numbers = np.arange(wells)
    bank.wells["Metadata_broad_sample"] = [f"R{i // 2}" for i in numbers]
    bank.wells["Metadata_target_list"] = [f"T{i // 4}" for i in numbers]
    bank.wells["Metadata_Plate"] = [f"P{i % 2}" for i in numbers]
    config = AlignConfig(
        align_steps=2, align_num_targets=wells // 4, align_num_unlabelled=0,
        align_prompt_targets=8, align_chunk_wells=chunk, align_prompt_every=1,
    )  # fmt: skip
    prompts = prompts_of(bank)
    effects = np.zeros((wells, SLOTS), np.float32)
    Path("/proc/self/clear_refs").write_text("5")  # Linux forgets the peak so far
    before = peak_megabytes()
    with tempfile.TemporaryDirectory() as out:
        align(
            model, processor.prompt_tokenizer, bank, prompts, effects, config, Path(out), 0,
            Accelerator(cpu=True),
        )  # fmt: skip
    return peak_megabytes() - before


def random_bank(wells: int, feature_size: int) -> WellBank:
    """Wells of two plates, four sites each; many wells share features, to be small."""
    few = tiny_bank()
    rng = np.random.default_rng(0)
    shape = (64, len(CHANNEL_FILES), feature_size)
    rows = np.arange(wells)
    return replace(
        few,
        wells=few.wells.iloc[rows % len(few)].reset_index(drop=True),
        site_features=rng.normal(size=shape).astype(np.float32),
        sites_of=[(SITES * row + np.arange(SITES)) % shape[0] for row in rows],
        control_median=np.zeros((2, *shape[1:]), np.float32),
        plate_of=rows % 2,
        channel_mask=np.ones((wells, shape[1]), bool),
    )


def peak_megabytes() -> float:
    """The most memory that this process has held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(peak) / 2**10


if __name__ == "__main__":
    main()
