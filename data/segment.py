"""Nuclei from the DNA stain, cells around them, and the cytoplasm between the two."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed

from data.errors import InputError

Labels = NDArray[np.int32]

SMALLEST_NUCLEUS = 40
"""Objects of fewer pixels are debris."""

CELL_REACH = 1.1
"""A cell ends at most this many nucleus diameters outside its nucleus."""


def segment_cells(pixels: NDArray[np.floating], channels: Sequence[str]) -> dict[str, Labels]:
    """Find nuclei, cells and cytoplasm; object n of one is object n of the others.

    Nuclei: Otsu threshold on the smoothed DNA stain, touching nuclei split by a watershed on the
    distance to the edge. Cells: a watershed from the nuclei on the sum of the other stains. Sizes
    are relative to the field's typical nucleus, so that any magnification works.

    Parameters
    ----------
    pixels : float array (C, H, W)
        One site, background near 0.
    channels : sequence of str
        The stain of each plane; must hold "DNA". A plane without signal is left out.

    Returns
    -------
    dict
        "Nuclei", "Cells" and "Cytoplasm": int32 label images (H, W), 0 is background, labels are
        1..n without gaps. All zero where the site has no cell.

    Raises
    ------
    InputError
        When there is no DNA stain (nuclei cannot be found) or planes and names differ in number.
    """
    channels = list(channels)
    if len(channels) != len(pixels):
        raise InputError(
            f"{len(pixels)} channel planes but {len(channels)} stain names: {channels}"
        )
    if "DNA" not in channels:
        raise InputError(
            f"cannot segment cells: stain DNA is missing (found {', '.join(channels)})"
        )
    dna = channels.index("DNA")
    nuclei, diameter = _segment_nuclei(pixels[dna])
    stains = [pixels[i] for i in range(len(pixels)) if i != dna and pixels[i].any()]
    cells = _grow_cells(nuclei, stains or [pixels[dna]], CELL_REACH * diameter)
    return {"Nuclei": nuclei, "Cells": cells, "Cytoplasm": np.where(nuclei > 0, 0, cells)}


def _segment_nuclei(dna: NDArray[np.floating]) -> tuple[Labels, float]:
    """Return nuclei and the field's typical nucleus diameter in pixels."""
    none = np.zeros(dna.shape, np.int32), 1.0
    smooth = ndimage.gaussian_filter(np.asarray(dna, np.float32), 1.0)
    if np.ptp(smooth) == 0:
        return none
    # The square root keeps a few very bright (mitotic) nuclei from hiding the ordinary ones.
    smooth = np.sqrt(smooth - smooth.min())
    mask = ndimage.binary_opening(smooth > threshold_otsu(smooth), iterations=2)
    mask = ndimage.binary_fill_holes(mask)
    # In a field without cells Otsu splits the noise: nuclei must stand clear of the background.
    background = smooth[~mask]
    if not mask.any() or smooth[mask].mean() < background.mean() + 4 * background.std():
        return none
    distance = ndimage.distance_transform_edt(mask)
    # The mean distance to the edge is a third of the radius in a disk, and hardly changes where
    # disks touch.
    diameter = 6 * float(distance[mask].mean())
    distance = ndimage.gaussian_filter(distance, diameter / 12)
    peak = ndimage.maximum_filter(distance, size=max(3, int(diameter / 2))) == distance
    seeds, _ = ndimage.label(peak & mask, structure=np.ones((3, 3)))
    labels = watershed(-distance, seeds, mask=mask)
    keep = np.bincount(labels.ravel()) >= SMALLEST_NUCLEUS
    keep[0] = False
    return (np.cumsum(keep) * keep)[labels].astype(np.int32), diameter


def _grow_cells(nuclei: Labels, stains: list[NDArray[np.floating]], reach: float) -> Labels:
    if not nuclei.any():
        return nuclei
    total = np.zeros(nuclei.shape, np.float32)
    for stain in stains:  # each counts alike: divided by its bright end
        total += stain / max(float(np.percentile(stain, 99)), 1e-6)
    total = np.sqrt(np.maximum(ndimage.gaussian_filter(total, 1.0), 0))
    outside = ndimage.distance_transform_edt(nuclei == 0)
    # Below Otsu's threshold, because cytoplasm is dim beside the bright perinuclear region.
    foreground = (total > 0.7 * threshold_otsu(total)) & (outside <= reach) | (nuclei > 0)
    # The distance keeps borders between cells of equal brightness half way.
    return watershed(outside / reach - 0.3 * total, nuclei, mask=foreground).astype(np.int32)
