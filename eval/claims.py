"""Scores of claims: whether the changes that a description states are those that were measured."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from captions.facts import Claim, Slot

Claims = Sequence[set[Claim]]
"""One set of claims a well."""

Strengths = Sequence[Mapping[Claim, str]]
"""One mapping a well: each claim with its strength word."""

SCORES = ("precision", "recall", "f1", "direction_accuracy")
SILENCE = ("abstention_precision", "abstention_recall", "claims_an_unchanged_well")

WEAK_EFFECT = 2.0
"""A false claim of an effect from here on is no invention."""

# Columns of `_count_claims`.
_SAID, _RIGHT, _TO_SAY, _FOUND, _CHANGED = range(5)


def score_claims(
    predicted: Claims, measured: Claims, *, to_say: Claims | None = None
) -> dict[str, float]:
    """Score the claims of descriptions against measured facts, pooled over wells (micro average).

    A claim is right when slot and direction are. A slot claimed in both directions is one claim,
    and wrong.

    Parameters
    ----------
    predicted : one set of claims a well
        What the descriptions say.
    measured : one set of claims a well
        Every fact of the well.
    to_say : one set of claims a well, optional
        The facts that a full description states (the first six of a well), when a description
        cannot hold all that was measured: recall is over these. All measured ones when not given.

    Returns
    -------
    dict
        precision: right claims / claims. recall: claims of `to_say` that were made / all of them.
        f1: their harmonic mean. direction_accuracy: right claims / claims whose slot did change.
        A ratio of nothing is 0: who says nothing earns nothing.

    Raises
    ------
    ValueError
        When the lists differ in length.
    """
    counts = _count_claims(predicted, measured, measured if to_say is None else to_say)
    return dict(zip(SCORES, _ratios(counts.sum(axis=0)).tolist(), strict=True))


def score_intervals(
    predicted: Claims,
    measured: Claims,
    reagents: Sequence[str],
    *,
    to_say: Claims | None = None,
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Bootstrap intervals of `score_claims` over reagents (all wells of a reagent together).

    Parameters
    ----------
    predicted, measured, to_say
        As for `score_claims`.
    reagents : sequence of str
        The reagent of each well.
    level : float
        Share of the bootstrap distribution inside the interval (percentile method).
    draws, seed : int
        Number of resamples and their seed.

    Returns
    -------
    dict
        (low, high) for each of `SCORES`.
    """
    counts = _count_claims(predicted, measured, measured if to_say is None else to_say)
    drawn = _ratios(resample_reagents(counts, reagents, draws, seed))
    tail = (1 - level) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(SCORES)}


def resample_reagents(
    counts: NDArray, reagents: Sequence[str], draws: int = 1000, seed: int = 0
) -> NDArray[np.float64]:
    """Draw reagents with replacement, all wells of one together, and add up their counts.

    Parameters
    ----------
    counts : (n_wells, k) array
    reagents : sequence of str
        The reagent of each well.
    draws, seed : int

    Returns
    -------
    (draws, k) float array
    """
    by_reagent = pd.DataFrame(counts).groupby(np.asarray(reagents)).sum().to_numpy()
    n = len(by_reagent)
    times = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws)
    return (times @ by_reagent).astype(np.float64)


def score_strength(
    predicted: Strengths, measured: Strengths, reagents: Sequence[str] | None = None
) -> dict[str, float | tuple[float, float]]:
    """Score strength words, pooled over wells: of the right claims, how many have the measured one.

    Parameters
    ----------
    predicted, measured : one mapping of claims to strength words a well
    reagents : sequence of str, optional
        Of each well, for an interval over them (95 %, percentile bootstrap).

    Returns
    -------
    dict
        strength_agreement (0 without right claims) and, with reagents, its interval.
    """
    _same_length(predicted=predicted, measured=measured)
    counts = np.array(
        [
            [len(said.keys() & true.keys()), len(said.items() & true.items())]
            for said, true in zip(predicted, measured, strict=True)
        ]
    ).reshape(-1, 2)
    right, agree = counts.sum(axis=0)
    found: dict[str, float | tuple[float, float]] = {
        "strength_agreement": float(agree / right) if right else 0.0
    }
    if reagents is not None:
        drawn = resample_reagents(counts, reagents)
        low, high = np.quantile(drawn[:, 1] / np.maximum(drawn[:, 0], 1), [0.025, 0.975])
        found["interval"] = (float(low), float(high))
    return found


def score_silence(predicted: Claims, measured: Claims) -> dict[str, float]:
    """Score silence against what was measured; `score_abstention` asks for the truth instead.

    Parameters
    ----------
    predicted, measured : one set of claims a well

    Returns
    -------
    dict
        abstention_precision: share of silent wells in which nothing was measured to change.
        abstention_recall: share of such wells that are silent. claims_an_unchanged_well: claims,
        all of them false, a well in which nothing changed. NaN where there are no such wells.
    """
    _same_length(predicted=predicted, measured=measured)
    said = np.array([len(claims) for claims in predicted])
    silent, unchanged = said == 0, np.array([not claims for claims in measured], bool)
    return {
        "abstention_precision": _mean(unchanged[silent]),
        "abstention_recall": _mean(silent[unchanged]),
        "claims_an_unchanged_well": _mean(said[unchanged]),
    }


def _mean(values: NDArray) -> float:
    return float(values.mean()) if values.size else float("nan")


def score_calibration(
    confidences: Sequence[float], right: Sequence[bool], bins: int = 10
) -> dict[str, float | list[dict[str, float]]]:
    """Compare how sure a model was of its claims with how often they were right.

    Parameters
    ----------
    confidences : sequence of float
        Of each claim, in [0, 1]; NaN is left out.
    right : sequence of bool
    bins : int
        Of equal width.

    Returns
    -------
    dict
        expected_calibration_error: sum over bins of n_b / n x |accuracy_b - mean confidence_b|
        (Naeini, Cooper and Hauskrecht 2015); NaN without claims. n: claims. reliability: the bins
        that hold any, each with low, high, n, confidence, accuracy.
    """
    _same_length(confidences=confidences, right=right)
    sure, is_right = np.asarray(confidences, float), np.asarray(right, bool)
    known = np.isfinite(sure)
    sure, is_right = sure[known], is_right[known]
    place = np.minimum((sure * bins).astype(int), bins - 1)
    table = [
        {
            "low": b / bins,
            "high": (b + 1) / bins,
            "n": int((place == b).sum()),
            "confidence": float(sure[place == b].mean()),
            "accuracy": float(is_right[place == b].mean()),
        }
        for b in np.unique(place).tolist()
    ]
    error = sum(b["n"] * abs(b["accuracy"] - b["confidence"]) for b in table)
    return {
        "expected_calibration_error": error / len(sure) if len(sure) else float("nan"),
        "n": len(sure),
        "reliability": table,
    }


def score_false_claims(
    predicted: Claims, measured: Claims, effects: Sequence[Mapping[Slot, float]]
) -> dict[str, float]:
    """Say how wrong the wrong claims are: against a threshold, a near miss counts as a miss.

    Parameters
    ----------
    predicted, measured : one set of claims a well
    effects : one mapping of slots to measured effects a well

    Returns
    -------
    dict
        n: false claims whose slot was measured. same_direction: share of them whose effect points
        the claimed way. weak: share whose effect does, and is at least 2 (too weak for a fact, or
        in a well that is too like its plate's controls). median_effect: of their effects along the
        claimed direction. The shares and the median are NaN without false claims.
    """
    _same_length(predicted=predicted, measured=measured, effects=effects)
    along = np.array(
        [
            own[claim.slot] if claim.direction == "increased" else -own[claim.slot]
            for said, true, own in zip(predicted, measured, effects, strict=True)
            for claim in said - true
            if np.isfinite(own.get(claim.slot, np.nan))
        ]
    )
    return {
        "n": len(along),
        "same_direction": _mean(along > 0),
        "weak": _mean(along >= WEAK_EFFECT),
        "median_effect": float(np.median(along)) if along.size else float("nan"),
    }


def score_abstention(predicted: Claims, active: Sequence[bool]) -> dict[str, float]:
    """Score when a model keeps silent.

    Parameters
    ----------
    predicted : one set of claims a well
    active : sequence of bool
        Whether the well's perturbation truly does something.

    Returns
    -------
    dict
        inactive_unchanged: share of inactive wells without a claim. active_changed: share of active
        wells with one. NaN where there are no such wells.
    """
    speaks = np.array([bool(claims) for claims in predicted], bool)
    is_active = np.asarray(active, bool)
    _same_length(predicted=speaks, active=is_active)
    silent, spoken = ~speaks[~is_active], speaks[is_active]
    return {
        "inactive_unchanged": float(silent.mean()) if silent.size else float("nan"),
        "active_changed": float(spoken.mean()) if spoken.size else float("nan"),
    }


def score_by(
    field: str, predicted: Claims, measured: Claims, *, to_say: Claims | None = None
) -> pd.DataFrame:
    """Break `score_claims` down by a field of the claims.

    Parameters
    ----------
    field : str
        "channel", "property" or "compartment". Geometry has the channel "".
    predicted, measured, to_say
        As for `score_claims`.

    Returns
    -------
    DataFrame
        Indexed by the field's values: `SCORES` and n_predicted, n_measured (claims).
    """
    expected = measured if to_say is None else to_say
    values = sorted({getattr(c, field) for claims in (*predicted, *measured) for c in claims})
    rows = []
    for value in values:
        parts = [
            [{c for c in claims if getattr(c, field) == value} for claims in wells]
            for wells in (predicted, measured, expected)
        ]
        counts = _count_claims(*parts).sum(axis=0)
        rows.append([*_ratios(counts), counts[_SAID], sum(map(len, parts[1]))])
    index = pd.Index(values, name=field)
    return pd.DataFrame(rows, index, columns=[*SCORES, "n_predicted", "n_measured"]).astype(
        {"n_predicted": int, "n_measured": int}
    )


def majority_claims(training: Claims) -> set[Claim]:
    """Return the claims that, said of every well without looking, score best on training wells.

    The baseline that a model has to beat: the k most frequent claims (of a slot only the more
    frequent direction), with the k of the highest F1 on the training wells. Ties in frequency are
    broken by name.
    """
    frequency = Counter(claim for claims in training for claim in claims)
    ranked: list[Claim] = []
    for claim, _ in sorted(frequency.items(), key=lambda item: (-item[1], item[0])):
        if all(claim.slot != other.slot for other in ranked):
            ranked.append(claim)
    candidates = [set(ranked[:k]) for k in range(1, len(ranked) + 1)]
    scores = [score_claims([said] * len(training), training)["f1"] for said in candidates]
    return candidates[int(np.argmax(scores))] if candidates else set()


def _count_claims(predicted: Claims, measured: Claims, to_say: Claims) -> NDArray[np.int64]:
    """Counts a well: slots claimed, right, facts to say, said, claimed slots that did change."""
    _same_length(predicted=predicted, measured=measured, to_say=to_say)
    counts = np.zeros((len(predicted), 5), np.int64)
    for row, (said, true, wanted) in enumerate(zip(predicted, measured, to_say, strict=True)):
        directions = Counter(claim.slot for claim in said)
        changed = {claim.slot for claim in true}
        consistent = {claim for claim in said if directions[claim.slot] == 1}
        counts[row, _SAID] = len(directions)
        counts[row, _RIGHT] = len(consistent & true)
        counts[row, _TO_SAY] = len(wanted)
        counts[row, _FOUND] = len(consistent & wanted)
        counts[row, _CHANGED] = len(directions.keys() & changed)
    return counts


def _ratios(counts: NDArray[Any]) -> NDArray[np.float64]:
    """`SCORES` (..., 4) of summed counts (..., 5)."""

    def ratio(one: NDArray, other: NDArray) -> NDArray[np.float64]:
        return np.divide(one, other, out=np.zeros(np.shape(one)), where=np.asarray(other) > 0)

    precision = ratio(counts[..., _RIGHT], counts[..., _SAID])
    recall = ratio(counts[..., _FOUND], counts[..., _TO_SAY])
    f1 = ratio(2 * precision * recall, precision + recall)
    direction = ratio(counts[..., _RIGHT], counts[..., _CHANGED])
    return np.stack([precision, recall, f1, direction], axis=-1)


def _same_length(**lists: Sequence | NDArray) -> None:
    if len({len(values) for values in lists.values()}) > 1:
        lengths = ", ".join(f"{name} {len(values)}" for name, values in lists.items())
        raise ValueError(f"one entry a well is needed in each list, found lengths {lengths}")
