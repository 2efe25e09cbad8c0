"""Single fields of view without a plate around them: each becomes a plate of one well, or of tiles.

A field's intensities are scaled by its own percentiles. A whole field has nothing to be compared
with, and its normalized profile is 0; tiles are compared with the median of all fields' tiles, and
a field's tiles are replicates.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.channels import CHANNELS, order_channels, stain_index
from data.errors import InputError
from data.image_names import HARMONY
from data.normalize import NO_REFERENCE
from data.plates import METADATA_COLUMNS, read_table
from data.prepare import PrepareSettings, prepare
from data.raw import Plate, Site
from data.store import Manifest
from data.tiff import read_tiff

FILE_STAINS = {
    # Phenix names at JUMP; ch6 to ch8 are bright-field at several heights
    **{"ch1": "Mito", "ch2": "AGP", "ch3": "RNA", "ch4": "ER", "ch5": "DNA"},
    # one file a stain
    **{stain.lower(): stain for stain in CHANNELS},
    # CDRP-bio (cpg0012)
    **{"hoechst": "DNA", "ersyto": "ER", "ersytobleed": "RNA", "ph_golgi": "AGP"},
}
"""What a file name (without its ending, lower case) or a Phenix channel says about the stain."""

WELL_ROWS, WELL_COLUMNS = "ABCDEFGHIJKLMNOP", 24
"""Of a plate that takes tiles."""


def prepare_field(
    pixels: NDArray,
    channels: Sequence[str],
    out: str | Path,
    *,
    name: str = "field",
    size: int = 128,
    measure: bool = True,
) -> Manifest:
    """Make a prepared store of one field.

    Parameters
    ----------
    pixels : integer array (C, H, W)
        Cut to the central square before it is shrunk.
    channels : sequence of str
        The stain of each plane, in any order; Cell Painting's missing stains become zero planes.
    out : path
        The store's folder.
    name : str
        The plate's barcode in the store; the well is A01.
    size : int
        Height and width in the store.
    measure : bool
        Measure the cells (needs DNA).

    Raises
    ------
    InputError
        When a stain is unknown or given twice, or the pixels do not fit.
    """
    settings = PrepareSettings(size=size, measure=measure, processes=1)
    plate = field_plate(pixels, channels, name)
    return prepare([plate], out, settings, source="fields", reference=NO_REFERENCE)


def read_fields(folder: str | Path, tile: int = 0) -> list[Plate]:
    """Read every field below a folder, each as a plate of one well, or of one a tile.

    A field is a sub-folder with one 16-bit TIFF a stain (JUMP's Phenix names or stain names), or
    with `images.npy` (sites, C, H, W) and `channels.csv` (column channel), one field a site. A
    Nuclei.csv of CellProfiler in it says where the whole field's nuclei are.

    Parameters
    ----------
    folder : path
    tile : int
        Side of the tiles in raw pixels; 0 for the whole field.

    Raises
    ------
    InputError
        When there is no field, an image is unreadable, or a field does not fit the tiles.
    """
    folder = Path(folder)
    plates = []
    for field in sorted(path for path in folder.glob("*") if path.is_dir()):
        if (field / "images.npy").is_file():
            plates += _read_stack(field, tile)
        elif files := _stain_files(field):
            pixels = [read_tiff(path) for path in files.values()]
            for path, plane in zip(files.values(), pixels, strict=True):
                if plane.shape != pixels[0].shape:
                    raise InputError(
                        f"{path}: size is {plane.shape}, expected {pixels[0].shape} as in the "
                        "field's other channels"
                    )
            plate = field_plate(np.stack(pixels), list(files), field.name, tile)
            nuclei = next(iter(sorted(field.rglob("Nuclei.csv"))), None)
            if nuclei and not tile:  # its positions are the whole field's
                plate = replace(plate, sites=(replace(plate.sites[0], nuclei=nuclei),))
            plates.append(plate)
    if not plates:
        raise InputError(f"{folder}: no folders with one TIFF a stain, or with images.npy")
    return plates


def field_plate(pixels: NDArray, channels: Sequence[str], name: str, tile: int = 0) -> Plate:
    """Return a plate that holds the given (C, H, W) integer pixels in well A01, or a tile a well.

    Parameters
    ----------
    pixels, channels, name
        As for `prepare_field`.
    tile : int
        Side of the tiles in pixels; 0 for the whole field.
    """
    if pixels.ndim != 3 or len(pixels) != len(channels) or pixels.dtype.kind != "u":
        raise InputError(
            f"field {name}: expected unsigned pixels ({len(channels)}, H, W), found "
            f"{pixels.dtype} of shape {pixels.shape}"
        )
    for stain in channels:
        stain_index(stain)
    if len(set(channels)) < len(channels):
        raise InputError(f"field {name}: a stain is given twice in {', '.join(channels)}")
    planes = order_channels(channels)
    ordered = np.zeros((len(planes), *pixels.shape[1:]), pixels.dtype)
    for stain, plane in zip(channels, pixels, strict=True):
        ordered[planes.index(stain)] = plane
    parts = cut_wells(ordered, tile, name) if tile else {"A01": ordered}
    # Which reagent it got is not known, and nothing is made up.
    known = dict.fromkeys(METADATA_COLUMNS, "") | {
        "Metadata_Plate": name,
        "Metadata_broad_sample": name,
        "Metadata_pert_type": "trt",
        "Metadata_Time": 0,
        "Metadata_simulated": False,
    }
    return Plate(
        barcode=name,
        channels=planes,
        channels_present=tuple(stain in channels for stain in planes),
        wells=pd.DataFrame([known | {"Metadata_Well": well} for well in parts]),
        sites=tuple(Site(well, 1, ()) for well in parts),
        read=partial(_given, parts=parts),
    )


def cut_wells(pixels: NDArray, tile: int, name: str) -> dict[str, NDArray]:
    """Cut (C, H, W) pixels into squares of `tile` pixels around the centre: A01, A02, ..., B01, ...

    What is left over at the borders is not used.

    Raises
    ------
    InputError
        When there is not one tile, or there are more than a plate has rows and columns.
    """
    height, width = pixels.shape[1:]
    rows, columns = height // tile, width // tile
    if not (0 < rows <= len(WELL_ROWS) and 0 < columns <= WELL_COLUMNS):
        raise InputError(
            f"field {name} of {height} x {width} pixels has {rows} x {columns} tiles of {tile}; "
            f"expected 1 x 1 to {len(WELL_ROWS)} x {WELL_COLUMNS}"
        )
    top, left = (height - rows * tile) // 2, (width - columns * tile) // 2
    return {
        f"{WELL_ROWS[row]}{column + 1:02d}": pixels[
            :, (y := top + row * tile) : y + tile, (x := left + column * tile) : x + tile
        ]
        for row in range(rows)
        for column in range(columns)
    }


def _given(site: Site, parts: dict[str, NDArray]) -> NDArray:
    return parts[site.well]


def _stain_files(field: Path) -> dict[str, Path]:
    files = {}
    for path in sorted(field.rglob("*.tif*")):
        match = HARMONY.fullmatch(path.name)
        stain = FILE_STAINS.get(match["channel"] if match else path.stem.lower())
        if stain:
            files[stain] = path
    return files


def _read_stack(field: Path, tile: int) -> list[Plate]:
    path = field / "images.npy"
    try:
        stack = np.load(path)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path}: not a readable NumPy array ({error})") from None
    channels = read_table(field / "channels.csv", ["channel"])["channel"].tolist()
    if stack.ndim != 4:
        raise InputError(f"{path}: expected (sites, C, H, W), found shape {stack.shape}")
    return [
        field_plate(pixels, channels, f"{field.name}_{number}", tile)
        for number, pixels in enumerate(stack, start=1)
    ]
