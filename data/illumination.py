"""Uneven illumination: estimated per plate and channel from the plate's own images."""

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

GRID = 32
"""Sites are shrunk to this height and width to estimate their plate's illumination."""


def estimate_illumination(images: Iterable[NDArray]) -> NDArray[np.float32]:
    """Estimate the illumination of a plate: a quadratic surface through its mean image.

    As CellProfiler's CorrectIlluminationCalculate with "Fit Polynomial" over all images, rescaled
    to mean 1 so that intensities keep their level. On simulated plates of 50 sites, where the light
    is known, its error is 2 to 4 %, against 3 to 5 % for a Gaussian-smoothed mean and 5 to 6 % for
    no correction: few images leave cells in the mean, which a Gaussian follows.

    Parameters
    ----------
    images : iterable of arrays (C, GRID, GRID)
        Sites shrunk by `resize_area`; read once.

    Returns
    -------
    float32 array (C, 6)
        Coefficients of 1, x, y, x^2, xy, y^2, with x and y from -0.5 to 0.5 across the field;
        flat where a channel has no signal.
    """
    total, count = np.zeros(()), 0
    for image in images:
        total = total + image
        count += 1
    if not count:
        raise ValueError("cannot estimate illumination from no images")
    terms = _terms(GRID, GRID).astype(np.float64)
    values = (total / count).reshape(len(total), -1)
    coefficients = np.linalg.lstsq(terms.T, values.T.astype(np.float64), rcond=None)[0].T
    mean = (coefficients @ terms).mean(axis=1, keepdims=True)
    flat = np.eye(1, 6)
    scaled = np.divide(coefficients, mean, out=np.zeros_like(coefficients), where=mean > 0)
    return np.where(mean > 0, scaled, flat).astype(np.float32)


def illumination_field(
    coefficients: NDArray[np.float32], height: int, width: int
) -> NDArray[np.float32]:
    """Draw an illumination function as a (C, height, width) float32 image with mean 1.

    At least 0.05 everywhere: no place of a field is without light, so less is a wild fit.
    """
    field = np.asarray(coefficients @ _terms(height, width), np.float32)
    return field.clip(min=0.05).reshape(-1, height, width)


@lru_cache(maxsize=2)
def _terms(height: int, width: int) -> NDArray[np.float32]:
    """Return (6, height * width): the terms of a quadratic at the pixels' centres."""
    rows, columns = np.mgrid[:height, :width].reshape(2, -1)
    y, x = (rows + 0.5) / height - 0.5, (columns + 0.5) / width - 0.5
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y]).astype(np.float32)
