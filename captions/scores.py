"""Scores of slots: what the features that vote on a slot say together."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from captions.slots import FACT_SLOTS, Slot, feature_vote
from data.spread import column_medians

Aligned = dict[Slot, tuple[list[str], NDArray[np.float64]]]
"""For each fact slot the features that vote on it and their sign x z, (wells, features)."""


def align_features(profiles: pd.DataFrame) -> Aligned:
    """Gather the features that vote on each fact slot, so that all rise where the slot does.

    Parameters
    ----------
    profiles : DataFrame
        Columns that do not begin with Metadata_ are CellProfiler features as z; what is not finite
        counts as not measured.

    Raises
    ------
    InputError
        When a feature is not CellProfiler's.
    """
    names = [name for name in map(str, profiles) if not name.startswith("Metadata_")]
    z = profiles[names].to_numpy(np.float64, copy=True)
    z[~np.isfinite(z)] = np.nan
    votes: dict[Slot, list[tuple[str, int, int]]] = {slot: [] for slot in FACT_SLOTS}
    for column, name in enumerate(names):
        vote = feature_vote(name)
        if vote is not None:
            votes[vote[0]].append((name, column, vote[1]))
    return {
        slot: ([v[0] for v in found], z[:, [v[1] for v in found]] * [v[2] for v in found])
        for slot, found in votes.items()
    }


def slot_scores(aligned: Aligned) -> NDArray[np.float64]:
    """Median over each slot's features: (wells, slots) in the order of `FACT_SLOTS`.

    NaN where none was measured.
    """
    return np.column_stack([column_medians(aligned[slot][1].T) for slot in FACT_SLOTS])
