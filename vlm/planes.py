"""Planes of stains: whether they are images, and where they are bright."""

import torch
import torch.nn.functional as F

FLAT = 1e-4
"""A plane whose pixel values differ by less is no image."""


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
