"""Average precision by counting: how many negatives rank above each positive.

AP needs no sorted rank list. With a query's positives ordered from best to worst, the j-th of
them stands at rank ``j + (negatives above it)``, so ``AP = mean_j  j / (j + above_j)``.
Numbers agree with copairs to 1e-9 (same cosine, same rounding, ties resolved for the positives).
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from data.errors import InputError

NULL_SIZE = 100_000  # random rankings, as in the published protocol
_PAIR_CELLS = 2**24  # comparisons made at once: 64 MB of float32
_TIE = 1e-6  # two APs closer than this are one value that was added up in another order


def unit_rows(features: np.ndarray) -> np.ndarray:
    """Scale every row to length one.

    Parameters
    ----------
    features : ndarray, float, shape (n, d)

    Returns
    -------
    ndarray, float64, shape (n, d)

    Raises
    ------
    InputError
        When a row is zero or not finite: it has no direction.
    """
    features = np.asarray(features, dtype=np.float64)
    length = np.linalg.norm(features, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(length[:, 0]) & (length[:, 0] > 0)))
    if len(bad):
        raise InputError(
            f"{len(bad)} profiles are zero or not finite (first: row {bad[0]}): "
            "they have no direction to compare; drop or repair them"
        )
    return features / length


def negatives_above(
    similarity: np.ndarray, negative: np.ndarray, query: np.ndarray, item: np.ndarray
) -> np.ndarray:
    """Count, for each positive pair, the negatives of its query that rank above its item.

    Parameters
    ----------
    similarity : ndarray, float, shape (q, n)
        Queries against the pool; higher is more alike.
    negative : ndarray, bool, shape (q, n)
        Which pool items are a query's negatives.
    query, item : ndarray, int, shape (p,)
        The positive pairs, as indices into the rows and columns.

    Returns
    -------
    ndarray, int64, shape (p,)
    """
    # copairs ranks by `1 - similarity` in float32; the same rounding makes the same ties.
    distance = np.float32(1) - similarity.astype(np.float32)
    of_negatives = np.where(negative, distance, np.float32(np.inf))
    of_pairs = distance[query, item]
    above = np.empty(len(query), dtype=np.int64)
    step = max(1, _PAIR_CELLS // max(1, similarity.shape[1]))
    for start in range(0, len(query), step):
        part = slice(start, start + step)
        above[part] = np.count_nonzero(of_negatives[query[part]] < of_pairs[part, None], axis=1)
    return above


def average_precision(group: np.ndarray, above: np.ndarray, n_groups: int) -> np.ndarray:
    """Average precision of each group of positives.

    Parameters
    ----------
    group : ndarray, int, shape (p,)
        The ranking (query, or query and label) that each positive belongs to.
    above : ndarray, int, shape (p,)
        Negatives ranked above each positive.
    n_groups : int
        How many rankings there are; one without positives gets NaN.

    Returns
    -------
    ndarray, float64, shape (n_groups,)

    Examples
    --------
    Two positives at ranks 1 and 3 of one ranking: (1/1 + 2/3) / 2.

    >>> average_precision(np.array([0, 0]), np.array([1, 0]), 1).round(4).tolist()
    [0.8333]
    """
    order = np.lexsort((above, group))
    group, above = group[order], above[order]
    n_positives = np.bincount(group, minlength=n_groups)
    first = np.cumsum(n_positives) - n_positives
    position = np.arange(1, len(group) + 1) - first[group]
    total = np.bincount(group, weights=position / (position + above), minlength=n_groups)
    return np.divide(total, n_positives, out=np.full(n_groups, np.nan), where=n_positives > 0)


def expected_average_precision(n_pos: np.ndarray, n_total: np.ndarray) -> np.ndarray:
    """Chance: the mean AP of a random ranking, exactly.

    ``E = ((M - 1) / (L - 1) * (L - H_L) + H_L) / L`` with M positives among L items and H the
    harmonic number (Bestgen 2015, doi 10.1007/978-3-319-24027-5; also used by copairs).

    Parameters
    ----------
    n_pos, n_total : ndarray, int, shape (n,)
        Positives, and positives plus negatives.

    Returns
    -------
    ndarray, float64, shape (n,)

    Examples
    --------
    >>> expected_average_precision(np.array([1, 2]), np.array([2, 2])).tolist()
    [0.75, 1.0]
    """
    m, total = np.asarray(n_pos, dtype=np.float64), np.asarray(n_total, dtype=np.int64)
    harmonic = np.cumsum(1 / np.arange(1, total.max(initial=1) + 1))[total - 1]
    expected = ((m - 1) / np.maximum(total - 1, 1) * (total - harmonic) + harmonic) / total
    return np.where(m == total, 1.0, expected)


@lru_cache(maxsize=512)  # 0.4 MB each at the default size
def null_average_precision(n_pos: int, n_total: int, size: int, seed: int) -> np.ndarray:
    """Sorted APs of `size` random rankings of `n_pos` positives among `n_total` items.

    The seed of a draw is (seed, n_pos, n_total), so the result depends on nothing else:
    not on the order of calls, the number of cores, or what else is in the table.

    Returns
    -------
    ndarray, float32, shape (size,), ascending
    """
    rng = np.random.default_rng([seed, n_pos, n_total])
    values = np.empty(size, dtype=np.float32)
    done = 0
    for ranks in _random_ranks(rng, n_pos, n_total, size):
        part = ranks[: size - done]
        precision = np.arange(1, n_pos + 1, dtype=np.float64) / (part + 1)
        values[done : done + len(part)] = precision.mean(axis=1)
        done += len(part)
        if done == size:
            break
    values.sort()
    values.setflags(write=False)
    return values


def _random_ranks(
    rng: np.random.Generator, n_pos: int, n_total: int, size: int
) -> Iterator[np.ndarray]:
    """Yield blocks of sorted random subsets of range(n_total), each of n_pos members."""
    rows = min(size, max(1, _PAIR_CELLS // n_total))
    while True:
        if n_pos == 1:
            yield rng.integers(n_total, size=(size, 1), dtype=np.int32)
        elif n_pos * n_pos <= 2 * n_total:
            # Draw with repetition and drop the rows that repeat: uniform over subsets, and cheap
            # while few rows repeat (at most about two in three here).
            drawn = np.sort(rng.integers(n_total, size=(size, n_pos), dtype=np.int32), axis=1)
            yield drawn[(np.diff(drawn, axis=1) > 0).all(axis=1)]
        else:
            keys = rng.random((rows, n_total), dtype=np.float32)
            yield np.sort(np.argpartition(keys, n_pos - 1, axis=1)[:, :n_pos], axis=1)


def p_values(
    ap: np.ndarray, n_pos: np.ndarray, n_total: np.ndarray, null_size: int, seed: int
) -> np.ndarray:
    """Chance of a random ranking with the same counts doing better: (1 + #null > AP)/(1 + size).

    Strictly better, as in the published protocol: a perfect ranking gets 1 / (1 + null_size).

    Parameters
    ----------
    ap : ndarray, float, shape (n,)
    n_pos, n_total : ndarray, int, shape (n,)
    null_size : int
        Random rankings for each pair of counts.
    seed : int

    Returns
    -------
    ndarray, float64, shape (n,)
    """
    counts = np.stack([n_pos, n_total], axis=1).astype(np.int64)
    unique, inverse = np.unique(counts, axis=0, return_inverse=True)
    result = np.empty(len(ap))
    by_config = np.split(
        np.argsort(inverse, kind="stable"), np.cumsum(np.bincount(inverse, minlength=len(unique)))
    )
    for (positives, total), rows in zip(unique, by_config, strict=False):
        null = null_average_precision(int(positives), int(total), null_size, seed)
        better = null_size - np.searchsorted(null, (ap[rows] + _TIE).astype(np.float32), "right")
        result[rows] = (1 + better) / (1 + null_size)
    return result


def score_pairs(
    similarity: np.ndarray,
    negative: np.ndarray,
    query: np.ndarray,
    item: np.ndarray,
    label: np.ndarray,
) -> pd.DataFrame:
    """Average precision of every (query, label) that has positives and negatives.

    Parameters
    ----------
    similarity, negative : ndarray, shape (q, n)
        See `negatives_above`.
    query, item, label : ndarray, shape (p,)
        Positive pairs and the label (target, reagent) under which each counts.

    Returns
    -------
    DataFrame
        query, label, average_precision, normalized_average_precision, chance, n_pos, n_total.
    """
    pairs = pd.DataFrame({"query": query, "label": label})
    n_negatives = negative.sum(axis=1)
    usable = n_negatives[query] > 0
    pairs, query, item = pairs[usable], query[usable], item[usable]
    above = negatives_above(similarity, negative, query, item)
    groups = pairs.groupby(["query", "label"], sort=True)
    scores = groups.size().rename("n_pos").reset_index()
    ap = average_precision(groups.ngroup().to_numpy(), above, len(scores))
    n_total = scores["n_pos"].to_numpy() + n_negatives[scores["query"].to_numpy(dtype=int)]
    chance = expected_average_precision(scores["n_pos"].to_numpy(), n_total)
    return scores.assign(
        average_precision=ap,
        normalized_average_precision=(ap - chance) / np.maximum(1 - chance, 1e-10),
        chance=chance,
        n_total=n_total,
    )


def score_labels(queries: pd.DataFrame, null_size: int = NULL_SIZE, seed: int = 0) -> pd.DataFrame:
    """One row a label: mean AP over its queries, geometric mean of their p, BH-corrected q.

    Parameters
    ----------
    queries : DataFrame
        As `score_pairs` returns.
    null_size, seed : int
        See `p_values`.

    Returns
    -------
    DataFrame
        label, mean_average_precision, normalized_map, chance, p_value, n_queries, n_pos and
        n_total (means over the queries), q_value, retrieved (bool). Sorted by label.
    """
    p = p_values(
        queries["average_precision"].to_numpy(),
        queries["n_pos"].to_numpy(),
        queries["n_total"].to_numpy(),
        null_size,
        seed,
    )
    labels = (
        queries.assign(log_p=np.log10(p))
        .groupby("label", sort=True)
        .agg(
            mean_average_precision=("average_precision", "mean"),
            normalized_map=("normalized_average_precision", "mean"),
            chance=("chance", "mean"),
            log_p=("log_p", "mean"),
            n_queries=("query", "size"),
            n_pos=("n_pos", "mean"),
            n_total=("n_total", "mean"),
        )
        .reset_index()
    )
    labels.insert(4, "p_value", 10 ** labels.pop("log_p"))
    return correct_p_values(labels)


def correct_p_values(labels: pd.DataFrame) -> pd.DataFrame:
    """Set q_value (Benjamini-Hochberg over the rows given) and retrieved (q < 0.05)."""
    if labels.empty:
        return labels.assign(q_value=np.nan, retrieved=False)
    q = false_discovery_control(labels["p_value"])
    return labels.assign(q_value=q, retrieved=q < 0.05)
