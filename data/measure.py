"""Measure the cells of a site: CellProfiler's features under CellProfiler's names.

A subset chosen to cost about 0.1 CPU-seconds a 256 x 256 field and to cover count, size, shape,
and each stain's intensity, distribution, texture, granularity and correlation.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from cp_measure.core.measuregranularity import get_granularity
from numpy.typing import NDArray

from data.pixel_features import (
    correlation_features,
    intensity_features,
    radial_features,
    shape_features,
    texture_features,
)
from data.segment import Labels, segment_cells

NUCLEAR_STAINS = ("DNA", "RNA")
"""Stains whose pattern inside the nucleus is measured too (chromatin, nucleoli)."""

GRANULAR_STAINS = ("Mito",)
"""Stains whose grain size is measured (mitochondria break up or clump)."""

COUNT = "Image_Count_Nuclei"


def measure_site(
    pixels: NDArray[np.floating], channels: Sequence[str], labels: dict[str, Labels] | None = None
) -> pd.DataFrame:
    """Segment one site and measure its cells.

    Parameters
    ----------
    pixels : float array (C, H, W)
        Background near 0; 1.0 is a bright control pixel.
    channels : sequence of str
        The stain of each plane, any subset that holds "DNA". A plane without signal is left out.
    labels : dict, optional
        What `segment_cells` found, where that has been called already.

    Returns
    -------
    DataFrame
        One row a cell, one float column a feature, for example `Nuclei_AreaShape_Area` (pixels),
        `Cells_Intensity_MeanIntensity_Mito`, `Cells_RadialDistribution_MeanFrac_1of4_ER`,
        `Cells_Correlation_Correlation_DNA_ER`; `Image_Count_Nuclei` repeats in each row. No rows
        where the site has no cell. A value that cannot be computed is NaN.

    Raises
    ------
    InputError
        When there is no DNA stain.
    """
    pixels = np.asarray(pixels, np.float64)
    labels = labels or segment_cells(pixels, channels)
    planes = {stain: plane for stain, plane in zip(channels, pixels, strict=True) if plane.any()}
    if not labels["Nuclei"].any():  # measure one made-up cell for the names, and drop it
        return _measure(_one_square(pixels.shape[1:]), planes).iloc[:0]
    return _measure(labels, planes)


def well_profile(cells_of_sites: Sequence[pd.DataFrame]) -> pd.Series:
    """Average a well's cells; the count is the mean number of cells a site.

    Parameters
    ----------
    cells_of_sites : sequence of DataFrame
        The results of `measure_site` for the well's sites.

    Returns
    -------
    Series
        One float64 a feature. Features of a well without cells are NaN, its count is 0.
    """
    profile = pd.concat(list(cells_of_sites), ignore_index=True).mean()
    profile[COUNT] = float(np.mean([len(cells) for cells in cells_of_sites]))
    return profile


def _measure(labels: dict[str, Labels], planes: dict[str, NDArray[np.float64]]) -> pd.DataFrame:
    with np.errstate(invalid="ignore", divide="ignore"):
        table = pd.DataFrame(dict(_features(labels, planes)))
    table[COUNT] = float(len(table))
    return table.replace([np.inf, -np.inf], np.nan)


def _one_square(shape: tuple[int, ...]) -> dict[str, Labels]:
    cell = np.zeros(shape, np.int32)
    cell[: shape[0] // 2, : shape[1] // 2] = 1
    nucleus = np.zeros(shape, np.int32)
    nucleus[: shape[0] // 4, : shape[1] // 4] = 1
    return {"Nuclei": nucleus, "Cells": cell, "Cytoplasm": cell - nucleus}


def _features(
    labels: dict[str, Labels], planes: dict[str, NDArray[np.float64]]
) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Yield (feature name, one value a cell)."""
    nuclei, cells, cytoplasm = labels["Nuclei"], labels["Cells"], labels["Cytoplasm"]
    n = int(nuclei.max())
    for compartment, objects in (("Nuclei", nuclei), ("Cells", cells)):
        for name, values in shape_features(objects).items():
            yield f"{compartment}_AreaShape_{name}", values

    radial = radial_features(cells, nuclei, planes)
    for stain, plane in planes.items():
        inside = [("Nuclei", nuclei)] if stain in NUCLEAR_STAINS else []
        outside = [("Cytoplasm", cytoplasm)] if stain != "DNA" else []
        for compartment, objects in [*inside, ("Cells", cells), *outside]:
            for name, values in intensity_features(objects, plane, n).items():
                yield f"{compartment}_Intensity_{name}_{stain}", values
        for compartment, objects in [*inside, ("Cells", cells)]:
            for name, values in texture_features(objects, plane).items():
                yield f"{compartment}_Texture_{name}_{stain}", values
        for name, values in radial[stain].items():
            yield f"Cells_RadialDistribution_{name}_{stain}", values
        if stain in GRANULAR_STAINS:
            grains = get_granularity(cells, plane, subsample_size=0.5, granular_spectrum_length=3)
            for name, values in grains.items():
                yield f"Cells_{name}_{stain}", values

    for (one, other), values in correlation_features(cells, planes).items():
        yield f"Cells_Correlation_Correlation_{one}_{other}", values
