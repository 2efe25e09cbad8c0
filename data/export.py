"""A prepared plate as OME-Zarr, for napari and whatever else reads that format."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from data.errors import InputError
from data.files import atomic_path
from data.site import BRIGHT
from data.store import load_manifest, load_sites, read_pixels, site_table

COLOURS = {
    "DNA": "0000FF",
    "ER": "00FF00",
    "RNA": "FFFF00",
    "AGP": "FF8000",
    "Mito": "FF0000",
    "Tubulin": "00FFFF",
    "Actin": "FF00FF",
    "Brightfield": "FFFFFF",
}
"""What a viewer shows each stain of `data.channels.STAINS` in."""

SMALLEST = 32
"""The pyramid of smaller copies ends before an image is smaller than this."""

GRIDS = ((8, 12), (16, 24))
"""Rows and columns of a 96 and a 384-well plate."""


def export_plate(store: str | Path, barcode: str, out: str | Path, version: str = "0.5") -> int:
    """Write a prepared plate as an OME-Zarr plate (high-content screening).

    Parameters
    ----------
    store : path
        A prepared store.
    barcode : str
    out : path
        The plate's folder, by custom called *.ome.zarr; must not exist.
    version : str
        "0.5" (zarr 3) or "0.4" (zarr 2).

    Returns
    -------
    int
        The number of images. They hold the stains that were imaged, as uint16 as in the store: 0
        is the reference's background and `BRIGHT` its bright end. Image 0 is site 1; tiles and
        cells are numbered through.

    Raises
    ------
    InputError
        When the store lacks the plate, `out` exists, or the version is another one.
    """
    try:
        import zarr
        from ome_zarr.format import format_from_version
        from ome_zarr.writer import write_image, write_plate_metadata, write_well_metadata
    except ImportError:
        raise InputError(
            "writing OME-Zarr needs the extra `zarr`: pip install 'morphoclip[zarr]'"
        ) from None
    if version not in ("0.4", "0.5"):
        raise InputError(f"OME-Zarr version is {version!r}, expected 0.4 or 0.5")
    if Path(out).exists():
        raise InputError(f"{out} exists already: choose another name, or remove it")
    manifest = load_manifest(store)
    sites = load_sites(store, [barcode])
    table = site_table(sites)
    record = manifest.plates[barcode]
    stains = manifest.imaged_stains(barcode)
    channels = [
        {
            "label": stain,
            "color": COLOURS[stain],
            "active": True,
            "window": {"min": 0, "max": 65535, "start": 0, "end": BRIGHT},
        }
        for stain in stains
    ]
    paths = [f"{well[0]}/{int(well[1:])}" for well in table["Metadata_Well"]]
    numbers = table["Metadata_Site"] - 1
    if table["Metadata_Part"].any():  # tiles and cells are numbered through
        numbers = table.groupby("Metadata_Well").cumcount()
    names = [str(number) for number in numbers]
    wells = list(dict.fromkeys(paths))
    rows, columns = next(
        (rows, columns)
        for rows, columns in GRIDS
        if all(ord(p[0]) - 64 <= rows and int(p[2:]) <= columns for p in wells)
    )
    chosen = format_from_version(version)
    factors = [2**n for n in range(1, 16) if manifest.size // 2**n >= SMALLEST]
    with atomic_path(out) as folder:
        root = zarr.open_group(str(folder), mode="w", zarr_format=chosen.zarr_format)
        write_plate_metadata(
            root,
            [chr(ord("A") + row) for row in range(rows)],
            [str(column + 1) for column in range(columns)],
            wells,
            fmt=chosen,
            field_count=int(max(paths.count(well) for well in wells)),
            name=barcode,
        )
        for well in wells:
            images = [name for path, name in zip(paths, names, strict=True) if path == well]
            write_well_metadata(root.require_group(well), images, fmt=chosen)
        for row, (well, name) in enumerate(
            tqdm(list(zip(paths, names, strict=True)), desc=barcode, unit="site")
        ):
            (pixels,) = read_pixels(sites, [row])
            write_image(
                pixels[np.flatnonzero(record["channels_present"])],
                root.require_group(f"{well}/{name}"),
                scale_factors=factors,
                axes=_axes(record["pixel_size"]),
                coordinate_transformations=_place(table.iloc[row], record["pixel_size"], factors),
                fmt=chosen,
                storage_options={"chunks": (1, manifest.size, manifest.size)},
                name=f"{barcode} {table['Metadata_Well'][row]} {name}",
                metadata={"omero": {"channels": channels}},
            )
    return len(table)


def _axes(pixel_size: float | None) -> list[dict[str, str]]:
    unit = {} if pixel_size is None else {"unit": "micrometer"}
    space = [{"name": name, "type": "space", **unit} for name in "yx"]
    return [{"name": "c", "type": "channel"}, *space]


def _place(
    site: pd.Series, pixel_size: float | None, factors: Sequence[int]
) -> list[list[dict[str, Any]]] | None:
    """Return scale and place in the well of each resolution; None where they are not known."""
    if pixel_size is None:
        return None
    steps = [
        {"type": "scale", "scale": [1.0, pixel_size * factor, pixel_size * factor]}
        for factor in (1, *factors)
    ]
    if pd.isna(site["Metadata_X"]):
        return [[step] for step in steps]
    # A microscope's Y points up, an image's down.
    place = [0.0, -float(site["Metadata_Y"]), float(site["Metadata_X"])]
    return [[step, {"type": "translation", "translation": place}] for step in steps]
