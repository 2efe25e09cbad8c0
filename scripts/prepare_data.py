"""Prepare raw images into a store: prepare_data.py --source plates --input RAW --out PREPARED."""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from _cli import parse_config, run_main

from data.bbbc021 import read_bbbc021
from data.errors import InputError
from data.fields import read_fields
from data.normalize import MEDIAN_WELL, NO_REFERENCE, SAME_PLATE_CONTROLS
from data.plates import read_plates
from data.prepare import PrepareSettings, prepare
from data.splits import choose_held_out_targets, list_targets

SOURCES = {
    "plates": (read_plates, SAME_PLATE_CONTROLS),
    "bbbc021": (read_bbbc021, MEDIAN_WELL),
    "fields": (read_fields, NO_REFERENCE),
}


@dataclass
class PrepareConfig:
    """What to prepare, where to, and how."""

    source: str = field(
        metadata={
            "help": "plates: a folder in JUMP's layout (TIFF images, platemaps, metadata); "
            "bbbc021: a folder with labels.csv and png/; fields: a folder of single fields."
        }
    )
    input: str = field(metadata={"help": "The folder with the raw images."})
    out: str = field(metadata={"help": "The store's folder; a complete plate in it is kept."})
    size: int = field(default=128, metadata={"help": "Height and width of a stored site, pixels."})
    crop: int | None = field(
        default=None,
        metadata={"help": "Keep the central square of so many raw pixels; all by default."},
    )
    processes: int = field(default=2, metadata={"help": "Worker processes."})
    measure: bool = field(
        default=True, metadata={"help": "Measure the cells; without, there are no profiles."}
    )
    held_out_targets: str = field(
        default="0.25",
        metadata={
            "help": "Targets that training never sees: a share of all (0.25), a number (6), or "
            "names (AURKB,TUBB); 0 for none. Sources without targets take no notice."
        },
    )
    seed: int = field(default=0, metadata={"help": "Seed of the held-out targets' draw."})


def main() -> None:
    """Parse the command line and prepare."""
    (config,) = parse_config(PrepareConfig)
    prepare_source(config)


def prepare_source(config: PrepareConfig) -> None:
    """Read the source, draw the held-out targets, write the store, and say what is in it."""
    if config.source not in SOURCES:
        raise InputError(f"--source is {config.source!r}, expected {', '.join(SOURCES)}")
    if not Path(config.input).is_dir():
        raise InputError(f"--input {config.input}: no such folder")
    if config.size < 32 or config.processes < 1:
        raise InputError(
            f"--size is {config.size}, expected at least 32; "
            f"--processes is {config.processes}, expected at least 1"
        )
    read, reference = SOURCES[config.source]
    plates = read(config.input)
    wells = pd.concat([plate.wells for plate in plates], ignore_index=True)
    targets = parse_held_out_targets(config.held_out_targets, wells, config.seed)
    settings = PrepareSettings(
        size=config.size,
        crop=config.crop,
        measure=config.measure,
        processes=config.processes,
        held_out_targets=tuple(sorted(targets)),
        inactive_test=0.5 if targets else 0.0,
        seed=config.seed,
    )
    manifest = prepare(plates, config.out, settings, source=config.source, reference=reference)
    sites = sum(plate["sites"] for plate in manifest.plates.values())
    print(
        f"{config.out}: {len(manifest.plates)} plates, {len(wells)} wells, {sites} sites of "
        f"{len(manifest.channels)} x {manifest.size} x {manifest.size}; reference: {reference}; "
        f"{len(targets)} held-out targets"
    )
    if manifest.features:
        print(
            "features: {kept} kept, {dropped} dropped (no value or no spread among the reference "
            "wells), {filled} single missing values set to the reference".format(
                **manifest.features
            )
        )


def parse_held_out_targets(text: str, wells: pd.DataFrame, seed: int) -> set[str]:
    """Return the targets that "0.25", "6" or "AURKB,TUBB" stands for; none where wells have none.

    Raises
    ------
    InputError
        When a number is out of range.
    """
    targets = list_targets(wells)
    if not targets:
        return set()
    try:
        number = float(text)
    except ValueError:
        return {name.strip() for name in text.split(",") if name.strip()}
    if number == 0:
        return set()
    return choose_held_out_targets(wells, number / len(targets) if number >= 1 else number, seed)


if __name__ == "__main__":
    run_main(main)
