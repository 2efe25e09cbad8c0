"""From raw plates to the prepared store: plate by plate, streaming, resumable."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd

from data.correction import find_correction, sample_sites
from data.errors import InputError
from data.files import atomic_path, locked_folder
from data.inputs import Work, file_stamps, hash_inputs, read_stored
from data.normalize import MEDIAN_WELL, SAME_PLATE_CONTROLS, count_missing, normalize_profiles
from data.parallel import ordered_map
from data.raw import Plate
from data.shard import Failure, PrepareSettings, write_plate
from data.splits import assign_splits, check_no_overlap
from data.store import QC_COLUMNS, Manifest, load_manifest, plate_folder, save_manifest

TABLES = ("wells.parquet", "profiles.parquet", "profiles_normalized.parquet")

FAILURES = "failed.tsv"

WELL_KEY = ["Metadata_Plate", "Metadata_Well"]


@dataclass(frozen=True)
class Plan:
    """What preparing would do: plates and wells to make, bytes to read, bytes of disk to need."""

    plates: int
    wells: int
    files: int
    read_bytes: int
    disk_bytes: int


def prepare(
    plates: Sequence[Plate],
    out: str | Path,
    settings: PrepareSettings,
    *,
    source: str,
    reference: str = SAME_PLATE_CONTROLS,
) -> Manifest:
    """Write a prepared store, or bring one up to date.

    A well that is already there, made from the same files with the same settings and intact, is not
    made again. A plate appears in the store when it is complete, so an interruption costs at most
    the plate in work. A second process on the same store waits for the first.

    A file that cannot be read costs its well and nothing else: the other wells are finished,
    `load_failures` lists what is missing and why, and the next run tries again.

    Parameters
    ----------
    plates : sequence of Plate
        All with the same channels.
    out : path
        The store's folder.
    settings : PrepareSettings
    source : str
        Where the plates are from; noted in the manifest.
    reference : str
        What intensities and profiles are compared with (see `data.normalize`).
        `SAME_PLATE_CONTROLS`: the plate's negcon wells give background and bright end, and
        illumination is estimated where no functions are published. `MEDIAN_WELL`: all images of the
        data set do, without an estimate of illumination (a plate has too few images).
        `NO_REFERENCE`: each plate for itself.

    Raises
    ------
    InputError
        When nothing at all can be read, or `out` holds something else.
    OSError
        When the disk is full (errno ENOSPC), naming the store.
    """
    out = Path(out)
    # A misspelt target must fail here, not after hours.
    wells = _split(pd.concat([plate.wells for plate in plates], ignore_index=True), settings)
    try:
        with locked_folder(out), _clear_up(out):
            works = _inspect(plates, out, settings, reference)
            manifest = Manifest(
                source=source,
                channels=list(plates[0].channels),
                size=settings.size,
                reference=reference,
                simulated=bool(wells["Metadata_simulated"].any()),
                plates={w.plate.barcode: w.stored.record for w in works if w.stored and w.done},
                held_out_targets=sorted(settings.held_out_targets),
            )
            failures = _make_plates(works, out, settings, reference, manifest)
            if not manifest.plates:
                raise InputError(failures[0].error)
            _write_failures(out, failures)
            made = [plate.barcode for plate in plates if plate.barcode in manifest.plates]
            manifest.plates = {barcode: manifest.plates[barcode] for barcode in made}
            _write_tables(out, manifest, wells)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(out)) from error
    return manifest


def plan(
    plates: Sequence[Plate], out: str | Path, settings: PrepareSettings, *, reference: str
) -> Plan:
    """Work out what `prepare` would do with the same arguments; nothing is written.

    The sites that a correction is estimated from are counted as read twice: once for that.
    """
    works = [work for work in _inspect(plates, Path(out), settings, reference) if not work.done]
    todo = {
        work.plate.barcode: [s for s in work.plate.sites if s.well not in work.reusable()]
        for work in works
    }
    sites = [site for found in todo.values() for site in found]
    sampled = [site for _, site, _ in sample_sites([work.plate for work in works], reference)]
    sizes = [max(size, 0) for site in (*sites, *sampled) for _, size, _ in file_stamps(site)]
    parts = settings.cells or settings.tiles**2
    pixels = len(plates[0].channels) * settings.size**2 * 2 * parts
    return Plan(
        plates=len(works),
        wells=sum(len({site.well for site in found}) for found in todo.values()),
        files=sum(len(file_stamps(site)) for site in sites),
        read_bytes=sum(sizes),
        # All plates, and one of them a second time while it is put together.
        disk_bytes=pixels * sum(len(plate.sites) for plate in plates)
        + pixels * max((len(work.plate.sites) for work in works), default=0),
    )


def load_failures(out: str | Path) -> pd.DataFrame:
    """Read what the last run could not: one row a site with plate, well, site and error.

    Rows without a well stand for a whole plate, or for its published profiles.
    """
    path = Path(out) / FAILURES
    if not path.is_file():
        return pd.DataFrame(columns=["plate", "well", "site", "error"])
    return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)


def _inspect(
    plates: Sequence[Plate], out: Path, settings: PrepareSettings, reference: str
) -> list[Work]:
    """Compare every plate with what the store has of it; refuse a store of others."""
    for plate in plates:
        if plate.channels != plates[0].channels:
            raise InputError(
                f"plate {plate.barcode} has the stains {', '.join(plate.channels)}, plate "
                f"{plates[0].barcode} has {', '.join(plates[0].channels)}: prepare them apart"
            )
    choices = (
        settings.size,
        settings.crop,
        settings.tiles,
        settings.cells,
        settings.measure,
        reference,
    )
    inputs = {plate.barcode: hash_inputs(plate, choices) for plate in plates}
    if reference == MEDIAN_WELL:  # every plate's intensities depend on all plates
        whole = "".join(found.digest() for found in inputs.values())
        joint = hashlib.sha256(whole.encode()).hexdigest()
        inputs = {barcode: replace(found, settings=joint) for barcode, found in inputs.items()}
    records = _read_records(out)
    others = sorted(set(records) - set(inputs))
    if others:
        raise InputError(
            f"prepared store {out} holds plate {others[0]}, which is not in the input: "
            "choose another folder"
        )
    return [
        Work(
            plate,
            inputs[plate.barcode],
            read_stored(out, plate.barcode, records.get(plate.barcode)),
        )
        for plate in plates
    ]


def _read_records(out: Path) -> dict:
    """Return the records of the plates in a store; refuse a folder that is something else."""
    content = {path.name for path in out.iterdir()} - {".lock"} if out.is_dir() else set()
    if "manifest.json" in content:
        return load_manifest(out).plates
    if content - {"plates", FAILURES}:  # those are left when the first plate is interrupted
        raise InputError(f"{out} is not empty and not a prepared store: choose another folder")
    return {}


def _make_plates(
    works: Sequence[Work],
    out: Path,
    settings: PrepareSettings,
    reference: str,
    manifest: Manifest,
) -> list[Failure]:
    """Make what is missing, and note each plate in the manifest as soon as it is there."""
    todo = [work for work in works if not work.done]
    if not todo:
        return []
    failures: list[Failure] = []
    with ordered_map(settings.processes, settings.scheduler, settings.jobs) as mapped:
        shared = None
        if reference == MEDIAN_WELL:
            shared = find_correction([work.plate for work in works], reference, mapped)
        for work in todo:
            try:
                correction = shared or find_correction([work.plate], reference, mapped)
                record, failed = write_plate(work, out, correction, settings, mapped)
            except InputError as error:
                failures.append(Failure(work.plate.barcode, "", 0, str(error)))
                continue
            failures += failed
            for name in TABLES:  # they describe the plates that were there before
                (out / name).unlink(missing_ok=True)
            manifest.plates[work.plate.barcode] = record
            save_manifest(out, manifest)
    return failures


def _write_failures(out: Path, failures: Sequence[Failure]) -> None:
    path = out / FAILURES
    if not failures:
        path.unlink(missing_ok=True)
        return
    with atomic_path(path) as file:
        pd.DataFrame([asdict(failure) for failure in failures]).to_csv(file, sep="\t", index=False)


def _write_tables(out: Path, manifest: Manifest, wells: pd.DataFrame) -> None:
    """Join the plates' tables, normalize profiles, and finish the manifest.

    `wells` are all wells with their split: whether some could not be read moves no reagent.
    """
    folders = [plate_folder(out, barcode) for barcode in manifest.plates]
    parts = [pd.read_parquet(folder / "wells.parquet") for folder in folders]
    quality = pd.concat(parts, ignore_index=True)[[*WELL_KEY, *QC_COLUMNS]]
    wells = wells.merge(quality, on=WELL_KEY, validate="1:1")
    tables = {"wells.parquet": wells}
    measured = [path for f in folders if (path := f / "features.parquet").is_file()]
    if measured:
        features = pd.concat([pd.read_parquet(path) for path in measured], ignore_index=True)
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


@contextmanager
def _clear_up(out: Path) -> Iterator[None]:
    """Remove what a killed run left behind, and after an error folders that hold nothing.

    Under the store's lock: whatever is half-written belongs to nobody any more.
    """
    plates = out / "plates"
    for leftover in plates.glob(".*.tmp*") if plates.is_dir() else ():
        shutil.rmtree(leftover)
    try:
        yield
    except BaseException:
        if plates.is_dir() and not any(plates.iterdir()):
            plates.rmdir()
        raise
