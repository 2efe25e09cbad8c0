"""Measured features into facts: what changed in a well, by how much, and how sure that is."""

import builtins
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from captions.scores import align_features, clipped_sd, slot_scores
from captions.slots import (
    FACT_SLOTS,
    OPPOSITE,
    REFERENCE_FEATURES,
    Claim,
    Slot,
    feature_slot,
)
from data.errors import InputError

__all__ = [
    "EFFECT_COLUMNS",
    "FACT_COLUMNS",
    "FACT_SLOTS",
    "MAX_FACTS",
    "OPPOSITE",
    "Claim",
    "Fact",
    "Slot",
    "claims_of",
    "compare_with_controls",
    "facts_by_well",
    "feature_slot",
    "measure_effects",
    "measure_facts",
    "read_facts",
]

MAX_Q_VALUE = 0.05
MIN_EFFECT = 3.0
CLEAR_EFFECT = 5.0
STRONG_EFFECT = 8.0
CONTROLS_UNCHANGED = 0.95
"""Share of a plate's controls that have no fact by construction."""
MIN_CONTROLS = 8
"""Fewer controls than this on a plate (or spare replicates) do not give a spread."""
MAX_FACTS = 6
"""A description says at most the first six facts of a well."""

TREATMENT_COLUMNS = ("Metadata_broad_sample", "Metadata_concentration")
"""Wells that agree in these are replicates."""

EFFECT_COLUMNS = tuple(" ".join(filter(None, slot)) for slot in FACT_SLOTS)
"""Columns of `measure_effects`: compartment, channel and property of each slot."""

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


@dataclass(frozen=True)
class Comparison:
    """Wells against their controls: arrays (wells, slots), and what they were made of."""

    effects: NDArray[np.float64]
    p_values: NDArray[np.float64]
    unlike_controls: NDArray[np.bool_]  # (wells, 1)
    aligned: dict[Slot, tuple[list[str], NDArray[np.float64]]]


def measure_facts(profiles: pd.DataFrame, compared: Comparison | None = None) -> pd.DataFrame:
    """Find what changed in each well, compared with the controls of its own plate.

    1. Score of a slot: median over its voting features (`captions.slots.feature_vote`) of
       sign x z, where z is the profile's value.
    2. Effect: e = (score - m) / s, m the median and s the standard deviation of the scores of the
       same plate's negative controls, clipped to m +- 3 x 1.4826 x their median absolute deviation
       (of few controls that deviation alone is too rough a spread, and without the clipping one
       dead control hides all else); a control is left out of its own m and s. On a plate with fewer
       than 8 controls m = 0, the reference of the z, and s is the spread, clipped likewise, among
       wells of the same treatment in the whole table; without replicates e = score.
    3. p: two-sided, Student's t of e / sqrt(1 + 1/n) with n - 1 degrees of freedom for n controls
       (a prediction interval); of e with wells - treatments degrees of freedom for replicates;
       normal without. q: Benjamini-Hochberg over the slots of a well.
    4. A well may have facts when its largest |e| exceeds the 95 % quantile of its plate's controls'
       largest |e| (real controls have longer tails than a normal distribution, and they alone know
       how long; after the maxT method of Westfall and Young, 1993).
    5. A fact of such a well: q < 0.05 and |e| >= 3, and, for size and intensity, the sign of the
       plain area or mean intensity where it was measured.

    Parameters
    ----------
    profiles : DataFrame
        One row a well: Metadata_Plate, Metadata_Well, Metadata_control_type ("negcon" marks a
        control) and CellProfiler features as robust z. NaN counts as not measured. Replicates are
        wells with equal Metadata_broad_sample and, where there is one, Metadata_concentration.
    compared : Comparison, optional
        What `compare_with_controls` says of these profiles, where it is at hand.

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
    q_values = _benjamini_hochberg(compared.p_values)

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


def measure_effects(profiles: pd.DataFrame, compared: Comparison | None = None) -> pd.DataFrame:
    """Return the effect of every slot in every well, also where it is no fact, for training.

    Parameters
    ----------
    profiles : DataFrame
        As for `measure_facts`, which says what an effect is.
    compared : Comparison, optional
        Likewise.

    Returns
    -------
    DataFrame
        Metadata_Plate, Metadata_Well, and a float column a slot ("cells Mito intensity"), in the
        order of `FACT_SLOTS`; NaN where a slot was not measured.
    """
    compared = compared or compare_with_controls(profiles)
    effects = pd.DataFrame(compared.effects, columns=EFFECT_COLUMNS)
    key = profiles[["Metadata_Plate", "Metadata_Well"]].reset_index(drop=True)
    return pd.concat([key, effects], axis=1)


def claims_of(facts: Iterable[Fact]) -> set[Claim]:
    """Return what the facts say, without their evidence."""
    return {fact.claim for fact in facts}


def compare_with_controls(profiles: pd.DataFrame) -> Comparison:
    """Steps 1 to 4 of `measure_facts`."""
    for column in ("Metadata_Plate", "Metadata_Well", "Metadata_control_type"):
        if column not in profiles:
            raise InputError(f"profiles: column {column!r} is missing")
    profiles = profiles.reset_index(drop=True)
    aligned = align_features(profiles)
    scores = slot_scores(aligned)
    effects, p_values = np.full_like(scores, np.nan), np.full_like(scores, np.nan)
    unlike_controls = np.ones((len(scores), 1), bool)
    is_control = (profiles["Metadata_control_type"] == "negcon").to_numpy()
    spread, freedom = _replicate_spread(scores, profiles)
    for rows in profiles.groupby("Metadata_Plate", sort=False).indices.values():
        if is_control[rows].sum() < MIN_CONTROLS:
            effects[rows] = scores[rows] / spread
            p_values[rows] = 2 * stats.t.sf(np.abs(effects[rows]), freedom)
            continue
        effects[rows], p_values[rows] = _compare_plate(scores[rows], is_control[rows])
        largest = np.nan_to_num(np.abs(effects[rows])).max(axis=1)
        limit = np.quantile(largest[is_control[rows]], CONTROLS_UNCHANGED, method="lower")
        unlike_controls[rows, 0] = largest > limit
    return Comparison(effects, p_values, unlike_controls, aligned)


def _compare_plate(
    scores: NDArray[np.float64], is_control: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Effects and p-values, each (wells of one plate, slots); NaN for a slot few controls have."""
    effects, p_values = np.full_like(scores, np.nan), np.full_like(scores, np.nan)
    for column in range(scores.shape[1]):
        score = scores[:, column]
        usable = np.flatnonzero(is_control & np.isfinite(score))
        if len(usable) < MIN_CONTROLS:
            continue
        effects[:, column] = _effect(score, score[usable])
        for row in usable:
            others = score[usable[usable != row]]
            effects[row, column] = _effect(score[row], others)
        t = effects[:, column] / np.sqrt(1 + 1 / len(usable))
        p_values[:, column] = 2 * stats.t.sf(np.abs(t), len(usable) - 1)
    return effects, p_values


def _effect(values: NDArray[np.float64], controls: NDArray[np.float64]) -> NDArray[np.float64]:
    centre = np.median(controls)
    return (values - centre) / clipped_sd(controls - centre, len(controls) - 1)


def _replicate_spread(
    scores: NDArray[np.float64], profiles: pd.DataFrame
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Spread among wells of a treatment and its degrees of freedom, each (slots,).

    1 and infinity (a standard normal distribution) for slots without enough replicates.
    """
    spread, freedom = np.ones(scores.shape[1]), np.full(scores.shape[1], np.inf)
    treatment = [name for name in TREATMENT_COLUMNS if name in profiles]
    if not treatment:
        return spread, freedom
    table = pd.DataFrame(scores)
    groups = table.groupby([profiles[name] for name in treatment])
    residuals = (table - groups.transform("mean")).to_numpy()
    counts = groups.transform("count").to_numpy()
    for column in range(scores.shape[1]):
        usable = np.isfinite(residuals[:, column]) & (counts[:, column] > 1)
        spare = usable.sum() - (1 / counts[usable, column]).sum()  # wells - treatments
        if spare >= MIN_CONTROLS:
            spread[column] = clipped_sd(residuals[usable, column], spare)
            freedom[column] = spare
    return spread, freedom


def _benjamini_hochberg(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """q-values over each row; NaN stays NaN and is no test."""
    q_values = np.full_like(p_values, np.nan)
    for row, p in enumerate(p_values):
        tested = np.isfinite(p)
        if tested.any():
            q_values[row, tested] = stats.false_discovery_control(p[tested], method="bh")
    return q_values


def _strength(effect: float) -> str:
    if abs(effect) < CLEAR_EFFECT:
        return "slightly"
    return "clearly" if abs(effect) < STRONG_EFFECT else "strongly"


def _saying_order(effects: NDArray[np.floating]) -> Callable[[int], tuple[bool, float]]:
    def key(i: int) -> tuple[bool, float]:
        cells_lost = FACT_SLOTS[i] == _CELL_COUNT and effects[i] < 0
        return (not cells_lost, -abs(effects[i]))

    return key
