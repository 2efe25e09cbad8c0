"""Shrinking images without aliasing."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from data.errors import InputError


def centre_square(pixels: NDArray, side: int | None = None) -> NDArray:
    """Cut the central square out of (C, H, W) pixels: the largest, or one of `side` pixels."""
    height, width = pixels.shape[1:]
    side = min(height, width, side or max(height, width))
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[:, top : top + side, left : left + side]


def resize_area(pixels: NDArray, size: int) -> NDArray[np.float32]:
    """Shrink (C, H, W) pixels to (C, size, size): each output pixel is the mean of its area.

    Exact for any factor (pixels on a border count in part), so the mean stays what it was and
    nothing aliases.

    Raises
    ------
    InputError
        When the image is smaller than `size`: preparation never invents pixels.
    """
    height, width = pixels.shape[1:]
    if min(height, width) < size:
        raise InputError(
            f"images are {height} x {width} pixels, smaller than the size asked for ({size}): "
            f"choose a size of at most {min(height, width)}"
        )
    pixels = pixels.astype(np.float32, copy=False)
    if (height, width) == (size, size):
        return pixels
    # Few input pixels count in an output pixel: sparse weights are 20 times faster than full ones.
    rows, columns = _area_weights(height, size), _area_weights(width, size)
    shrunk = [columns @ np.ascontiguousarray((rows @ plane).T) for plane in pixels]
    return np.stack([plane.T for plane in shrunk])


@lru_cache(maxsize=8)
def _area_weights(length: int, size: int) -> sparse.csr_array:
    """Return (size, length) float32: the share of each input pixel in each output pixel."""
    edges = np.linspace(0, length, size + 1)
    start, stop = edges[:-1, None], edges[1:, None]
    pixel = np.arange(length)[None]
    overlap = np.clip(np.minimum(stop, pixel + 1) - np.maximum(start, pixel), 0, None)
    return sparse.csr_array((overlap * size / length).astype(np.float32))
