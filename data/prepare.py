"""From raw plates to the prepared store: plate by plate, streaming, resumable."""

import errno
import hashlib
import os
import shutil
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
from tqdm import tqdm

from data.errors import InputError
from data.files import atomic_path
from data.illumination import estimate_illumination
from data.measure import well_profile
from data.normalize import MEDIAN_WELL, SAME_PLATE_CONTROLS, count_missing, normalize_profiles
from data.parallel import OrderedMap, ordered_map
from data.plates import Plate
from data.site import (
    Correction,
    SiteTask,
    count_intensities,
    percentiles_of_counts,
    process_site,
    shrink_site,
)
from data.splits import assign_splits, check_no_overlap
from data.store import (
    FORMAT,
    QC_COLUMNS,
    Manifest,
    PlateRecord,
    checksum,
    load_manifest,
    plate_folder,
    save_manifest,
    write_sites,
)

ILLUMINATION_SITES = 512
"""At most this many sites, evenly spread, estimate a plate's illumination."""

FEWEST_ILLUMINATION_SITES = 16
"""With fewer sites the estimate is worse than no correction (measured on simulated plates)."""

TABLES = ("wells.parquet", "profiles.parquet", "profiles_normalized.parquet")

WELL_KEY = ["Metadata_Plate", "Metadata_Well"]


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
    measure : bool
        Segment and measure cells (most of the time goes here); without it there are no profiles.
    processes : int
        Worker processes; sites of a plate are divided among them.
    held_out_targets : tuple of str
        Targets whose reagents become "test".
    inactive_test : float
        Share of the reagents without a target that become "test".
    seed : int
        Seed of that share.
    """

    size: int = 128
    crop: int | None = None
    measure: bool = True
    processes: int = 2
    held_out_targets: tuple[str, ...] = ()
    inactive_test: float = 0.0
    seed: int = 0


def prepare(
    plates: Sequence[Plate],
    out: str | Path,
    settings: PrepareSettings,
    *,
    source: str,
    reference: str = SAME_PLATE_CONTROLS,
) -> Manifest:
    """Write a prepared store, or bring one up to date.

    A plate that is already there, made from the same files with the same settings and intact, is
    skipped. A plate appears in the store when it is complete, so an interruption costs at most the
    plate in work.

    Parameters
    ----------
    plates : sequence of Plate
        All with the same channels.
    out : path
        The store's folder.
    settings : PrepareSettings
    source : str
        "plates", "bbbc021" or "fields"; noted in the manifest.
    reference : str
        What intensities and profiles are compared with (see `data.normalize`).
        `SAME_PLATE_CONTROLS`: illumination is corrected, and the plate's negcon wells give
        background and bright end. `MEDIAN_WELL`: all images of the data set do, without
        illumination correction (a plate has too few images). `NO_REFERENCE`: each plate for itself.

    Raises
    ------
    InputError
        Naming the file at fault; also when `out` holds something else.
    OSError
        When the disk is full (errno ENOSPC), naming the store.
    """
    out = Path(out)
    for plate in plates:
        if plate.channels != plates[0].channels:
            raise InputError(
                f"plate {plate.barcode} has the stains {', '.join(plate.channels)}, plate "
                f"{plates[0].barcode} has {', '.join(plates[0].channels)}: prepare them apart"
            )
    hashes = _hash_inputs(plates, settings, reference)
    kept = _intact_plates(out, plates, hashes)
    manifest = Manifest(
        source=source,
        channels=list(plates[0].channels),
        size=settings.size,
        reference=reference,
        simulated=any(bool(plate.wells["Metadata_simulated"].any()) for plate in plates),
        plates=kept,
        held_out_targets=sorted(settings.held_out_targets),
    )
    # A misspelt target must fail here, not after hours.
    _split(pd.concat([plate.wells for plate in plates], ignore_index=True), settings)
    todo = [plate for plate in plates if plate.barcode not in kept]
    try:
        with _clear_up(out), ordered_map(settings.processes if todo else 1) as mapped:
            shared = None
            if todo and reference == MEDIAN_WELL:
                shared = _find_correction(plates, reference, mapped)
            for plate in todo:
                correction = shared or _find_correction([plate], reference, mapped)
                record = _write_plate(plate, out, correction, settings, mapped)
                record["settings"] = hashes[plate.barcode]
                for name in TABLES:  # they describe the plates that were there before
                    (out / name).unlink(missing_ok=True)
                manifest.plates[plate.barcode] = record
                save_manifest(out, manifest)
            manifest.plates = {plate.barcode: manifest.plates[plate.barcode] for plate in plates}
            _write_tables(out, manifest, settings)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(out)) from error
    return manifest


def _hash_inputs(
    plates: Sequence[Plate], settings: PrepareSettings, reference: str
) -> dict[str, str]:
    """Hash, per plate, everything that its prepared pixels and features depend on."""
    hashes = {}
    for plate in plates:
        digest = hashlib.sha256(
            repr(
                (FORMAT, plate.channels, settings.size, settings.crop, settings.measure, reference)
            ).encode()
        )
        digest.update(plate.wells.to_csv().encode())
        for site in plate.sites:
            digest.update(repr((site.well, site.number)).encode())
            for file in site.files:
                stat = file.stat() if file else None
                digest.update(
                    repr(stat and file and (file.name, stat.st_size, stat.st_mtime_ns)).encode()
                )
            if not any(site.files):  # pixels that were given, not read
                digest.update(plate.read(site).tobytes())
        hashes[plate.barcode] = digest.hexdigest()
    if reference == MEDIAN_WELL:  # every plate's intensities depend on all plates
        whole = hashlib.sha256("".join(hashes.values()).encode()).hexdigest()
        return dict.fromkeys(hashes, whole)
    return hashes


def _intact_plates(
    out: Path, plates: Sequence[Plate], hashes: dict[str, str]
) -> dict[str, PlateRecord]:
    """Return the records of the plates in `out` that need no work; refuse a store of others."""
    if not out.exists() or not any(out.iterdir()):
        return {}
    if not (out / "manifest.json").is_file():
        if {path.name for path in out.iterdir()} == {"plates"}:  # interrupted on the first plate
            return {}
        raise InputError(f"{out} is not empty and not a prepared store: choose another folder")
    records = load_manifest(out).plates
    others = sorted(set(records) - set(hashes))
    if others:
        raise InputError(
            f"prepared store {out} holds plate {others[0]}, which is not in the input: "
            "choose another folder"
        )
    return {
        plate.barcode: records[plate.barcode]
        for plate in plates
        if plate.barcode in records
        and records[plate.barcode]["settings"] == hashes[plate.barcode]
        and checksum(plate_folder(out, plate.barcode)) == records[plate.barcode]["sha256"]
    }


def _find_correction(plates: Sequence[Plate], reference: str, mapped: OrderedMap) -> Correction:
    """Estimate illumination, then background and bright end of the reference's corrected pixels."""
    first = plates[0]
    shape = first.read(first.sites[0]).shape[1:]
    name = first.barcode if len(plates) == 1 else "all plates"
    sites = [(_without_tables(plate), site) for plate in plates for site in plate.sites]
    illumination = None
    if reference == SAME_PLATE_CONTROLS:
        if len(sites) >= FEWEST_ILLUMINATION_SITES:
            spread = sites[:: -(-len(sites) // ILLUMINATION_SITES)]
            shrunk = mapped(shrink_site, [(plate, site, shape) for plate, site in spread])
            illumination = estimate_illumination(_bar(shrunk, len(spread), f"{name} illumination"))
        controls = first.wells["Metadata_Well"][first.wells["Metadata_control_type"] == "negcon"]
        sites = [(plate, site) for plate, site in sites if site.well in set(controls)]
    channels = len(first.channels)
    start = Correction(shape, illumination, np.zeros(channels), np.ones(channels))
    counts = np.zeros((channels, 65536), np.int64)
    found = mapped(count_intensities, [(plate, site, start) for plate, site in sites])
    for site_counts in _bar(found, len(sites), f"{name} intensities"):
        for total, count in zip(counts, site_counts, strict=True):
            total[: len(count)] += count
    background, bright = percentiles_of_counts(counts).T
    return replace(start, background=background, bright=bright)


def _write_plate(
    plate: Plate, out: Path, correction: Correction, settings: PrepareSettings, mapped: OrderedMap
) -> PlateRecord:
    """Process the sites of one plate and put its folder into place as a whole."""
    slim = _without_tables(plate)
    tasks = (
        SiteTask(slim, site, correction, settings.size, settings.crop, settings.measure)
        for site in plate.sites
    )
    quality: list[dict[str, Any]] = []
    profiles: dict[str, pd.Series] = {}

    def rows(results: Iterable[Any]) -> Iterator[dict[str, Any]]:
        for well, sites in groupby(results, key=lambda result: result[0]["Metadata_Well"]):
            cells = []
            for row, measured in sites:
                quality.append({name: row[name] for name in ("Metadata_Well", *QC_COLUMNS)})
                cells.append(measured)
                yield row
            if settings.measure:
                profiles[well] = well_profile(cells)

    with atomic_path(plate_folder(out, plate.barcode)) as folder:
        with closing(_bar(mapped(process_site, tasks), len(plate.sites), plate.barcode)) as results:
            digest = write_sites(folder, rows(results))
        means = pd.DataFrame(quality).groupby("Metadata_Well", as_index=False).mean()
        plate.wells.merge(means, on="Metadata_Well", validate="1:1").to_parquet(
            folder / "wells.parquet", index=False
        )
        if settings.measure:
            features = pd.DataFrame(profiles).T.rename_axis("Metadata_Well").reset_index()
            features.insert(0, "Metadata_Plate", plate.barcode)
            features.to_parquet(folder / "features.parquet", index=False)
    return PlateRecord(
        wells=len(plate.wells),
        sites=len(plate.sites),
        sha256=digest,
        channels_present=list(plate.channels_present),
        settings="",
    )


def _write_tables(out: Path, manifest: Manifest, settings: PrepareSettings) -> None:
    """Join the plates' tables, assign splits, normalize profiles, and finish the manifest."""
    folders = [plate_folder(out, barcode) for barcode in manifest.plates]
    parts = [pd.read_parquet(folder / "wells.parquet") for folder in folders]
    wells = _split(pd.concat(parts, ignore_index=True), settings)
    tables = {"wells.parquet": wells}
    if settings.measure:
        parts = [pd.read_parquet(folder / "features.parquet") for folder in folders]
        features = pd.concat(parts, ignore_index=True)
        meta = wells.drop(columns=list(QC_COLUMNS))
        profiles = meta.merge(features, on=WELL_KEY, validate="1:1")
        normalized = normalize_profiles(profiles, manifest.reference)
        tables |= {"profiles.parquet": profiles, "profiles_normalized.parquet": normalized}
        manifest.features = count_missing(profiles, normalized)
    for name, table in tables.items():
        with atomic_path(out / name) as path:
            table.to_parquet(path, index=False)
    save_manifest(out, manifest)


def _split(wells: pd.DataFrame, settings: PrepareSettings) -> pd.DataFrame:
    wells = assign_splits(
        wells,
        settings.held_out_targets,
        inactive_test=settings.inactive_test,
        seed=settings.seed,
    )
    check_no_overlap(wells, settings.held_out_targets)
    return wells


def _without_tables(plate: Plate) -> Plate:
    """Return what a worker needs of a plate: sending all wells with every site would be slow."""
    return replace(plate, wells=plate.wells.iloc[:0], sites=())


def _bar(items: Iterable[Any], total: int, name: str) -> Generator[Any, None, None]:
    """Show progress; closing the generator ends the bar's line, so that an error has its own."""
    with tqdm(total=total, desc=name, unit="site", smoothing=0.05) as bar:
        for item in items:
            yield item
            bar.update()


@contextmanager
def _clear_up(out: Path) -> Iterator[None]:
    """Remove what a killed run left behind, and after an error folders that hold nothing."""
    plates = out / "plates"
    for leftover in plates.glob(".*.tmp*") if plates.is_dir() else ():
        pid = leftover.name.split(".tmp")[0].rsplit(".", 1)[-1]
        if not (pid.isdigit() and psutil.pid_exists(int(pid))):
            shutil.rmtree(leftover)
    try:
        yield
    except BaseException:
        for folder in (plates, out):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        raise
