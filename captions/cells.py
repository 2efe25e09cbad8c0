"""Single cells against the cells of control wells: Cliff's delta of every slot."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from captions.slots import Slot, feature_vote

FEWEST_CELLS = 5
"""Fewer cells on either side say nothing."""


def cliffs_delta(cells: NDArray[np.floating], controls: NDArray[np.floating]) -> float:
    """How often a cell's value lies above a control cell's, less how often below: in [-1, 1].

    P(x > y) - P(x < y) over all pairs (Cliff 1993), from the Mann-Whitney statistic. NaN is no
    cell; too few cells give NaN.
    """
    x, y = cells[np.isfinite(cells)], controls[np.isfinite(controls)]
    if min(len(x), len(y)) < FEWEST_CELLS:
        return float("nan")
    return float(2 * stats.mannwhitneyu(x, y).statistic / (len(x) * len(y)) - 1)


def slot_deltas(cells: pd.DataFrame, controls: pd.DataFrame) -> dict[Slot, float]:
    """Cliff's delta of each slot but the count: the median over its voting features, signed.

    Where a slot's effect says how far the well's mean lies from those of control wells, this says
    how far its cells do: a few cells that changed much move the mean, not the delta.

    Parameters
    ----------
    cells, controls : DataFrame
        From `data.measure.measure_site`: a row a cell, the same features.
    """
    votes: dict[Slot, list[float]] = {}
    for name in cells.columns.intersection(controls.columns):
        vote = feature_vote(name)
        if vote is not None and vote[0].property != "count":
            delta = cliffs_delta(cells[name].to_numpy(), controls[name].to_numpy())
            votes.setdefault(vote[0], []).append(vote[1] * delta)
    medians = {slot: float(np.median(own)) for slot, own in votes.items()}
    return {slot: delta for slot, delta in medians.items() if np.isfinite(delta)}
