"""One site from raw pixels to what is stored and measured: the work that runs in parallel."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.errors import InputError
from data.illumination import GRID, correct_illumination
from data.measure import measure_site
from data.plates import Plate, Site
from data.quality import measure_quality
from data.resize import centre_square, resize_area

BRIGHT = 16384
"""Stored value of the reference's 99.9 percentile; four times brighter still fits in uint16."""

PERCENTILES = (0.1, 99.9)
"""Of the reference's pixels: background (stored as 0) and bright end (stored as `BRIGHT`)."""


@dataclass(frozen=True)
class Correction:
    """What turns a plate's raw pixels into comparable ones.

    Attributes
    ----------
    shape : tuple of int
        (H, W) of the plate's raw images.
    illumination : float32 array (C, 6) or None
        Coefficients from `estimate_illumination`; None leaves the images as they are.
    background, bright : float64 arrays (C,)
        Intensities after illumination correction that become 0 and 1.
    """

    shape: tuple[int, ...]
    illumination: NDArray[np.float32] | None
    background: NDArray[np.float64]
    bright: NDArray[np.float64]


@dataclass(frozen=True)
class SiteTask:
    """Everything a worker needs for one site."""

    plate: Plate
    site: Site
    correction: Correction
    size: int
    crop: int | None
    measure: bool


def process_site(task: SiteTask) -> tuple[dict[str, Any], pd.DataFrame | None]:
    """Read, correct, measure, check and shrink one site.

    Features are measured at the raw resolution, on corrected and scaled intensities.

    Returns
    -------
    row : dict
        Columns of `store.SITE_FEATURES`; `pixels` (C, size, size) uint16.
    cells : DataFrame or None
        The result of `measure_site`; None when not measured.

    Raises
    ------
    InputError
        When an image is unreadable or not of the plate's size.
    """
    channels = task.plate.channels
    raw = read_checked(task.plate, task.site, task.correction.shape)
    scaled = _scale(_correct(raw, task.correction), task.correction)
    cells = measure_site(scaled, channels) if task.measure else None
    small = resize_area(centre_square(scaled, task.crop), task.size) * BRIGHT
    row = {
        "pixels": np.clip(np.rint(small), 0, 65535).astype(np.uint16),
        "Metadata_Plate": task.plate.barcode,
        "Metadata_Well": task.site.well,
        "Metadata_Site": task.site.number,
        **measure_quality(raw, scaled, channels),
    }
    return row, cells


def read_checked(plate: Plate, site: Site, shape: tuple[int, ...]) -> NDArray:
    """Read a site and check that it has the size (H, W) of the plate's other sites."""
    raw = plate.read(site)
    if raw.shape[1:] != shape:
        file = next((path for path in site.files if path is not None), f"well {site.well}")
        raise InputError(
            f"{file}: size is {raw.shape[1]} x {raw.shape[2]} pixels, expected "
            f"{shape[0]} x {shape[1]} as in the other images of plate {plate.barcode}"
        )
    return raw


def shrink_site(item: tuple[Plate, Site, tuple[int, ...]]) -> NDArray[np.float32]:
    """Read a site at the resolution of the illumination function: (C, GRID, GRID)."""
    return resize_area(read_checked(*item), GRID)


def count_intensities(
    item: tuple[Plate, Site, Correction],
) -> list[NDArray[np.int64]]:
    """Count a site's illumination-corrected intensities, rounded to whole numbers, per channel."""
    plate, site, correction = item
    corrected = _correct(read_checked(plate, site, correction.shape), correction)
    values = np.clip(np.rint(corrected), 0, 65535).astype(np.uint16)
    return [np.bincount(plane.ravel()) for plane in values]


def percentiles_of_counts(counts: Iterable[NDArray[np.int64]]) -> NDArray[np.float64]:
    """Return (C, 2): for each channel's counts of whole intensities the two `PERCENTILES`."""
    result = []
    for count in counts:
        share = np.cumsum(count) / count.sum()
        result.append([int(np.searchsorted(share, q / 100)) for q in PERCENTILES])
    return np.array(result, np.float64)


def _correct(raw: NDArray, correction: Correction) -> NDArray[np.float32]:
    if correction.illumination is None:
        return raw.astype(np.float32)
    return correct_illumination(raw, correction.illumination)


def _scale(pixels: NDArray[np.float32], correction: Correction) -> NDArray[np.float32]:
    """Map background to 0 and bright end to 1; a channel without contrast becomes 0."""
    background = correction.background[:, None, None]
    span = correction.bright[:, None, None] - background
    scale = np.divide(1, span, out=np.zeros_like(span), where=span > 0)
    return (pixels - background.astype(np.float32)) * scale.astype(np.float32)
