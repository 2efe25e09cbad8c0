"""One site from raw pixels to what is stored and measured: the work that runs in parallel."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.errors import InputError
from data.illumination import GRID, illumination_field
from data.measure import measure_site
from data.parts import cut_cells, cut_tiles, nucleus_centres, read_centres
from data.quality import flat_planes, measure_quality
from data.raw import Plate, Site
from data.resize import centre_square, resize_area
from data.segment import segment_cells

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
        Coefficients from `estimate_illumination`; None where the plate has published functions, or
        leaves its images as they are.
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
    tiles: int = 1
    cells: int = 0


def attempt(function: Callable[[Any], Any], item: Any) -> Any:
    """Call, and return an InputError in place of raising it: one bad file must not end a plate."""
    try:
        return function(item)
    except InputError as error:
        return error


def process_site(task: SiteTask) -> tuple[list[dict[str, Any]], pd.DataFrame | None]:
    """Read, measure, cut, shrink, correct and check one site.

    Features are measured at the raw resolution, on corrected and scaled intensities. What is stored
    is shrunk first and corrected then: light changes so slowly across a field that both orders give
    the same (to 1e-3), and the second is many times cheaper.

    Returns
    -------
    rows : list of dict
        Columns of `store.SITE_FEATURES`; `pixels` (C, size, size) uint16. One for the field, or one
        a tile or cell, each with the field's quality.
    cells : DataFrame or None
        The result of `measure_site`; None when not measured.

    Raises
    ------
    InputError
        When an image is unreadable or not of the plate's size.
    """
    plate, site, correction = task.plate, task.site, task.correction
    raw = read_checked(plate, site, correction.shape)
    flat = flat_planes(raw)
    centres = None if site.nuclei is None else read_centres(site.nuclei, correction.shape)
    cut = task.cells > 0 or task.tiles > 1
    cells, full = None, np.zeros(0, np.float32)
    if task.measure or cut:
        light = _light(plate, correction)
        even = raw.astype(np.float32) if light is None else np.divide(raw, light, dtype=np.float32)
        full = _scale(even, correction)
        full[flat] = 0
    if task.measure or (task.cells and centres is None):
        exact = full.astype(np.float64)
        labels = segment_cells(exact, plate.channels)
        cells = measure_site(exact, plate.channels, labels) if task.measure else None
        centres = nucleus_centres(labels["Nuclei"]) if centres is None else centres
    small = resize_area(centre_square(raw, task.crop), task.size)
    light = _light(plate, correction, task.crop, task.size)
    if light is not None:
        small = small / light
    small = _scale(small, correction)
    small[flat] = 0
    parts = [small]
    if task.cells and task.crop and centres is not None:
        squares = cut_cells(full, centres, task.crop, task.cells)
        parts = [resize_area(square, task.size) for square in squares]
    elif task.tiles > 1:
        squares = cut_tiles(centre_square(full, task.crop), task.tiles)
        parts = [resize_area(square, task.size) for square in squares]
    facts = {
        "Metadata_Plate": plate.barcode,
        "Metadata_Well": site.well,
        "Metadata_Site": site.number,
        "Metadata_X": site.position[0] if site.position else np.nan,
        "Metadata_Y": site.position[1] if site.position else np.nan,
        **measure_quality(raw, small, plate.channels),
        "QC_Cells": np.nan if centres is None else len(centres),
    }
    rows = [
        {
            "pixels": np.clip(np.rint(part * BRIGHT), 0, 65535).astype(np.uint16),
            "Metadata_Part": number if cut else 0,
            **facts,
        }
        for number, part in enumerate(parts, start=1)
    ]
    return rows, cells


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


def sample_site(
    item: tuple[Plate, Site, tuple[int, ...], int],
) -> tuple[NDArray[np.float32], NDArray]:
    """Read a site for its plate's correction: (plate, site, shape, step).

    Returns
    -------
    float32 array (C, GRID, GRID)
        The site at the resolution at which illumination is estimated.
    integer array (C, h, w)
        Every step-th raw pixel of every step-th row.
    """
    plate, site, shape, step = item
    raw = read_checked(plate, site, shape)
    return resize_area(raw, GRID), np.ascontiguousarray(raw[:, ::step, ::step])


def count_intensities(
    pixels: NDArray, light: NDArray[np.float32] | None
) -> list[NDArray[np.int64]]:
    """Count (C, h, w) pixels, divided by their light and rounded to whole numbers, per channel."""
    corrected = pixels if light is None else np.rint(pixels / light)
    values = np.clip(corrected, 0, 65535).astype(np.uint16)
    return [np.bincount(plane.ravel()) for plane in values]


def percentiles_of_counts(counts: Iterable[NDArray[np.int64]]) -> NDArray[np.float64]:
    """Return (C, 2): for each channel's counts of whole intensities the two `PERCENTILES`."""
    result = []
    for count in counts:
        share = np.cumsum(count) / count.sum()
        result.append([int(np.searchsorted(share, q / 100)) for q in PERCENTILES])
    return np.array(result, np.float64)


def draw_light(
    published: Callable[[], NDArray[np.float32]] | None,
    coefficients: NDArray[np.float32] | None,
    shape: tuple[int, ...],
) -> NDArray[np.float32] | None:
    """Return the light of a raw field as (C, H, W) with the published functions before estimates.

    Returns
    -------
    float32 array (C, H, W) or None
        What raw pixels are divided by; None where they are left as they are.

    Raises
    ------
    InputError
        When a published function cannot be read or is not of the images' size.
    """
    if published is None:
        return None if coefficients is None else illumination_field(coefficients, *shape)
    light = published()
    if light.shape[1:] != shape:
        raise InputError(
            f"published illumination functions are {light.shape[1]} x {light.shape[2]} pixels, "
            f"the plate's images {shape[0]} x {shape[1]}"
        )
    return light


def _light(
    plate: Plate, correction: Correction, crop: int | None = None, size: int | None = None
) -> NDArray[np.float32] | None:
    """Return the light at full resolution; with a size, cropped and shrunk like what is stored."""
    estimated = correction.illumination
    return _cached_light(
        plate.illumination,
        None if estimated is None else estimated.tobytes(),
        correction.shape,
        crop,
        size,
    )


@lru_cache(maxsize=4)
def _cached_light(
    published: Callable[[], NDArray[np.float32]] | None,
    estimated: bytes | None,
    shape: tuple[int, ...],
    crop: int | None,
    size: int | None,
) -> NDArray[np.float32] | None:
    """Draw a plate's light once a worker; the arguments are all that it depends on."""
    coefficients = None if estimated is None else np.frombuffer(estimated, np.float32)
    light = draw_light(
        published, coefficients if coefficients is None else coefficients.reshape(-1, 6), shape
    )
    if light is None or size is None:
        return light
    return resize_area(centre_square(light, crop), size)


def _scale(pixels: NDArray[np.float32], correction: Correction) -> NDArray[np.float32]:
    """Map background to 0 and bright end to 1; a channel without contrast becomes 0."""
    background = correction.background[:, None, None]
    span = correction.bright[:, None, None] - background
    scale = np.divide(1, span, out=np.zeros_like(span), where=span > 0)
    return (pixels - background.astype(np.float32)) * scale.astype(np.float32)
