"""Splits that hold out whole targets: no held-out target is ever seen in training."""

import hashlib
from collections.abc import Iterable

import numpy as np
import pandas as pd

from data.errors import InputError


def list_targets(wells: pd.DataFrame) -> list[str]:
    """Return the targets of the wells' reagents, sorted; a negative control has none."""
    return sorted(_reagent_targets(wells)["target"].unique())


def choose_held_out_targets(wells: pd.DataFrame, fraction: float, seed: int) -> set[str]:
    """Draw the targets to hold out, only among those that can be matched.

    A target can be matched when at least two reagents have it. Where compounds and genes are both
    there, targets with a compound and a gene reagent are taken first, because the gene-compound
    benchmark needs both.

    Parameters
    ----------
    wells : DataFrame
        Needs Metadata_broad_sample, Metadata_modality, Metadata_control_type, Metadata_target_list.
    fraction : float
        Share of all targets to hold out, in (0, 1); rounded, at least one.
    seed : int
        Seed of the draw. The same wells in any order give the same targets.

    Raises
    ------
    InputError
        When the fraction is out of range or no target has two reagents.
    """
    if not 0 < fraction < 1:
        raise InputError(f"fraction of held-out targets is {fraction}: expected between 0 and 1")
    pairs = _reagent_targets(wells)
    reagents = pairs.groupby("target")["Metadata_broad_sample"].nunique()
    matchable = sorted(reagents.index[reagents >= 2])
    if not matchable:
        raise InputError("cannot hold out targets: no target is shared by two reagents")
    is_compound = pairs["Metadata_modality"] == "compound"
    across = set(pairs.loc[is_compound, "target"]) & set(pairs.loc[~is_compound, "target"])
    shuffled = np.random.default_rng(seed).permutation(matchable).tolist()
    shuffled.sort(key=lambda target: target not in across)
    return set(shuffled[: max(1, round(fraction * len(reagents)))])


def assign_splits(
    wells: pd.DataFrame,
    held_out_targets: Iterable[str],
    *,
    inactive_test: float = 0.5,
    seed: int = 0,
) -> pd.DataFrame:
    """Set Metadata_split: "test" for every well of a reagent with a held-out target, else "train".

    Negative controls are "train". A positive control is a reagent like any other: with a held-out
    target it is "test", so its other targets may be lost to training as well. Reagents without a
    target (inactive ones) are divided by a seeded hash of their name.

    Parameters
    ----------
    wells : DataFrame
        Needs Metadata_broad_sample, Metadata_control_type and Metadata_target_list.
    held_out_targets : iterable of str
        Targets that training must not see.
    inactive_test : float
        Expected share of the reagents without a target that go to "test".
    seed : int
        Seed of the hash; adding plates moves no reagent.

    Returns
    -------
    DataFrame
        A copy with the column Metadata_split.

    Raises
    ------
    InputError
        When no reagent has one of the held-out targets (a spelling mistake, most likely).
    """
    held_out = set(held_out_targets)
    targets = wells["Metadata_target_list"].map(_split_targets)
    unknown = held_out - set().union(*targets)
    if unknown:
        raise InputError(f"held-out target(s) {', '.join(sorted(unknown))} occur in no well")
    names = wells["Metadata_broad_sample"]
    # The decision is the reagent's, not the row's: a row of it may lack the target list.
    reagents = set(names[targets.map(lambda found: not held_out.isdisjoint(found))])
    with_target = set(names[targets.map(bool)])
    chosen = {name for name in set(names) - with_target if _hash_share(name, seed) < inactive_test}
    test = names.isin(reagents | chosen) & (wells["Metadata_control_type"] != "negcon")
    return wells.assign(Metadata_split=np.where(test, "test", "train"))


def unseen_targets(wells: pd.DataFrame) -> set[str]:
    """Name the targets of "test" wells that no "train" well has (by Metadata_split)."""
    listed = wells["Metadata_target_list"].map(_split_targets)
    train, test = (
        set(listed[wells["Metadata_split"] == part].explode().dropna())
        for part in ("train", "test")
    )
    return test - train


def check_no_overlap(wells: pd.DataFrame, held_out_targets: Iterable[str] | None = None) -> None:
    """Raise if training can see what the test evaluates.

    Parameters
    ----------
    wells : DataFrame
        With Metadata_split.
    held_out_targets : iterable of str, optional
        The targets held out. Without them only reagents are compared: a test reagent may share
        a target that was not held out with a training reagent.

    Raises
    ------
    InputError
        Naming the reagent that is on both sides, or the held-out target on a training reagent.
    """
    reagents = wells[wells["Metadata_control_type"] != "negcon"]
    train = reagents[reagents["Metadata_split"] == "train"]
    test = reagents[reagents["Metadata_split"] == "test"]
    both = set(train["Metadata_broad_sample"]) & set(test["Metadata_broad_sample"])
    if both:
        raise InputError(f"reagent {min(both)} is in both training and test wells")
    held_out = set(held_out_targets or ())
    for name, listed in zip(
        train["Metadata_broad_sample"], train["Metadata_target_list"], strict=True
    ):
        leaked = held_out & set(_split_targets(listed))
        if leaked:
            raise InputError(f"held-out target {min(leaked)} occurs on training reagent {name}")


def _split_targets(listed: str) -> list[str]:
    return [target for target in listed.split("|") if target]


def _reagent_targets(wells: pd.DataFrame) -> pd.DataFrame:
    """Return one row a (reagent, target) pair, negative controls left out."""
    columns = ["Metadata_broad_sample", "Metadata_modality"]
    reagents = wells[wells["Metadata_control_type"] != "negcon"]
    reagents = reagents.assign(target=reagents["Metadata_target_list"].map(_split_targets))
    return (
        reagents.explode("target").dropna(subset="target")[[*columns, "target"]].drop_duplicates()
    )


def _hash_share(name: str, seed: int) -> float:
    """Return a number in [0, 1) that depends on the name and the seed alone."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
