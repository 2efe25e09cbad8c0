"""What the wells of a plate are made from: whether what is stored is still right."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from data.raw import Plate, Site
from data.store import FORMAT, PlateRecord, checksum, plate_folder


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


def _stamp(file: Path) -> tuple[str, int, str]:
    try:
        stat = file.stat()
    except FileNotFoundError:
        return file.name, -1, ""
    return file.name, stat.st_size, str(stat.st_mtime_ns)
