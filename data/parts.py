"""Parts of a field that are stored in its place: tiles, or crops around single cells."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from data.errors import InputError
from data.segment import Labels

CENTRE_COLUMNS = (
    ("AreaShape_Center_X", "AreaShape_Center_Y"),
    ("Location_Center_X", "Location_Center_Y"),
    ("Nuclei_Location_Center_X", "Nuclei_Location_Center_Y"),
)
"""What CellProfiler calls the centre of an object: in Nuclei.csv, and in tables of locations."""


def cut_tiles(pixels: NDArray, tiles: int) -> list[NDArray]:
    """Cut (C, S, S) pixels into tiles x tiles squares, row by row, without the rest at the end."""
    side = pixels.shape[1] // tiles
    starts = range(0, side * tiles, side)
    return [pixels[:, y : y + side, x : x + side] for y in starts for x in starts]


def cut_cells(pixels: NDArray, centres: NDArray[np.float64], side: int, most: int) -> list[NDArray]:
    """Cut squares of `side` pixels around cells out of (C, H, W) pixels.

    Parameters
    ----------
    pixels : array (C, H, W)
    centres : float array (n, 2)
        Row and column of each nucleus. Where a square would cross the border it is moved inside.
    side : int
    most : int
        Of more cells so many are taken, evenly spread over the list.

    Returns
    -------
    list of array (C, side, side)
        One a cell; of a field without cells its centre, so that the well stays in the store.

    Raises
    ------
    InputError
        When the field is smaller than a square.
    """
    height, width = pixels.shape[1:]
    if min(height, width) < side:
        raise InputError(
            f"images are {height} x {width} pixels, smaller than the crop of {side} around a cell"
        )
    if not len(centres):
        centres = np.array([[height / 2, width / 2]])
    chosen = np.unique(np.linspace(0, len(centres) - 1, min(most, len(centres))).astype(int))
    corners = np.rint(centres[chosen] - side / 2).astype(int)
    corners = np.clip(corners, 0, [height - side, width - side])
    return [pixels[:, y : y + side, x : x + side] for y, x in corners]


def nucleus_centres(nuclei: Labels) -> NDArray[np.float64]:
    """Return row and column of the centre of each nucleus 1..n, (n, 2)."""
    count = int(nuclei.max())
    centres = ndimage.center_of_mass(nuclei > 0, nuclei, np.arange(1, count + 1))
    return np.array(centres, np.float64).reshape(count, 2)


def read_centres(path: str | Path, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Read a site's nuclei from CellProfiler's table.

    Parameters
    ----------
    path : path
        A CSV with one row a nucleus and one of the pairs of `CENTRE_COLUMNS`, in raw pixels.
    shape : tuple of int
        (H, W) of the site's images.

    Returns
    -------
    float array (n, 2)
        Row and column.

    Raises
    ------
    InputError
        When the table is unreadable, has no such columns, holds several images, or a nucleus lies
        outside the image.
    """
    try:
        table = pd.read_csv(path)
    except FileNotFoundError:
        raise InputError(f"{path}: table of nuclei is missing") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable table of nuclei ({error})") from None
    pair = next((pair for pair in CENTRE_COLUMNS if set(pair) <= set(table)), None)
    if pair is None:
        raise InputError(
            f"{path}: no columns {' and '.join(CENTRE_COLUMNS[0])}, nor CellProfiler's other names "
            "for the centre of a nucleus"
        )
    if "ImageNumber" in table and table["ImageNumber"].nunique() > 1:
        raise InputError(f"{path}: holds the nuclei of several images, expected one site's")
    numbers = table[list(pair)].apply(pd.to_numeric, errors="coerce")
    x, y = numbers.to_numpy(np.float64).T
    outside = ~((x >= 0) & (y >= 0) & (x <= shape[1]) & (y <= shape[0]))
    if outside.any():
        row = int(np.flatnonzero(outside)[0])
        raise InputError(
            f"{path} row {row + 2}: nucleus at x {x[row]:g}, y {y[row]:g} is outside the image of "
            f"{shape[0]} x {shape[1]} pixels"
        )
    return np.stack([y, x], axis=1)
