"""Statistics of cells: what every stain looks like in one cell after another.

Averages over the pixels of a field say how bright and how grainy it is; where in a cell a stain
lies, what shape cells have and which stains lie together is a matter of single cells, and so are
the facts that words are about. Cells are found and measured as facts are (`data.segment`,
`data.pixel_features`), in the image that the tower sees, and each counts alike.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage

from data.channels import STAINS
from data.pixel_features import (
    RINGS,
    correlation_features,
    radial_features,
    shape_features,
    texture_features,
)
from data.segment import segment_cells
from data.spread import column_means
from vlm.planes import has_structure

FINE_ENOUGH = 256
"""Fields with fewer pixels a side are enlarged by a whole number before cells are looked for."""

_RINGS = tuple(f"MeanFrac_{ring + 1}of{RINGS}" for ring in range(RINGS))
_OUTLINE = (
    "Area",
    "Perimeter",
    "FormFactor",
    "Extent",
    "MajorAxisLength",
    "MinorAxisLength",
    "Eccentricity",
)
_TEXTURE = "Correlation_3_00_256"
STATISTICS = (
    *(f"Correlation_{stain}" for stain in STAINS),
    *_RINGS,
    "MeanIntensity_Cells",
    "MeanIntensity_Nuclei",
    "Texture_Cells",
    "Texture_Nuclei",
    *_OUTLINE,
)
"""Of each stain in each cell; the outline is the nucleus' for DNA, the cell's for other stains."""


def measure_cells(
    planes: NDArray[np.floating], channels: Sequence[str]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Find the cells of a field and measure every stain in each of them.

    Parameters
    ----------
    planes : (C, H, W) float
        Intensities, background near 0. A plane whose pixels are all equal is no image.
    channels : sequence of str
        The stain of each plane; one is "DNA".

    Returns
    -------
    labels : (h, w) int32
        Cells 1..n in the field, enlarged where it is small.
    statistics : (n, C, len(STATISTICS)) float32
        NaN where a cell has no value, and of planes without an image.
    """
    fine = _enlarge(planes)
    imaged = {
        stain: plane for stain, plane in zip(channels, fine, strict=True) if np.ptp(plane) > 0
    }
    statistics = np.full((0, len(channels), len(STATISTICS)), np.nan, np.float32)
    if "DNA" not in imaged:
        return np.zeros(fine.shape[1:], np.int32), statistics
    labels = segment_cells(np.stack(list(imaged.values())), list(imaged))
    nuclei, cells = labels["Nuclei"], labels["Cells"]
    if not nuclei.any():
        return cells, statistics
    n = int(nuclei.max())
    statistics = np.full((n, *statistics.shape[1:]), np.nan, np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):
        radial = radial_features(cells, nuclei, imaged)
        pairs = correlation_features(cells, imaged)
        outlines = {"Nuclei": shape_features(nuclei), "Cells": shape_features(cells)}
        for stain, plane in imaged.items():
            found = radial[stain] | outlines["Nuclei" if stain == "DNA" else "Cells"]
            for one, other in pairs:
                if stain in (one, other):
                    found[f"Correlation_{one if stain == other else other}"] = pairs[one, other]
            for part, objects in (("Cells", cells), ("Nuclei", nuclei)):
                found[f"MeanIntensity_{part}"] = ndimage.mean(plane, objects, range(1, n + 1))
                found[f"Texture_{part}"] = texture_features(objects, plane)[_TEXTURE]
            own = statistics[:, list(channels).index(stain)]
            for column, name in enumerate(STATISTICS):
                if name in found:
                    own[:, column] = found[name]
    return cells, np.where(np.isfinite(statistics), statistics, np.nan)


@torch.no_grad()
def encode_cells(
    pixel_values: torch.Tensor, channels: Sequence[str], pixel_scale: Sequence[float]
) -> torch.Tensor:
    """Measure the cells of fields and average over each field's, every cell alike.

    Parameters
    ----------
    pixel_values : (B, S, C, H, W) float
        As the image processor makes them.
    channels : sequence of C str
    pixel_scale : three floats
        gamma, mean and std of the image processor, which are undone.

    Returns
    -------
    (B, S, C, len(STATISTICS)) float
        NaN of a plane without an image, and in fields without cells.
    """
    averages = [
        column_means(measure_cells(field, channels)[1])
        for field in _intensities(pixel_values.flatten(0, 1), pixel_scale)
    ]
    found = torch.from_numpy(np.stack(averages)).unflatten(0, pixel_values.shape[:2])
    return found.to(pixel_values)


def paint_field(
    pixel_values: torch.Tensor, channels: Sequence[str], pixel_scale: Sequence[float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Paint the cells of one field (C, H, W) with their statistics: see `paint_cells`."""
    weight, values = paint_cells(*measure_cells(_intensities(pixel_values, pixel_scale), channels))
    return weight.to(pixel_values), values.to(pixel_values)


def paint_cells(
    labels: NDArray[np.int32], statistics: NDArray[np.float32]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Give each cell's pixels its statistics, and a weight of 1 / its area.

    Parameters
    ----------
    labels, statistics
        Of `measure_cells`.

    Returns
    -------
    weight : (1, h, w) float
    values : (C, f, h, w) float
        Averaged with the weight, their average: a cell without a value has the others' average.
    """
    average = column_means(statistics)  # (C, f)
    filled = np.where(np.isfinite(statistics), statistics, average)
    painted = np.concatenate([np.zeros((1, *average.shape), np.float32), filled])[labels]
    area = np.bincount(labels.ravel(), minlength=len(statistics) + 1)
    area[0] = 0
    weight = np.divide(1.0, area, where=area > 0, out=np.zeros(len(area)))[labels]
    values = torch.from_numpy(painted).permute(2, 3, 0, 1)
    return torch.from_numpy(weight.astype(np.float32))[None], values


def _intensities(pixel_values: torch.Tensor, pixel_scale: Sequence[float]) -> NDArray[np.float32]:
    """Undo what the image processor did to pixels; a plane without an image is 0."""
    gamma, mean, std = pixel_scale
    pixels = pixel_values.float().cpu()
    intensities = (pixels * std + mean).clamp_min(0.0) ** (1 / gamma)
    return intensities.masked_fill(~has_structure(pixels)[..., None, None], 0.0).numpy()


def _enlarge(planes: NDArray[np.floating]) -> NDArray[np.float64]:
    scale = max(1, round(FINE_ENOUGH / max(planes.shape[1:])))
    fine = torch.from_numpy(np.ascontiguousarray(planes, np.float64))[None]
    if scale > 1:
        fine = F.interpolate(fine, scale_factor=scale, mode="bilinear")
    return fine[0].numpy()
