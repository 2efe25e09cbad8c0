"""Measured features into facts: what changed in a well, by how much, and how sure that is."""

import builtins
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from captions.effects import Comparison, compare_with_controls
from captions.slots import FACT_SLOTS, OPPOSITE, REFERENCE_FEATURES, Claim, Slot
from data.spread import MAX_Q_VALUE, benjamini_hochberg

__all__ = [
    "FACT_COLUMNS",
    "FACT_SLOTS",
    "MAX_FACTS",
    "OPPOSITE",
    "Claim",
    "Fact",
    "Slot",
    "claims_of",
    "facts_by_well",
    "measure_facts",
    "read_facts",
]

MIN_EFFECT = 3.0
CLEAR_EFFECT = 5.0
STRONG_EFFECT = 8.0
MAX_FACTS = 6
"""A description says at most the first six facts of a well."""

_CELL_COUNT = Slot("cells", "", "count")
FACT_COLUMNS = (
    "Metadata_Plate",
    "Metadata_Well",
    "compartment",
    "channel",
    "property",
    "direction",
    "effect",
    "q_value",
    "strength",
    "feature",
    "rank",
)


@dataclass(frozen=True)
class Fact:
    """One measured change against the controls.

    `effect` is a robust z, `q_value` is corrected over the well's slots, `feature` the strongest
    CellProfiler feature behind it.
    """

    compartment: str
    channel: str
    property: str
    direction: str
    effect: float
    q_value: float
    strength: str
    feature: str

    @builtins.property  # a field has the name `property`
    def claim(self) -> Claim:
        """What the fact says, without its evidence."""
        return Claim(self.compartment, self.channel, self.property, self.direction)


def measure_facts(profiles: pd.DataFrame, compared: Comparison | None = None) -> pd.DataFrame:
    """Find what changed in each well, compared with the controls of its own plate.

    1. Score of a slot: median over its voting features (`captions.slots.feature_vote`) of
       sign x value.
    2. Effect: e = (score - m) / s, m the median of the scores of the same plate's negative controls
       and s their moderated standard deviation (`data.spread`): of the plate and, by how alike
       plates are, of all plates of the table, with d = d0 + n - 1 degrees of freedom for n controls
       (far ones clipped). A control is left out of its own m and s. On a plate with fewer than 8
       controls m = 0, the reference of the profiles, and s is the spread, clipped likewise, among
       wells of the same treatment in the whole table, with wells - treatments degrees of freedom;
       without replicates e = score.
    3. p: two-sided, Student's t of e / sqrt(1 + 1/n) (a prediction interval) or, of replicates, e;
       normal without. q: Benjamini-Hochberg over the slots of a well.
    4. A well may have facts when its largest |e| exceeds the 95 % quantile of the controls' largest
       |e| (real controls have longer tails than a normal distribution, and they alone know how
       long; after the maxT method of Westfall and Young, 1993).
    5. A fact of such a well: q < 0.05 and |e| >= 3, and, for size and intensity, the sign of the
       plain area or mean intensity where it was measured.

    Parameters
    ----------
    profiles : DataFrame
        One row a well: Metadata_Plate, Metadata_Well, Metadata_control_type ("negcon" marks a
        control) and CellProfiler features, of a store by `captions.effects.share_scale`, else as
        robust z. NaN counts as not measured. Replicates are wells with equal
        Metadata_broad_sample and, where there is one, Metadata_concentration.
    compared : Comparison, optional
        What `captions.effects.compare_with_controls` says of these profiles, where it is at hand.

    Returns
    -------
    DataFrame
        `FACT_COLUMNS`, all facts of each well, controls too. Rank 1 is said first: a loss of
        cells, then by falling |effect|. A well without a fact has no row.

    Raises
    ------
    InputError
        When a column is missing or a feature is not CellProfiler's.
    """
    compared = compared or compare_with_controls(profiles)
    effects, aligned = compared.effects, compared.aligned
    q_values = benjamini_hochberg(compared.p_values)

    passes = compared.unlike_controls & (q_values < MAX_Q_VALUE) & (np.abs(effects) >= MIN_EFFECT)
    for slot, reference in REFERENCE_FEATURES.items():
        if reference in profiles:
            i = FACT_SLOTS.index(slot)
            passes[:, i] &= np.sign(profiles[reference].to_numpy()) == np.sign(effects[:, i])

    plates, wells = profiles["Metadata_Plate"].tolist(), profiles["Metadata_Well"].tolist()
    table = []
    for well in np.flatnonzero(passes.any(axis=1)).tolist():
        key = (plates[well], wells[well])
        changed = sorted(np.flatnonzero(passes[well]).tolist(), key=_saying_order(effects[well]))
        for rank, i in enumerate(changed, start=1):
            slot, effect = FACT_SLOTS[i], float(effects[well, i])
            features, values = aligned[slot]
            strongest = features[np.nanargmax(np.sign(effect) * values[well])]
            direction = "increased" if effect > 0 else "decreased"
            evidence = (effect, float(q_values[well, i]), _strength(effect), strongest)
            table.append((*key, *slot, direction, *evidence, rank))
    facts = pd.DataFrame(table, columns=list(FACT_COLUMNS))
    return facts.astype({"effect": float, "q_value": float, "rank": int})


def read_facts(effects: NDArray[np.floating], least: float = MIN_EFFECT) -> list[Fact]:
    """Say effects as facts, the first to be said first.

    For effects that were predicted from an image, not measured: there is no q-value (NaN) and no
    feature behind them, and what counts is their size alone.

    Parameters
    ----------
    effects : (K,) float array
        One a slot, in the order of `FACT_SLOTS`; NaN says nothing.
    least : float
        The smallest |effect| that is a fact.
    """
    return [
        Fact(
            *FACT_SLOTS[i],
            direction="increased" if effects[i] > 0 else "decreased",
            effect=float(effects[i]),
            q_value=float("nan"),
            strength=_strength(effects[i]),
            feature="",
        )
        for i in sorted(
            np.flatnonzero(np.abs(effects) >= least).tolist(), key=_saying_order(effects)
        )
    ]


def facts_by_well(facts: pd.DataFrame) -> dict[tuple[str, str], list[Fact]]:
    """Group a facts table by (plate, well), each well's facts by rank.

    Wells without a fact are not in the result: use `.get(key, [])`. What a description says are
    the first `MAX_FACTS` of a well's list.
    """
    wells: dict[tuple[str, str], list[Fact]] = {}
    for _, row in facts.sort_values("rank").iterrows():
        fact = Fact(**{name: row[name] for name in FACT_COLUMNS[2:-1]})
        wells.setdefault((row["Metadata_Plate"], row["Metadata_Well"]), []).append(fact)
    return wells


def claims_of(facts: Iterable[Fact]) -> set[Claim]:
    """Return what the facts say, without their evidence."""
    return {fact.claim for fact in facts}


def _strength(effect: float) -> str:
    if abs(effect) < CLEAR_EFFECT:
        return "slightly"
    return "clearly" if abs(effect) < STRONG_EFFECT else "strongly"


def _saying_order(effects: NDArray[np.floating]) -> Callable[[int], tuple[bool, float]]:
    def key(i: int) -> tuple[bool, float]:
        cells_lost = FACT_SLOTS[i] == _CELL_COUNT and effects[i] < 0
        return (not cells_lost, -abs(effects[i]))

    return key
