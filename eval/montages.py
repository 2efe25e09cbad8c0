"""Wells as pictures: their channels side by side, and over them what drove the embedding."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import ndimage

from data.segment import segment_cells

WHITE = 16384  # the controls' 99.9 percentile in the prepared store
MAX_SITES = 4
"""Sites that are drawn; of more, those that add or take most."""

BLUR = 3 / 128
"""Of a field's side: neighbours that add and take the same cancel, as they do in the sum."""


def montage(pixels: np.ndarray, channels: list[str], title: str) -> Figure:
    """Draw one site's channels side by side.

    Parameters
    ----------
    pixels : (C, H, W) uint16
        As in the prepared store: all wells of a plate share one scale.
    channels : list of str
    title : str
    """
    drawing = Figure(figsize=(1.6 * len(channels), 1.9), layout="constrained")
    drawing.suptitle(title, fontsize=9, x=0.01, ha="left")
    for axes, plane, name in zip(drawing.subplots(1, len(channels)), pixels, channels, strict=True):
        axes.imshow(_grey(plane), cmap="gray", vmin=0, vmax=1.1)
        axes.set_title(name, fontsize=8)
        axes.axis("off")
    return drawing


def described_figure(
    pixels: Sequence[NDArray[np.uint16]], channels: Sequence[str], texts: Sequence[str]
) -> Figure:
    """Draw a row a well: its channels side by side, and what is said of it.

    Parameters
    ----------
    pixels : sequence of (C, H, W) uint16
        One site a well, as in the prepared store; a plane without light was not imaged.
    channels : sequence of str
    texts : sequence of str
        Lines, written as they are.
    """
    columns = len(channels)
    drawing = Figure(figsize=(1.25 * columns + 4.6, 1.35 * len(pixels)), layout="constrained")
    grid = drawing.subplots(
        len(pixels), columns + 1, squeeze=False, width_ratios=[*[1.25] * columns, 4.6]
    )
    for row, (axes, planes, text) in enumerate(zip(grid, pixels, texts, strict=True)):
        for panel, plane, name in zip(axes, planes, channels, strict=False):
            panel.imshow(_grey(plane), cmap="gray", vmin=0, vmax=1.1)
            if not plane.any():
                panel.text(0.5, 0.5, "not imaged", color="white", fontsize=7, ha="center",
                           transform=panel.transAxes)  # fmt: skip
            panel.set_title("" if row else name, fontsize=8)
        where = {"va": "top", "family": "monospace", "transform": axes[-1].transAxes}
        axes[-1].text(0, 1, text, fontsize=5.5, **where)
        for panel in axes:
            panel.axis("off")
    return drawing


def attribution_figure(
    pixels: NDArray[np.uint16],
    channels: Sequence[str],
    heat: NDArray[np.floating],
    shares: pd.DataFrame,
    title: str,
) -> Figure:
    """Draw what each place of a well adds to a cosine: a row a site, a column a channel.

    Red adds to it, blue takes away, by averages over a cell's surroundings (`BLUR`); numbers are
    the parts of the cosine. Where there is a DNA stain, a last column has each cell in one colour,
    all channels together.

    Parameters
    ----------
    pixels : (S, C, H, W) uint16
        As in the prepared store.
    channels : sequence of str
    heat : (S, C, h, w) float
        From `vlm.attribution.explain`; of an inflated stem (S, 1, h, w), drawn over every channel.
    shares : DataFrame
        A row a site (its name is the index), a column a column of `heat`.
    title : str
    """
    order = shares.sum(axis=1).abs().to_numpy().argsort(kind="stable")[::-1][:MAX_SITES]
    rows = np.sort(order)
    if len(rows) < len(shares):
        title += f" (the strongest {len(rows)} of {len(shares)} sites)"
    has_cells = "DNA" in channels
    columns = len(channels) + has_cells
    drawing = Figure(figsize=(1.6 * columns + 0.4, 1.6 * len(rows) + 0.6), layout="constrained")
    drawing.suptitle(title, fontsize=9, x=0.01, ha="left")
    grid = drawing.subplots(len(rows), columns, squeeze=False)
    blur = BLUR * heat.shape[-1]
    smooth = ndimage.gaussian_filter(heat, (0, 0, blur, blur))
    limit = max(float(np.quantile(np.abs(smooth[rows]), 0.995)), 1e-12)
    together = shares.shape[1] == 1 < len(channels)
    for axes, s in zip(grid, rows, strict=True):
        for c, name in enumerate(channels):
            own = 0 if together else c
            _draw_heat(axes[c], pixels[s, c], smooth[s, own], limit)
            if not together:
                name = f"{name}  {shares.iloc[:, c].sum():+.2f}"
                part, bottom = f"{shares.iloc[s, c]:+.2f}", 0.95 * pixels.shape[2]
                axes[c].text(0.03 * pixels.shape[3], bottom, part, color="white", fontsize=7)
            axes[c].set_title(name if s == rows[0] else "", fontsize=8)
        if has_cells:
            cells = find_cells(pixels[s], channels)
            _draw_cells(axes[-1], pixels[s], cells, sum_by_cell(heat[s].sum(axis=0), cells))
            axes[-1].set_title("cells" if s == rows[0] else "", fontsize=8)
        axes[0].set_ylabel(f"{shares.index[s]}\n{shares.iloc[s].sum():+.2f}", fontsize=8)
        for panel in axes:
            panel.set(xticks=[], yticks=[])
    return drawing


def find_cells(pixels: NDArray[np.uint16], channels: Sequence[str]) -> NDArray[np.int32]:
    """Find the cells of a prepared field: (H, W) labels, 0 is background.

    Prepared fields are small. Drawn twice as large, at 128 pixels as many cells are found as in
    the raw 256 (four simulated fields: 116; as they are, 100).
    """
    twice = ndimage.zoom(pixels.astype(np.float32), (1, 2, 2), order=1)
    return segment_cells(twice, channels)["Cells"][::2, ::2]


def sum_by_cell(heat: NDArray[np.floating], cells: NDArray[np.int32]) -> NDArray[np.floating]:
    """Add up a heat map (h, w) over each cell 1..n of labels (H, W): (n,)."""
    h, w = heat.shape
    rows = np.arange(h) * len(cells) // h
    columns = np.arange(w) * cells.shape[1] // w
    labels = cells[rows][:, columns]
    return np.bincount(labels.ravel(), heat.ravel(), cells.max() + 1)[1:].astype(heat.dtype)


def _draw_heat(axes: Axes, plane: NDArray, heat: NDArray, limit: float) -> None:
    extent = (0, plane.shape[1], plane.shape[0], 0)  # the model may see fields of another size
    axes.imshow(_grey(plane), cmap="gray", vmin=0, vmax=1.1, extent=extent)
    strength = np.clip(np.abs(heat) / limit, 0, 1)
    axes.imshow(heat, cmap="RdBu_r", vmin=-limit, vmax=limit, alpha=strength, extent=extent)


def _draw_cells(axes: Axes, pixels: NDArray, cells: NDArray, parts: NDArray) -> None:
    axes.imshow(_grey(pixels.mean(axis=0)), cmap="gray", vmin=0, vmax=1.1)
    limit = max(float(np.abs(parts).max(initial=0)), 1e-12)
    coloured = np.concatenate([[0.0], parts])[cells]
    axes.imshow(coloured, cmap="RdBu_r", vmin=-limit, vmax=limit, alpha=0.6 * (cells > 0))


def _grey(plane: NDArray) -> NDArray:
    return np.sqrt(np.minimum(plane / WHITE, 1.5))
