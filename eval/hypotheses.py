"""Hypotheses about mechanism: what is known of the training reagents that look most like a well.

By rule, from retrieval; never from what a model says, and never mixed with observations. A
hypothesis lists its grounds: the reagents, how alike they are, and what is annotated of them.
"""

from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from eval.reagents import consensus

NEIGHBOURS = 5
"""The nearest training reagents that are looked at."""
LEAST_SUPPORT = 2
"""So many of them must share a target."""
REAGENT = ["Metadata_broad_sample", "Metadata_pert_iname", "Metadata_target_list"]


@dataclass(frozen=True)
class Hypothesis:
    """What a well might be, and why. `targets` is empty where the neighbours do not agree."""

    text: str
    targets: list[str]
    grounds: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """Mark it as what it is."""
        return {"kind": "hypothesis, not an observation", **asdict(self)}


def load_annotation(data: Path) -> "pd.Series[str]":
    """Read the mechanisms of a store's reagents, by `Metadata_broad_sample`; empty if unknown."""
    path = data / "captions" / "reagents.parquet"
    if not path.is_file():
        return pd.Series(dtype=str)
    return pd.read_parquet(path).set_index("Metadata_broad_sample")["mechanism"].fillna("")


def hypothesise(
    wells: pd.DataFrame,
    embeddings: np.ndarray,
    asked: pd.DataFrame,
    mechanisms: "pd.Series[str]",
    neighbours: int = NEIGHBOURS,
) -> list[Hypothesis]:
    """Say which targets the nearest training reagents of each well share.

    A target is named when at least `LEAST_SUPPORT` of the nearest reagents have it; first the one
    with the largest sum of similarities. A well's own reagent never counts.

    Parameters
    ----------
    wells : DataFrame
        All wells; those of the split "train" (all, where there is no split) that are treated and
        have a target are looked among.
    embeddings : (n_wells, D) float array
        Unit vectors.
    asked : DataFrame
        The wells that are asked about: some of `wells`, by plate and position.
    mechanisms : Series
        From `load_annotation`.
    neighbours : int

    Returns
    -------
    list of Hypothesis
        One a row of `asked`.
    """
    known = (wells["Metadata_modality"] != "control") & (wells["Metadata_target_list"] != "")
    if "Metadata_split" in wells:
        known &= wells["Metadata_split"] == "train"
    if not known.any():
        nothing = Hypothesis("None: no training reagent has a known target.", [], [])
        return [nothing] * len(asked)
    reagents, unit = consensus(wells[known], embeddings[known.to_numpy()], REAGENT)
    key = ["Metadata_Plate", "Metadata_Well"]
    rows = pd.MultiIndex.from_frame(wells[key]).get_indexer(pd.MultiIndex.from_frame(asked[key]))
    found = []
    for row in rows:
        own = reagents["Metadata_broad_sample"] == wells["Metadata_broad_sample"].iloc[row]
        similarity = np.where(own, -np.inf, unit @ embeddings[row])
        nearest = np.argsort(-similarity, kind="stable")[:neighbours]
        grounds = [
            {
                "reagent": str(reagents["Metadata_pert_iname"].iloc[i]),
                "modality": str(reagents["Metadata_modality"].iloc[i]),
                "similarity": round(float(similarity[i]), 3),
                "targets": str(reagents["Metadata_target_list"].iloc[i]).split("|"),
                "mechanism": str(mechanisms.get(reagents["Metadata_broad_sample"].iloc[i], "")),
            }
            for i in nearest
            if np.isfinite(similarity[i])
        ]
        found.append(_from_grounds(grounds))
    return found


def _from_grounds(grounds: list[dict[str, Any]]) -> Hypothesis:
    having = defaultdict(list)
    for ground in grounds:
        for target in ground["targets"]:
            having[target].append(ground)
    shared = {target: own for target, own in having.items() if len(own) >= LEAST_SUPPORT}
    named = ", ".join(f"{ground['reagent']} ({ground['similarity']:.2f})" for ground in grounds)
    if not shared:
        return Hypothesis(f"None: the nearest reagents share no target: {named}.", [], grounds)
    weight = {t: sum(g["similarity"] for g in own) for t, own in shared.items()}
    targets = sorted(shared, key=lambda target: (-weight[target], target))
    first = shared[targets[0]]
    names = ", ".join(f"{ground['reagent']} ({ground['similarity']:.2f})" for ground in first)
    text = f"acts on {targets[0]}, as {len(first)} of the {len(grounds)} nearest reagents: {names}."
    return Hypothesis(text, targets, grounds)
