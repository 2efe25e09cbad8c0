"""Quality of a site in three numbers; they are recorded, and nothing is dropped for them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def measure_quality(
    raw: NDArray, scaled: NDArray[np.float32], channels: Sequence[str]
) -> dict[str, float]:
    """Measure focus, saturation and background of one site.

    Parameters
    ----------
    raw : array (C, H, W)
        As the camera gave it, saturated pixels at the largest value of its integer type.
    scaled : float32 array (C, H, W)
        Illumination corrected; 0 is the reference's background and 1 its bright end.
    channels : sequence of str
        The stain of each plane; planes without signal are left out.

    Returns
    -------
    dict
        QC_Focus: slope of log power against log frequency of DNA (of the first plane with signal
        where there is no DNA); the more negative, the more blurred.
        QC_Saturation: share of saturated pixels in the worst channel, in [0, 1].
        QC_Background: the highest 1 percentile of a channel, in units of `scaled`; a site's haze.
    """
    present = [i for i in range(len(raw)) if raw[i].any()]
    if not present:
        return {"QC_Focus": 0.0, "QC_Saturation": 0.0, "QC_Background": 0.0}
    dna = next((i for i in present if channels[i] == "DNA"), present[0])
    largest = np.iinfo(raw.dtype).max
    return {
        "QC_Focus": power_slope(scaled[dna]),
        "QC_Saturation": max(float((raw[i] == largest).mean()) for i in present),
        "QC_Background": max(float(np.percentile(scaled[i], 1)) for i in present),
    }


def power_slope(plane: NDArray) -> float:
    """Return the slope of the radially averaged power spectrum on log-log axes.

    As CellProfiler's ImageQuality_PowerLogLogSlope (Bray et al., J Biomol Screen 2012), on a Hann
    window.

    Parameters
    ----------
    plane : array (H, W)
        At least 16 pixels a side; a plane without contrast gives 0.
    """
    plane = plane - plane.mean()
    if not plane.any():
        return 0.0
    # A window, because the jump between opposite borders would look like sharp detail.
    window = np.hanning(plane.shape[0])[:, None] * np.hanning(plane.shape[1])[None]
    power = np.abs(np.fft.rfft2(plane * window)) ** 2
    rows = np.fft.fftfreq(plane.shape[0])[:, None]
    columns = np.fft.rfftfreq(plane.shape[1])[None]
    ring = (np.hypot(rows, columns) * min(plane.shape)).astype(int)
    last = min(plane.shape) // 2  # the corners beyond hold too few frequencies
    counts = np.bincount(ring.ravel(), minlength=last)[1:last]
    means = np.bincount(ring.ravel(), power.ravel(), minlength=last)[1:last] / np.maximum(counts, 1)
    radii = np.arange(1, last)
    keep = means > 0
    if keep.sum() < 2:
        return 0.0
    return float(np.polyfit(np.log(radii[keep]), np.log(means[keep]), 1)[0])
