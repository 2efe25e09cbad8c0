"""Quality of a site in a few numbers; they are recorded, and nothing is dropped for them."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft

FOCUS_SIDE = 512
"""Focus is measured in a square of at most so many pixels: enough, and five times faster."""

FULL_SCALES = (2**12 - 1, 2**14 - 1, 2**16 - 1)
"""Largest values of cameras of 12, 14 and 16 bits, which all store 16."""

DEBRIS = 4.0
"""Four times the reference's bright end: no cell is so bright, and the store ends there."""


def measure_quality(
    raw: NDArray, scaled: NDArray[np.float32], channels: Sequence[str]
) -> dict[str, float]:
    """Measure focus, saturation, background and debris of one site.

    Parameters
    ----------
    raw : array (C, H, W)
        As the camera gave it, saturated pixels at the largest value of its 8, 12, 14 or 16 bits.
    scaled : float32 array (C, size, size)
        What is stored: shrunk, illumination corrected, 0 the reference's background and 1 its
        bright end.
    channels : sequence of str
        The stain of each plane; planes without signal are left out.

    Returns
    -------
    dict
        QC_Focus: slope of log power against log frequency of DNA (of the first plane with signal
        where there is no DNA); the more negative, the more blurred.
        QC_Saturation: share of saturated pixels in the worst channel, in [0, 1].
        QC_Background: the highest 1 percentile of a channel, in units of `scaled`; a site's haze.
        QC_Debris: share of pixels brighter than `DEBRIS` in the worst channel, in [0, 1]: dust,
        fibres, precipitate; the store clips them.
    """
    present = [i for i in range(len(raw)) if raw[i].any()]
    if not present:
        return dict.fromkeys(("QC_Focus", "QC_Saturation", "QC_Background", "QC_Debris"), 0.0)
    dna = next((i for i in present if channels[i] == "DNA"), present[0])
    return {
        # Blur shows at full resolution, and uneven light does not change the fine structure.
        "QC_Focus": power_slope(raw[dna]),
        "QC_Saturation": max(saturated_share(raw[i]) for i in present),
        "QC_Background": max(float(np.percentile(scaled[i], 1)) for i in present),
        "QC_Debris": max(float((scaled[i] > DEBRIS).mean()) for i in present),
    }


def flat_planes(raw: NDArray) -> NDArray[np.bool_]:
    """Say which planes (C, H, W) are one value all over: black, or saturated, and no image.

    The first row decides of nearly every image: every site of a screen is asked.
    """
    one = raw[:, :1, :1]
    flat = (raw[:, 0] == one[:, 0]).all(axis=1)
    flat[flat] = (raw[flat] == one[flat]).all(axis=(1, 2))
    return flat


def saturated_share(plane: NDArray) -> float:
    """Return the share of pixels at the camera's largest value; 0 when none reaches one."""
    brightest = plane.max()
    if brightest != np.iinfo(plane.dtype).max and brightest not in FULL_SCALES:
        return 0.0
    return float((plane == brightest).mean())


def power_slope(plane: NDArray) -> float:
    """Return the slope of the radially averaged power spectrum on log-log axes.

    As CellProfiler's ImageQuality_PowerLogLogSlope (Bray et al., J Biomol Screen 2012), on a Hann
    window over the central `FOCUS_SIDE` pixels.

    Parameters
    ----------
    plane : array (H, W)
        At least 16 pixels a side; a plane without contrast gives 0.
    """
    top, left = ((max(0, length - FOCUS_SIDE)) // 2 for length in plane.shape)
    plane = plane[top : top + FOCUS_SIDE, left : left + FOCUS_SIDE].astype(np.float32)
    plane -= plane.mean(dtype=np.float64)
    if not plane.any():
        return 0.0
    window, ring, counts = _rings(*plane.shape)
    power = np.abs(fft.rfft2(plane * window)) ** 2
    last = min(plane.shape) // 2  # the corners beyond hold too few frequencies
    means = np.bincount(ring, power.ravel(), minlength=last)[1:last] / counts
    radii = np.arange(1, last)
    keep = means > 0
    if keep.sum() < 2:
        return 0.0
    return float(np.polyfit(np.log(radii[keep]), np.log(means[keep]), 1)[0])


@lru_cache(maxsize=2)
def _rings(height: int, width: int) -> tuple[NDArray, NDArray, NDArray]:
    """Return the window (H, W), the ring of each frequency (flat) and the rings' sizes."""
    # A window, because the jump between opposite borders would look like sharp detail.
    window = np.hanning(height)[:, None] * np.hanning(width)[None]
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    ring = (np.hypot(rows, columns) * min(height, width)).astype(np.intp).ravel()
    last = min(height, width) // 2
    counts = np.maximum(np.bincount(ring, minlength=last)[1:last], 1)
    return window.astype(np.float32), ring, counts
