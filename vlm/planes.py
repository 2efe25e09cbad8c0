"""Planes of stains: whether they are images, where they are bright, how they go together."""

from functools import partial

import torch
import torch.nn.functional as F

FLAT = 1e-4
"""A plane whose pixel values differ by less is no image."""
NEIGHBOURHOOD = 8
"""A pixel's neighbourhood is so many times narrower than the field."""


def has_structure(pixel_values: torch.Tensor) -> torch.Tensor:
    """Say which planes are images: (..., H, W) to (...) bool, False where all pixels are equal.

    Resizing a flat plane leaves rounding errors; the dimmest pixel of an image is far above them.
    """
    return pixel_values.amax(dim=(-2, -1)) - pixel_values.amin(dim=(-2, -1)) > FLAT


def foreground(plane: torch.Tensor) -> torch.Tensor:
    """Softly threshold a plane at 35 % of the way from its 10 % to its 98 % quantile.

    Parameters
    ----------
    plane : (N, 1, H, W) float

    Returns
    -------
    (N, 1, H, W) float in [0, 1]
    """
    smooth = F.avg_pool2d(plane, 3, stride=1, padding=1)
    ends = torch.tensor([0.1, 0.98], device=plane.device, dtype=plane.dtype)
    low, high = smooth.flatten(1).quantile(ends, dim=1)[:, :, None, None, None]
    span = (high - low).clamp_min(1e-6)
    return torch.sigmoid((smooth - low - 0.35 * span) / (0.08 * span))


def pair_products(pixel_values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Say, pixel by pixel, how each two channels go together: the mean is their correlation.

    Pearson's correlation, of deviations from the neighbourhood's mean: as they are, all stains are
    bright where a cell is and dark where none is.

    Parameters
    ----------
    pixel_values : (N, C, H, W) float
    weight : (N, 1, H, W) float in [0, 1]
        What a pixel counts.

    Returns
    -------
    (N, C, C, H, W) float
        Averaged with the weight, a correlation; 0 of a channel with itself or without structure.
    """
    side = max(pixel_values.shape[-2:]) // NEIGHBOURHOOD // 2
    around = partial(F.avg_pool2d, kernel_size=2 * side + 1, stride=1, padding=side)
    local = around(pixel_values * weight) / around(weight).clamp_min(1e-3)
    deviation = pixel_values - local  # (N, C, H, W)
    share = weight / weight.sum(dim=(-2, -1), keepdim=True).clamp_min(1e-6)
    spread = (share * deviation.square()).sum(dim=(-2, -1), keepdim=True).sqrt()
    deviation = torch.where(spread > FLAT / 10, deviation / spread.clamp_min(1e-9), 0.0)
    apart = 1 - torch.eye(deviation.shape[1], device=deviation.device, dtype=deviation.dtype)
    return deviation[:, :, None] * deviation[:, None] * apart[..., None, None]
