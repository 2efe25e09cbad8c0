"""What the numbers would be if nothing was there: controls beside every result.

Each answers one doubt about an activity or matching score; read a gain only after them.
"""

import numpy as np
import pandas as pd

from eval.average_precision import NULL_SIZE, correct_p_values
from eval.corrections import correct
from eval.profiles import Profiles
from eval.protocols import Condition, Plates, Reagents, TaskResult, activity, matching


def label_permuted_activity(
    condition: Condition, wells: Profiles, null_size: int = NULL_SIZE, seed: int = 0
) -> TaskResult:
    """Activity after shuffling which treated well of a plate got which reagent.

    What is left is not the reagent: treated wells differing from controls as a group, or plates
    that are alike. Should be near chance.
    """
    rng = np.random.default_rng(seed)
    meta = wells.meta.copy()
    treated = meta["Metadata_control_type"] != "negcon"
    for _, rows in meta[treated].groupby("Metadata_Plate", sort=True).groups.items():
        shuffled = rng.permutation(meta.loc[rows, "Metadata_broad_sample"].to_numpy())
        meta.loc[rows, "Metadata_broad_sample"] = shuffled
    permuted = Profiles(wells.name, meta, wells.features)
    return activity(condition, permuted, null_size, seed)


def control_position_activity(
    condition: Condition, wells: Profiles, null_size: int = NULL_SIZE, seed: int = 0
) -> TaskResult:
    """Activity with every negative control position treated as if it were a compound.

    The controls in one position on several plates are the "replicates", against the other
    controls of their plates. They share nothing but the position, so the fraction retrieved is
    how many reagents look active for where they stand.
    """
    negcon = (wells.meta["Metadata_control_type"] == "negcon").to_numpy()
    if not negcon.any():
        return activity(condition, wells, null_size, seed)  # the empty table
    controls = wells.subset(negcon)
    position = controls.meta["Metadata_Well"]
    parts = []
    for name in sorted(position.unique()):
        kind = np.where(position == name, "", "negcon")
        meta = controls.meta.assign(Metadata_broad_sample=name, Metadata_control_type=kind)
        asked = Profiles(wells.name, meta, controls.features)
        parts.append(activity(condition, asked, null_size, seed).labels)
    labels = correct_p_values(pd.concat(parts, ignore_index=True))
    return TaskResult("activity", condition, labels, int(negcon.sum()))


def position_excluded_activity(
    condition: Condition, wells: Profiles, null_size: int = NULL_SIZE, seed: int = 0
) -> TaskResult:
    """Activity without pairs of wells in the same position, which share the position's effect.

    Reagents that stand in one position on all plates are no labels any more: see n_labels.
    """
    return activity(condition, wells, null_size, seed, exclude_position=True)


def half_controls(
    profiles: Profiles, correction: str, judge_on_fitted: bool, seed: int = 0
) -> Profiles:
    """Fit a correction on half of the control positions and keep one half as the controls.

    Sphering makes the very controls that it was fitted on look alike, so that everything else
    looks active beside them. Activity against the other half is what new controls would show.

    Parameters
    ----------
    profiles : Profiles
        Uncorrected, of all conditions.
    correction : str
        See `eval.corrections.correct`.
    judge_on_fitted : bool
        Keep the fitted half (optimistic) instead of the other half (honest).
    seed : int
        Of the draw of positions, the same on all plates.
    """
    negcon = (profiles.meta["Metadata_control_type"] == "negcon").to_numpy()
    fitted = np.zeros(len(negcon), dtype=bool)
    for _, wells in profiles.meta[negcon].groupby("Metadata_modality", sort=True):
        positions = np.sort(wells["Metadata_Well"].unique())
        drawn = np.random.default_rng(seed).permutation(positions)[: len(positions) // 2]
        fitted[wells.index[wells["Metadata_Well"].isin(drawn)]] = True
    corrected = correct(profiles, correction, fitted)
    return corrected.subset(~negcon | (fitted == judge_on_fitted))


def label_permuted_matching(
    reagents: Reagents, null_size: int = NULL_SIZE, seed: int = 0
) -> TaskResult:
    """Matching after shuffling which reagent has which targets: chance, with real dependences."""
    lists = np.random.default_rng(seed).permutation(
        reagents.meta["Metadata_target_list"].to_numpy()
    )
    meta = reagents.meta.assign(Metadata_target_list=lists)
    return matching(Reagents(reagents.condition, meta, reagents.unit), null_size, seed)


def held_out_pool(
    plates: list[Plates], pool: dict[Condition, set[str]], targets: set[str]
) -> dict[Condition, set[str]]:
    """Cut a pool to the reagents of held-out targets: held-out queries, held-out negatives.

    A model that merely learned what training reagents look like gains by ranking them last; in
    this pool it cannot.
    """
    result = {}
    for p in plates:
        lists = p.reagents.meta["Metadata_target_list"].str.split("|")
        rows = lists.map(lambda listed: not targets.isdisjoint(listed))
        result[p.condition] = pool[p.condition] & set(
            p.reagents.meta.loc[rows, "Metadata_broad_sample"]
        )
    return result
