"""Scores of claims: whether the changes that a description states are those that were measured."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from captions.facts import Claim

Claims = Sequence[set[Claim]]
"""One set of claims a well."""

SCORES = ("precision", "recall", "f1", "direction_accuracy")

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
    by_reagent = pd.DataFrame(counts).groupby(np.asarray(reagents)).sum().to_numpy()
    n = len(by_reagent)
    resamples = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws)
    tail = (1 - level) / 2
    low, high = np.quantile(_ratios(resamples @ by_reagent), [tail, 1 - tail], axis=0)
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(SCORES)}


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


def _ratios(counts: NDArray[np.int64]) -> NDArray[np.float64]:
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
