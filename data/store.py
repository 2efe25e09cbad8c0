"""The prepared store: what preparation writes and everything later reads.

A folder with `manifest.json`, `plates/<barcode>/` (a `datasets` folder, one row a site, memory
mapped), `wells.parquet`, `profiles.parquet` and `profiles_normalized.parquet`.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import Dataset, Features, Value
from numpy.typing import NDArray

from data.errors import InputError
from data.files import atomic_path

FORMAT = 2
"""Raised when the layout changes so that older folders must be prepared again."""

QC_COLUMNS = ("QC_Focus", "QC_Saturation", "QC_Background", "QC_Debris", "QC_Cells")
"""What they mean: `data.quality`. QC_Cells is NaN where cells were not looked for."""

SITE_FEATURES = Features(
    {
        # Raw bytes and not Array3D: random reads are about ten times faster and still memory map.
        "pixels": Value("large_binary"),
        "Metadata_Plate": Value("string"),
        "Metadata_Well": Value("string"),
        "Metadata_Site": Value("int32"),
        # 0 is the whole field; with --tiles or --cells the tile or cell of it, from 1.
        "Metadata_Part": Value("int32"),
        # Micrometres from the well's centre to the site's, NaN where that is not known.
        "Metadata_X": Value("float32"),
        "Metadata_Y": Value("float32"),
        **{name: Value("float32") for name in QC_COLUMNS},
    }
)


class PlateRecord(TypedDict):
    """What the manifest says about one plate."""

    wells: int
    sites: int
    sha256: str
    channels_present: list[bool]
    pixel_size: float | None  # micrometres of a stored pixel, where the microscope noted them
    settings: str  # hash of what its wells were made from: equal means nothing to do again


@dataclass
class Manifest:
    """What a prepared store holds and how it was made (`manifest.json`).

    Attributes
    ----------
    source : str
        "plates", "bbbc021" or "fields".
    channels : list of str
        The stain of each pixel plane.
    size : int
        Height and width of a site in pixels.
    reference : str
        What features and intensities were compared with: "same-plate controls",
        "data set's median well" or "none (single field)".
    simulated : bool
        True when any plate came from the simulator.
    plates : dict
        Barcode to `PlateRecord`.
    held_out_targets : list of str
        The targets of the "test" reagents in Metadata_split.
    features : dict
        Counts about the profiles: features "kept", "dropped" (no value in any well, or none among
        the reference wells), "filled" (single missing values, 0 in the normalized profiles).
    """

    source: str
    channels: list[str]
    size: int
    reference: str
    simulated: bool
    plates: dict[str, PlateRecord] = field(default_factory=dict)
    held_out_targets: list[str] = field(default_factory=list)
    features: dict[str, int] = field(default_factory=dict)
    format: int = FORMAT

    def imaged_stains(self, barcode: str) -> list[str]:
        """Return the stains that a plate was imaged in."""
        present = self.plates[barcode]["channels_present"]
        return [stain for stain, there in zip(self.channels, present, strict=True) if there]


def load_manifest(folder: str | Path) -> Manifest:
    """Read the manifest of a prepared store.

    Raises
    ------
    InputError
        When the folder is missing, is not a prepared store, or has another format.
    """
    folder = Path(folder)
    path = folder / "manifest.json"
    advice = "expected a folder made by scripts/prepare_data.py"
    if not path.is_file():
        what = "has no manifest.json" if folder.is_dir() else "does not exist"
        raise InputError(f"prepared store {folder} {what}: {advice}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content.get("format")
        if found != FORMAT:
            raise InputError(
                f"{path}: format is {found}, expected {FORMAT}: prepare the data again, into "
                "another folder"
            )
        return Manifest(**content)
    except (json.JSONDecodeError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is not a manifest of prepared plates ({error}): {advice}"
        ) from None


def save_manifest(folder: str | Path, manifest: Manifest) -> None:
    """Write the manifest of a prepared store (atomically)."""
    with atomic_path(Path(folder) / "manifest.json") as path:
        path.write_text(json.dumps(asdict(manifest), indent=2) + "\n", encoding="utf-8")


def plate_folder(folder: str | Path, barcode: str) -> Path:
    """Return where the store keeps one plate."""
    return Path(folder) / "plates" / barcode


def load_wells(folder: str | Path) -> pd.DataFrame:
    """Read the wells: one row a well, all Metadata_ columns and the QC columns.

    Raises
    ------
    InputError
        When the folder is not a prepared store or its preparation has not finished.
    """
    return _load_table(folder, "wells.parquet")


def load_profiles(folder: str | Path, normalized: bool) -> pd.DataFrame:
    """Read the profiles: Metadata_ columns and the mean CellProfiler features of a well's cells.

    Parameters
    ----------
    folder : path
        A prepared store.
    normalized : bool
        Robust z against the reference wells (NaN-free) instead of the raw means.

    Raises
    ------
    InputError
        When the folder is not a prepared store or was prepared without measuring.
    """
    return _load_table(folder, f"profiles{'_normalized' if normalized else ''}.parquet")


def load_sites(folder: str | Path, plates: Sequence[str] | None = None) -> Dataset:
    """Open the sites of a store: one row a site, memory mapped, nothing is read yet.

    Parameters
    ----------
    folder : path
        A prepared store.
    plates : sequence of str, optional
        Barcodes; all plates of the manifest by default. Rows follow this order.

    Returns
    -------
    datasets.Dataset
        `pixels` (C, H, W) uint16 arrays, Metadata_Plate, Metadata_Well, Metadata_Site and the QC
        columns. Pixels are decoded on reading and selecting, sorting and filtering keep that;
        `site_table` gives the other columns at once.

    Raises
    ------
    InputError
        When the folder is not a prepared store or lacks a plate.
    """
    manifest = load_manifest(folder)
    parts = []
    for barcode in manifest.plates if plates is None else plates:
        if barcode not in manifest.plates:
            known = ", ".join(manifest.plates)
            raise InputError(f"prepared store {folder} has no plate {barcode!r}: it holds {known}")
        path = plate_folder(folder, barcode)
        try:
            parts.append(datasets.load_from_disk(str(path)))
        except (FileNotFoundError, pa.ArrowInvalid) as error:
            raise InputError(
                f"plate folder {path} is missing or damaged: prepare it again"
            ) from error
    if not parts:
        raise InputError(f"prepared store {folder} holds no plates: prepare it again")
    shape = (len(manifest.channels), manifest.size, manifest.size)
    return datasets.concatenate_datasets(parts).with_transform(partial(_decode, shape=shape))


def read_pixels(sites: Dataset, rows: Sequence[int] | NDArray[np.integer]) -> NDArray[np.uint16]:
    """Read the pixels of some rows of `load_sites`: one copy out of the memory map.

    Returns
    -------
    uint16 array (N, C, H, W)
        In the order of `rows`; control background is 0, the controls' 99.9 percentile 16384.
    """
    # Through the columns' transform each site would be copied three times, as a scalar twice.
    places = np.asarray(rows, np.int64)
    if sites._indices is not None:  # a selection
        places = sites._indices.column(0).take(places).to_numpy()
    column = sites.data.column("pixels")
    # The sites of a well lie one after another: they are found, and copied, at once.
    runs = np.split(places, np.flatnonzero(np.diff(places) != 1) + 1)
    views = [np.empty(0, np.uint16)]
    for run in runs:
        if len(run):
            views += _views(column.slice(run[0], len(run)))
    shape = sites._format_kwargs["transform"].keywords["shape"]
    return np.concatenate(views).reshape(len(places), *shape)


def site_table(sites: Dataset) -> pd.DataFrame:
    """Return all columns of the sites but the pixels, in row order."""
    return sites.remove_columns("pixels").with_format(None).to_pandas()


def write_sites(folder: str | Path, rows: Iterable[dict[str, Any]]) -> str:
    """Stream site rows into a `datasets` folder; only one row is in memory at a time.

    Parameters
    ----------
    folder : path
        Created; the caller makes it atomic.
    rows : iterable of dict
        Columns of `SITE_FEATURES`, `pixels` being a (C, H, W) uint16 array.

    Returns
    -------
    str
        SHA-256 of the Arrow files.
    """
    folder = Path(folder)
    stream = folder / "stream" / "sites.arrow"
    stream.parent.mkdir(parents=True)
    schema = SITE_FEATURES.arrow_schema
    with pa.OSFile(str(stream), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for row in rows:
            encoded = {**row, "pixels": row["pixels"].astype("<u2", copy=False).tobytes()}
            writer.write_batch(pa.RecordBatch.from_pylist([encoded], schema=schema))
    bars = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        Dataset.from_file(str(stream)).save_to_disk(str(folder), num_shards=1)
    finally:
        if bars:
            datasets.enable_progress_bars()
    shutil.rmtree(stream.parent)
    return checksum(folder)


def stored_rows(folder: Path, wells: set[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of some wells of a plate folder, as `write_sites` takes them."""
    if not wells:
        return
    rows = datasets.load_from_disk(str(folder))
    for row in range(len(rows)):
        if rows.data.column("Metadata_Well")[row].as_py() in wells:
            content = rows[row]
            yield {**content, "pixels": np.frombuffer(content["pixels"], "<u2")}


def read_site_table(folder: Path) -> pd.DataFrame:
    """Return all columns of a plate folder's sites but the pixels."""
    return datasets.load_from_disk(str(folder)).remove_columns("pixels").to_pandas()


def checksum(folder: str | Path) -> str:
    """Return the SHA-256 of a plate folder's Arrow files, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(Path(folder).glob("*.arrow")):
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _views(column: pa.ChunkedArray) -> Iterator[NDArray[np.uint16]]:
    """Yield a large_binary column where it lies in the memory map, whole chunks at a time."""
    for chunk in column.chunks:
        _, offsets, content = chunk.buffers()
        # A chunk's values lie one after another.
        places = np.frombuffer(offsets, np.int64)
        start, stop = places[chunk.offset], places[chunk.offset + len(chunk)]
        yield np.frombuffer(content, "<u2", (stop - start) // 2, start)


def _decode(batch: dict[str, list], shape: tuple[int, int, int]) -> dict[str, list]:
    if "pixels" in batch:
        batch["pixels"] = [np.frombuffer(b, "<u2").reshape(shape) for b in batch["pixels"]]
    return batch


def _load_table(folder: str | Path, name: str) -> pd.DataFrame:
    load_manifest(folder)
    path = Path(folder) / name
    if not path.is_file():
        raise InputError(
            f"prepared store {folder} has no {name}: its preparation was interrupted or ran with "
            "--measure false; run scripts/prepare_data.py again"
        )
    return pd.read_parquet(path)
