"""One plate of the store: brought up to date from its raw images, well by well.

Beside its pixels a plate's folder has `inputs.json`: what each stored well was made from. A well is
done again only when that changed, and one that could not be read leaves the others alone.
"""

import hashlib
import json
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from data.errors import InputError
from data.files import atomic_path
from data.illumination import estimate_illumination
from data.measure import well_profile
from data.normalize import SAME_PLATE_CONTROLS
from data.parallel import OrderedMap
from data.raw import Plate, Site
from data.site import (
    Correction,
    SiteTask,
    attempt,
    count_intensities,
    draw_light,
    percentiles_of_counts,
    process_site,
    sample_site,
)
from data.store import (
    FORMAT,
    QC_COLUMNS,
    PlateRecord,
    checksum,
    plate_folder,
    read_site_table,
    stored_rows,
    write_sites,
)

ILLUMINATION_SITES = 64
"""At most this many sites, evenly spread, estimate a plate's light, beside the reference sites."""

FEWEST_ILLUMINATION_SITES = 16
"""With fewer sites the estimate is worse than no correction (measured on simulated plates)."""

REFERENCE_SITES = 64
"""At most this many control sites a plate, evenly spread, give background and bright end."""

REFERENCE_PIXELS = 8_000_000
"""About so many pixels a channel are enough for the 99.9 percentile: of large images every second
or third pixel is taken."""


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


@dataclass(frozen=True)
class Inputs:
    """Hashes of all that a plate's prepared pixels and features depend on.

    Attributes
    ----------
    settings : str
        Of the settings, the stains and the published functions.
    wells : dict
        Well to the hash of its files and its row of the table.
    """

    settings: str
    wells: dict[str, str]

    def digest(self) -> str:
        """Return one hash of everything."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Stored:
    """An intact plate in the store: its record, and what its wells were made from."""

    record: PlateRecord
    inputs: Inputs
    correction: str


@dataclass(frozen=True)
class Work:
    """A plate as it should be (inputs) and as the store has it."""

    plate: Plate
    inputs: Inputs
    stored: Stored | None

    @property
    def done(self) -> bool:
        """Whether there is nothing to do."""
        return self.stored is not None and self.stored.record["settings"] == self.inputs.digest()

    def reusable(self, correction: str | None = None) -> set[str]:
        """Return the stored wells that are still right; with a correction: if it holds now."""
        if self.stored is None or self.stored.inputs.settings != self.inputs.settings:
            return set()
        if correction not in (None, self.stored.correction):
            return set()
        wells = self.stored.inputs.wells
        return {well for well in wells if wells[well] == self.inputs.wells.get(well)}


def hash_inputs(plate: Plate, choices: tuple) -> Inputs:
    """Hash what a plate is made from; `choices` are the settings that its pixels depend on."""
    seen = (plate.channels, plate.channels_present, plate.version, plate.pixel_size)
    settings = repr((FORMAT, *seen, choices))
    rows = plate.wells.itertuples(index=False, name=None)
    digests = {
        well: hashlib.sha256(repr(row).encode())
        for well, row in zip(plate.wells["Metadata_Well"], rows, strict=True)
    }
    for site in plate.sites:
        digest = digests[site.well]
        digest.update(repr((site.number, site.position, file_stamps(site))).encode())
        if not any(site.files):  # pixels that were given, not read
            digest.update(plate.read(site).tobytes())
    return Inputs(
        hashlib.sha256(settings.encode()).hexdigest(),
        {well: digest.hexdigest() for well, digest in digests.items()},
    )


def file_stamps(site: Site) -> list[tuple[str, int, str]]:
    """Return name, size in bytes and version of each file of a site; -1 bytes where it is gone."""
    files = [file for file in site.files if file is not None]
    nuclei = [_stamp(site.nuclei)] if site.nuclei else []
    if site.objects:
        return nuclei + [
            (Path(file).name, size, version)
            for file, (size, version) in zip(files, site.objects, strict=True)
        ]
    return nuclei + [_stamp(Path(file)) for file in files]


def read_stored(out: Path, barcode: str, record: PlateRecord | None) -> Stored | None:
    """Return what is known of a plate in the store; None when it is absent or damaged."""
    folder = plate_folder(out, barcode)
    path = folder / "inputs.json"
    if record is None or not path.is_file() or checksum(folder) != record["sha256"]:
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    return Stored(record, Inputs(content["settings"], content["wells"]), content["correction"])


def sample_sites(plates: Sequence[Plate], reference: str) -> list[tuple[Plate, Site, bool]]:
    """Choose the sites that a correction is estimated from; True for those of reference wells."""
    chosen = []
    for plate in plates:
        controls = plate.wells["Metadata_control_type"] == "negcon"
        names = set(plate.wells["Metadata_Well"][controls])
        if reference != SAME_PLATE_CONTROLS:
            names = set(plate.wells["Metadata_Well"])
        found = _spread([site for site in plate.sites if site.well in names], REFERENCE_SITES)
        light: list[Site] = []
        if (
            reference == SAME_PLATE_CONTROLS
            and plate.illumination is None
            and len(plate.sites) >= FEWEST_ILLUMINATION_SITES
        ):
            light = _spread(list(plate.sites), ILLUMINATION_SITES)
        slim = _without_tables(plate)
        references, either = set(found), {*found, *light}
        chosen += [(slim, site, site in references) for site in plate.sites if site in either]
    return chosen


def find_correction(plates: Sequence[Plate], reference: str, mapped: OrderedMap) -> Correction:
    """Estimate illumination, then background and bright end of the reference's corrected pixels.

    Parameters
    ----------
    plates : sequence of Plate
        One, or all of a data set that is its own reference.
    reference : str
        See `data.normalize`.
    mapped : callable
        From `ordered_map`.

    Raises
    ------
    InputError
        When no reference site can be read.
    """
    first = plates[0]
    name = first.barcode if len(plates) == 1 else "all plates"
    sites = sample_sites(plates, reference)
    shape = _find_shape(sites)
    used = sum(is_reference for *_, is_reference in sites)
    step = max(1, int((used * shape[0] * shape[1] / REFERENCE_PIXELS) ** 0.5))
    tasks = [(plate, site, shape, step) for plate, site, _ in sites]
    found = mapped(partial(attempt, sample_site), tasks)
    grids, pixels = [], []
    for (plate, _, is_reference), sample in zip(
        sites, progress(found, len(sites), f"{name} sample"), strict=True
    ):
        if isinstance(sample, InputError):  # reported when the site's turn comes
            continue
        grids.append(sample[0])
        if is_reference:
            pixels.append((plate, sample[1]))
    if not pixels:
        raise InputError(f"{name}: no site of a reference well can be read")
    estimate = (
        reference == SAME_PLATE_CONTROLS
        and first.illumination is None
        and len(first.sites) >= FEWEST_ILLUMINATION_SITES
    )
    illumination = estimate_illumination(grids) if estimate else None
    counts = np.zeros((len(first.channels), 65536), np.int64)
    light, light_of = None, None
    for plate, sample in pixels:
        if plate.barcode != light_of:
            light, light_of = draw_light(plate.illumination, illumination, shape), plate.barcode
            light = light if light is None else light[:, ::step, ::step]
        for total, count in zip(counts, count_intensities(sample, light), strict=True):
            total[: len(count)] += count
    background, bright = percentiles_of_counts(counts).T
    return Correction(shape, illumination, background, bright)


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
    digest = _hash_correction(correction)
    kept = work.reusable(digest)
    old = plate_folder(out, plate.barcode)
    todo = [site for site in plate.sites if site.well not in kept]
    slim = _without_tables(plate)
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


def progress(items: Iterable[Any], total: int, name: str) -> Generator[Any, None, None]:
    """Show progress; closing the generator ends the bar's line, so that an error has its own."""
    with tqdm(total=total, desc=name, unit="site", smoothing=0.05) as bar:
        for item in items:
            bar.update()
            yield item


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


def _stamp(file: Path) -> tuple[str, int, str]:
    try:
        stat = file.stat()
    except FileNotFoundError:
        return file.name, -1, ""
    return file.name, stat.st_size, str(stat.st_mtime_ns)


def _find_shape(sites: Sequence[tuple[Plate, Site, bool]]) -> tuple[int, ...]:
    """Return (H, W) of the first site that can be read."""
    complaint = ""
    for plate, site, _ in sites[:FEWEST_ILLUMINATION_SITES]:
        try:
            return plate.read(site).shape[1:]
        except InputError as error:
            complaint = complaint or str(error)
    raise InputError(complaint or "there is no site of a reference well")


def _spread(sites: list[Site], most: int) -> list[Site]:
    return sites[:: -(-len(sites) // most)] if sites else []


def _hash_correction(correction: Correction) -> str:
    digest = hashlib.sha256(repr(correction.shape).encode())
    for array in (correction.illumination, correction.background, correction.bright):
        digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _without_tables(plate: Plate) -> Plate:
    """Return what a worker needs of a plate: sending all wells with every site would be slow."""
    return replace(plate, wells=plate.wells.iloc[:0], sites=(), profiles=None)
