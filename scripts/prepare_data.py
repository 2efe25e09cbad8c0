"""Prepare raw images into a store: prepare_data.py plates --input RAW --out PREPARED."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pandas as pd
from _cli import EXIT_INCOMPLETE, parse_config, run_main

from data.bbbc021 import read_bbbc021
from data.cpjump1 import read_cpjump1
from data.errors import InputError
from data.fields import read_fields
from data.jump import read_jump
from data.normalize import MEDIAN_TILE, MEDIAN_WELL, NO_REFERENCE, SAME_PLATE_CONTROLS
from data.parallel import slurm_script
from data.plates import read_plates
from data.prepare import PrepareSettings, load_failures, plan, prepare
from data.raw import Plate
from data.selection import Selection, parse_selection, select
from data.splits import choose_held_out_targets, list_targets

SOURCES: dict[str, tuple[Callable[[str], list[Plate]], str]] = {
    "plates": (read_plates, SAME_PLATE_CONTROLS),
    "bbbc021": (read_bbbc021, MEDIAN_WELL),
    "fields": (read_fields, NO_REFERENCE),
}
"""Sources in a local folder: how it is read, and what the plates are compared with."""

GALLERY = "s3://cellpainting-gallery"

GALLERY_SOURCES: tuple[str, ...] = ("cpjump1", "jump")


@dataclass
class PrepareConfig:
    """What to prepare, where to, and how."""

    source: str = field(
        metadata={
            "help": "May come first, without --source. cpjump1: CPJUMP1 on the Cell Painting "
            "Gallery; jump: cpg0016 there; plates: a folder in JUMP's layout (TIFF images, "
            "platemaps, metadata); bbbc021: a folder with labels.csv and png/; fields: a folder of "
            "single fields."
        }
    )
    input: str = field(
        default="",
        metadata={"help": f"The folder with the raw images, or a copy of {GALLERY}."},
    )
    out: str = field(
        default="",
        metadata={
            "help": "The store's folder, prepared/<source> by default; what is complete in it is "
            "kept."
        },
    )
    plates: str = field(default="all", metadata={"help": "Barcodes: BR00117010,BR00117011."})
    modality: str = field(default="", metadata={"help": "Only plates of compound, crispr or orf."})
    wells: str = field(default="", metadata={"help": "Only these wells: A01,B02."})
    sites: str = field(default="", metadata={"help": "Only these sites of a well: 1-4."})
    metadata: str = field(
        default="",
        metadata={"help": "jump: the folder metadata/ of github.com/jump-cellpainting/datasets."},
    )
    size: int = field(default=128, metadata={"help": "Height and width of a stored site, pixels."})
    crop: int | None = field(
        default=None,
        metadata={"help": "Keep the central square of so many raw pixels; all by default."},
    )
    tiles: int = field(
        default=1, metadata={"help": "Store each field as so many tiles a side in place of one."}
    )
    cells: int = field(
        default=0,
        metadata={
            "help": "Store at most so many cells of each field in place of it, --crop raw pixels "
            "around each nucleus; 0 for the field."
        },
    )
    tile_wells: int = field(
        default=0,
        metadata={
            "help": "fields: cut each field into squares of so many raw pixels, each a well that "
            "is compared with the median of all; 0 for one well a field, compared with nothing."
        },
    )
    pattern: str = field(
        default="",
        metadata={
            "help": "plates: what TIFF files are called, a regular expression with the groups well "
            "(or row and column), site and channel; known microscopes need none."
        },
    )
    processes: int = field(default=2, metadata={"help": "Worker processes."})
    scheduler: str = field(
        default="",
        metadata={
            "help": "Work on a Dask cluster in place of local processes: tcp://host:8786, or slurm "
            "(jobs as your Dask configuration describes them under jobqueue.slurm)."
        },
    )
    jobs: int = field(default=1, metadata={"help": "How many jobs --scheduler slurm starts."})
    measure: bool = field(
        default=True,
        metadata={
            "help": "Measure the cells; without, profiles are the published ones, if there are any."
        },
    )
    held_out_targets: str = field(
        default="0.25",
        metadata={
            "help": "Targets that training never sees: a share of all (0.25), a number (6), or "
            "names (AURKB,TUBB); 0 for none, as with --wells. Sources without targets take no "
            "notice."
        },
    )
    seed: int = field(default=0, metadata={"help": "Seed of the held-out targets' draw."})
    dry_run: bool = field(
        default=False,
        metadata={"help": "Only say what would be read and stored, and the SLURM job's script."},
    )


def main() -> None:
    """Parse the command line and prepare."""
    arguments = sys.argv[1:]
    if arguments and not arguments[0].startswith("-"):
        arguments = ["--source", *arguments]
    (config,) = parse_config(PrepareConfig, arguments=arguments)
    if not prepare_source(config):
        sys.exit(EXIT_INCOMPLETE)


def prepare_source(config: PrepareConfig) -> bool:
    """Read the source, draw the held-out targets, write the store, and say what is in it.

    Returns
    -------
    bool
        False when something could not be read; the store then holds the rest.
    """
    if config.size < 32 or config.processes < 1 or config.jobs < 1:
        raise InputError(
            f"--size is {config.size}, expected at least 32; --processes is {config.processes} and "
            f"--jobs {config.jobs}, expected at least 1"
        )
    plates, reference = read_source(config)
    wells = pd.concat([plate.wells for plate in plates], ignore_index=True)
    targets = set()
    if not config.wells:
        targets = parse_held_out_targets(config.held_out_targets, wells, config.seed)
    settings = PrepareSettings(
        size=config.size,
        crop=config.crop,
        tiles=config.tiles,
        cells=config.cells,
        measure=config.measure,
        processes=config.processes,
        scheduler=config.scheduler,
        jobs=config.jobs,
        held_out_targets=tuple(sorted(targets)),
        inactive_test=0.5 if targets else 0.0,
        seed=config.seed,
    )
    out = config.out or f"prepared/{config.source}"
    if config.dry_run:
        todo = plan(plates, out, settings, reference=reference)
        print(
            f"to do: {todo.plates} plates, {todo.wells} wells, {todo.files} images; "
            f"{_gigabytes(todo.read_bytes)} to read, {_gigabytes(todo.disk_bytes)} of disk needed "
            f"in {out}"
        )
        if config.scheduler == "slurm":
            print(slurm_script())
        return True
    manifest = prepare(plates, out, settings, source=config.source, reference=reference)
    records = manifest.plates.values()
    print(
        f"{out}: {len(manifest.plates)} plates, {sum(r['wells'] for r in records)} wells, "
        f"{sum(r['sites'] for r in records)} sites of "
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
    return _report_failures(out, load_failures(out))


def read_source(config: PrepareConfig) -> tuple[list[Plate], str]:
    """Return the plates asked for, and what they are compared with."""
    wanted = parse_selection(config.plates, config.modality, config.wells, config.sites)
    if config.source in GALLERY_SOURCES:
        return _read_gallery(config, wanted)
    if config.source not in SOURCES:
        known = ", ".join((*GALLERY_SOURCES, *SOURCES))
        raise InputError(f"--source is {config.source!r}, expected {known}")
    if not Path(config.input).is_dir() or not config.input:
        raise InputError(f"--input {config.input}: no such folder")
    read, reference = SOURCES[config.source]
    if config.pattern:
        if config.source != "plates":
            raise InputError(f"--pattern has no meaning for the source {config.source}")
        read = partial(read_plates, pattern=config.pattern)
    if config.tile_wells:
        if config.source != "fields" or config.tile_wells < 32:
            raise InputError(
                f"--tile_wells is {config.tile_wells}, expected 32 or more, for the source fields"
            )
        read, reference = partial(read_fields, tile=config.tile_wells), MEDIAN_TILE
    return select(read(config.input), wanted), reference


def _read_gallery(config: PrepareConfig, wanted: Selection) -> tuple[list[Plate], str]:
    root = (config.input or GALLERY).rstrip("/")
    if config.source == "cpjump1":
        plates = read_cpjump1(root, wanted)
    else:
        plates = read_jump(root, config.metadata, wanted)
    for plate in plates:
        controls = (plate.wells["Metadata_control_type"] == "negcon").sum()
        if controls < 2:  # no spread to compare with
            print(
                f"plate {plate.barcode}: {controls} of the wells asked for are negative controls, "
                "2 are needed: intensities are scaled by the wells that are fetched, and profiles "
                "are not compared",
                file=sys.stderr,
            )
            return plates, NO_REFERENCE
    return plates, SAME_PLATE_CONTROLS


def _report_failures(out: str, failures: pd.DataFrame) -> bool:
    for plate, well, site, error in failures.head(20).itertuples(index=False):
        where = f"plate {plate}" + (f", well {well}, site {site}" if well else "")
        print(f"failed: {where}: {error}", file=sys.stderr)
    if len(failures):
        wells = failures[failures["well"] != ""][["plate", "well"]].drop_duplicates()
        print(
            f"not complete: {len(wells)} wells are missing, all failures are in {out}/failed.tsv; "
            "run the same command again to repair them",
            file=sys.stderr,
        )
    return failures.empty


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.3g} GB"


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
