"""One plate of the store: brought up to date from its raw images, well by well.

Beside its pixels a plate's folder has `inputs.json`: what each stored well was made from. A well is
done again only when that changed, and one that could not be read leaves the others alone.
"""

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from data.correction import hash_correction
from data.errors import InputError
from data.files import atomic_path
from data.inputs import Inputs, Work
from data.measure import well_profile
from data.parallel import OrderedMap, progress
from data.raw import Plate
from data.site import Correction, SiteTask, attempt, process_site
from data.store import (
    QC_COLUMNS,
    PlateRecord,
    plate_folder,
    read_site_table,
    stored_rows,
    write_sites,
)


@dataclass(frozen=True)
class PrepareSettings:
    """How to prepare.

    Attributes
    ----------
    size : int
        Height and width of a stored site in pixels.
    crop : int or None
        Keep only the central square of so many raw pixels (of the image, not of the measured
        profile): brings fields of another magnification to the cell size that a model knows.
    tiles : int
        Store each field as tiles x tiles squares in place of one.
    cells : int
        Store at most so many cells of each field, `crop` raw pixels around each nucleus, in place
        of it; 0 for the field.
    measure : bool
        Segment and measure cells (most of the time goes here); without it profiles are the
        published ones, where there are any.
    processes : int
        Worker processes; sites of a plate are divided among them.
    scheduler : str
        Where Dask's workers are asked for instead; see `data.parallel`.
    jobs : int
        Jobs to start with the scheduler "slurm".
    held_out_targets : tuple of str
        Targets whose reagents become "test".
    inactive_test : float
        Share of the reagents without a target that become "test".
    seed : int
        Seed of that share.
    """

    size: int = 128
    crop: int | None = None
    tiles: int = 1
    cells: int = 0
    measure: bool = True
    processes: int = 2
    scheduler: str = ""
    jobs: int = 1
    held_out_targets: tuple[str, ...] = ()
    inactive_test: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.tiles < 1 or self.cells < 0 or (self.cells and (self.tiles > 1 or not self.crop)):
            raise InputError(
                f"--tiles is {self.tiles}, expected at least 1; --cells is {self.cells}, expected "
                "at least 0, with --crop for the side of a cell's square and without --tiles"
            )


@dataclass(frozen=True)
class Failure:
    """What could not be read; without a well the whole plate, or its published profiles."""

    plate: str
    well: str
    site: int
    error: str


def write_plate(
    work: Work, out: Path, correction: Correction, settings: PrepareSettings, mapped: OrderedMap
) -> tuple[PlateRecord, list[Failure]]:
    """Write a plate's folder as a whole: wells that are still right are copied, the others made.

    Parameters
    ----------
    work : Work
    out : path
        The store.
    correction : Correction
    settings : PrepareSettings
    mapped : callable
        From `ordered_map`.

    Returns
    -------
    record : PlateRecord
    failures : list of Failure
        One a site that could not be read; a well is stored when all of its sites are.

    Raises
    ------
    InputError
        When no well could be read: then nothing is written.
    """
    plate, inputs = work.plate, work.inputs
    digest = hash_correction(correction)
    kept = work.reusable(digest)
    old = plate_folder(out, plate.barcode)
    todo = [site for site in plate.sites if site.well not in kept]
    slim = plate.without_tables()
    tasks = (
        SiteTask(
            slim,
            site,
            correction,
            settings.size,
            settings.crop,
            settings.measure,
            settings.tiles,
            settings.cells,
        )
        for site in todo
    )
    failures: list[Failure] = []
    cells: dict[str, list[pd.DataFrame]] = {}
    done = mapped(partial(attempt, process_site), tasks)
    with (
        atomic_path(old) as folder,
        closing(progress(done, len(todo), plate.barcode)) as results,
    ):
        rows = _merge_rows(plate, kept, stored_rows(old, kept), results, failures, cells)
        sha256 = write_sites(folder, rows)
        sites = read_site_table(folder)
        if sites.empty:
            raise InputError(f"plate {plate.barcode}: no well can be read; {failures[0].error}")
        fields = sites.drop_duplicates(["Metadata_Well", "Metadata_Site"])  # one of its parts
        quality = fields[["Metadata_Well", *QC_COLUMNS]].groupby("Metadata_Well", as_index=False)
        wells = plate.wells.merge(quality.mean(), on="Metadata_Well", validate="1:1")
        wells.to_parquet(folder / "wells.parquet", index=False)
        complete = True
        try:
            features = _find_features(plate, settings.measure, old, kept, cells)
        except InputError as error:
            failures.append(Failure(plate.barcode, "", 0, str(error)))
            features, complete = None, False
        if features is not None:
            features.insert(0, "Metadata_Plate", plate.barcode)
            features.to_parquet(folder / "features.parquet", index=False)
        made = Inputs(inputs.settings, {w: inputs.wells[w] for w in wells["Metadata_Well"]})
        content = json.dumps({**asdict(made), "correction": digest})
        (folder / "inputs.json").write_text(content + "\n", encoding="utf-8")
    record = PlateRecord(
        wells=len(wells),
        sites=len(sites),
        sha256=sha256,
        channels_present=list(plate.channels_present),
        pixel_size=_stored_pixel_size(plate, correction.shape, settings),
        settings=made.digest() if complete else "",
    )
    return record, failures


def _merge_rows(
    plate: Plate,
    kept: set[str],
    stored: Iterator[dict[str, Any]],
    results: Iterator[Any],
    failures: list[Failure],
    cells: dict[str, list[pd.DataFrame]],
) -> Iterator[dict[str, Any]]:
    """Yield the rows of all complete wells in order; collect failures and measured cells."""
    stored_wells = groupby(stored, key=lambda row: row["Metadata_Well"])
    for well, group in groupby(plate.sites, key=lambda site: site.well):
        sites = list(group)
        if well in kept:
            yield from next(stored_wells)[1]
            continue
        done = [next(results) for _ in sites]
        errors = [
            Failure(plate.barcode, well, site.number, str(result))
            for site, result in zip(sites, done, strict=True)
            if isinstance(result, InputError)
        ]
        failures += errors
        if not errors:
            if done[0][1] is not None:
                cells[well] = [measured for _, measured in done]
            yield from (row for rows, _ in done for row in rows)


def _find_features(
    plate: Plate,
    measure: bool,
    old: Path,
    kept: set[str],
    cells: dict[str, list[pd.DataFrame]],
) -> pd.DataFrame | None:
    """Return Metadata_Well and features: measured, or else as published; None without either."""
    if not measure:
        return plate.profiles() if plate.profiles else None
    means = {well: well_profile(measured) for well, measured in cells.items()}
    parts = [pd.DataFrame(means).T.rename_axis("Metadata_Well").reset_index()] if means else []
    if kept:
        before = pd.read_parquet(old / "features.parquet").drop(columns="Metadata_Plate")
        parts.append(before[before["Metadata_Well"].isin(kept)])
    return pd.concat(parts, ignore_index=True).sort_values("Metadata_Well", ignore_index=True)


def _stored_pixel_size(
    plate: Plate, shape: tuple[int, ...], settings: PrepareSettings
) -> float | None:
    if plate.pixel_size is None:
        return None
    side = min(*shape, settings.crop or max(shape)) // settings.tiles
    return plate.pixel_size * side / settings.size
