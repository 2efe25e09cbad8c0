"""Uneven illumination: estimated per plate and channel from the plate's own images.

The function is kept on a coarse grid: it is smooth, so 32 x 32 values hold it, and a plate of
1080-pixel fields costs no more memory than one of small ones.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from data.resize import resize_area

GRID = 32
"""Height and width of the grid on which an illumination function is kept."""

SMOOTHING = 0.12
"""Gaussian sigma as a share of the field: wider than cells, narrower than vignetting."""


def estimate_illumination(images: Iterable[NDArray]) -> NDArray[np.float32]:
    """Estimate the illumination function of a plate: the smoothed mean of its images.

    As CellProfiler's CorrectIlluminationCalculate ("Regular", all images, Gaussian smoothing), but
    rescaled to mean 1 so that intensities keep their level.

    Parameters
    ----------
    images : iterable of arrays (C, h, w)
        Sites, or sites shrunk to a grid by `resize_area`; any iterable, read once.

    Returns
    -------
    float32 array (C, GRID, GRID)
        Mean 1 per channel; all 1 where a channel has no signal.
    """
    total, count = np.zeros(()), 0
    for image in images:
        total = total + resize_area(image, GRID)
        count += 1
    if not count:
        raise ValueError("cannot estimate illumination from no images")
    sigma = (0, SMOOTHING * GRID, SMOOTHING * GRID)
    smooth = ndimage.gaussian_filter(total / count, sigma, mode="nearest")
    mean = smooth.mean(axis=(1, 2), keepdims=True)
    flat = np.divide(smooth, mean, out=np.ones_like(smooth), where=mean > 0)
    return np.maximum(flat, 0.05).astype(np.float32)


def correct_illumination(pixels: NDArray, illumination: NDArray[np.float32]) -> NDArray[np.float32]:
    """Divide a site by the plate's illumination function.

    Parameters
    ----------
    pixels : array (C, H, W)
    illumination : float32 array (C, GRID, GRID)

    Returns
    -------
    float32 array (C, H, W)
    """
    height, width = pixels.shape[1:]
    field = np.stack(
        [
            np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR))
            for plane in illumination
        ]
    )
    return pixels / field
