"""The benchmark's figures: after Figures 4 and 5 of the CPJUMP1 paper."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

_CONDITION = ["modality", "cell", "time"]
_COLOURS = ("#0b5cad", "#d1622b", "#3a8f5c", "#8a4fa0", "#8c6d1f", "#555f6b")


def significance_figure(labels: pd.DataFrame) -> Figure:
    """Draw mAP against -log10 q, a panel a condition, a dot a label, a colour a representation.

    Parameters
    ----------
    labels : DataFrame
        modality, cell, time, series (what the colour stands for), mean_average_precision, q_value.
    """
    panels = list(labels.groupby(_CONDITION, sort=True))
    n_columns = min(4, len(panels))
    n_rows = -(-len(panels) // n_columns)
    figure = Figure(figsize=(2.8 * n_columns + 0.6, 2.5 * n_rows + 0.6), layout="constrained")
    grid = figure.subplots(n_rows, n_columns, squeeze=False, sharex=True, sharey=True).ravel()
    names = list(dict.fromkeys(labels["series"]))
    for axes, (condition, rows) in zip(grid, panels, strict=False):
        for colour, name in zip(_colours(names), names, strict=True):
            dots = rows[rows["series"] == name]
            axes.scatter(
                dots["mean_average_precision"],
                -np.log10(dots["q_value"]),
                s=8,
                alpha=0.6,
                color=colour,
                label=f"{name}: {dots['retrieved'].mean():.3f}",
            )
        axes.axhline(-np.log10(0.05), color="0.4", linewidth=0.8, linestyle="--")
        axes.set_title(" ".join(str(part) for part in condition), fontsize=9)
        axes.legend(fontsize=7, loc="upper left", title="retrieved", title_fontsize=7)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    figure.supxlabel("mean average precision")
    figure.supylabel("$-\\log_{10}$ q")
    return figure


def interval_figure(records: pd.DataFrame, value: str, low: str, high: str, title: str) -> Figure:
    """Draw a number with its interval, a line a condition, a colour a representation.

    Parameters
    ----------
    records : DataFrame
        modality, cell, time, series, and the columns named next.
    value, low, high : str
    title : str
        Of the horizontal axis.
    """
    conditions = records[_CONDITION].drop_duplicates()
    names = list(dict.fromkeys(records["series"]))
    height = 0.22 * len(names) + 0.2
    figure = Figure(figsize=(7, height * len(conditions) + 1.2), layout="constrained")
    axes = figure.subplots()
    place = {tuple(c): i for i, c in enumerate(conditions.to_numpy())}
    for number, (colour, name) in enumerate(zip(_colours(names), names, strict=True)):
        rows = records[(records["series"] == name) & records[value].notna()]
        y = np.array([place[tuple(c)] for c in rows[_CONDITION].to_numpy()], dtype=float)
        y += (number - (len(names) - 1) / 2) * 0.6 / len(names)
        x = rows[value].to_numpy(dtype=float)
        # A percentile interval need not hold the mean; an error bar must not be negative.
        reach = np.stack([x - rows[low].to_numpy(float), rows[high].to_numpy(float) - x])
        reach = np.maximum(reach, 0)
        axes.errorbar(x, y, xerr=reach, fmt="o", markersize=4, color=colour, label=name)
    axes.set_yticks(range(len(place)), [" ".join(str(v) for v in c) for c in place])
    axes.set_ylim(len(place) - 0.5, -0.5)
    axes.axvline(0, color="0.6", linewidth=0.8)
    axes.set_xlabel(title)
    axes.legend(fontsize=8, loc="best")
    return figure


def _colours(names: list[str]) -> list[str]:
    return [_COLOURS[i % len(_COLOURS)] for i in range(len(names))]
