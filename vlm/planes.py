"""Planes of stains: whether they are images, and where they are bright."""

from collections.abc import Sequence

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


def compartments(
    pixel_values: torch.Tensor, channels: Sequence[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tell, softly, where nuclei and cytoplasm are.

    Nuclei are the bright part of the DNA stain, cells that of the other stains together; cytoplasm
    is cells without nuclei. Without a DNA stain, both are the cells.

    Parameters
    ----------
    pixel_values : (N, C, H, W) float
    channels : sequence of C str
        The stain of each channel.

    Returns
    -------
    nuclei, cytoplasm : (N, 1, H, W) float in [0, 1]
    """
    others = [i for i, name in enumerate(channels) if name != "DNA"]
    cells = foreground(pixel_values[:, others or [0]].mean(dim=1, keepdim=True))
    if "DNA" not in channels:
        return cells, cells
    dna = list(channels).index("DNA")
    nuclei = foreground(pixel_values[:, dna : dna + 1])
    return nuclei, (cells - nuclei).clamp_min(0.0)
