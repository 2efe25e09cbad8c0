"""From wells to reagents, and from reagents to the targets under which they should match."""

import numpy as np
import pandas as pd

from eval.average_precision import score_pairs, unit_rows


def consensus(
    meta: pd.DataFrame, features: np.ndarray, by: list[str], how: str = "median"
) -> tuple[pd.DataFrame, np.ndarray]:
    """Merge the wells that agree in the columns `by` into one unit profile.

    Parameters
    ----------
    meta : DataFrame
        One row a well.
    features : ndarray, float, shape (n, d)
    by : list of str
        Columns that define a group; the other columns keep the group's first value.
    how : {"median", "mean"}

    Returns
    -------
    meta : DataFrame, one row a group, sorted by `by`
    features : ndarray, float64, shape (groups, d), rows of length one

    Raises
    ------
    InputError
        When a merged profile is zero.
    """
    groups = meta.groupby(by, sort=True, dropna=False)
    group = groups.ngroup().to_numpy()
    wells = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])
    merge = np.median if how == "median" else np.mean
    merged = np.stack([merge(features[rows], axis=0) for rows in wells])
    return groups.first().reset_index(), unit_rows(merged)


def target_matrix(target_lists: pd.Series) -> pd.DataFrame:
    """Spread "A|B" lists over one boolean column a target; no target, no True.

    Examples
    --------
    >>> target_matrix(pd.Series(["A|B", "", "B"])).astype(int).to_numpy().tolist()
    [[1, 1], [0, 0], [0, 1]]
    """
    return target_lists.fillna("").str.get_dummies(sep="|").astype(bool)


def score_targets(
    unit: np.ndarray, targets: pd.DataFrame, comparable: np.ndarray, signed: bool = False
) -> pd.DataFrame:
    """Average precision of every (reagent, target): reagents of the target should rank first.

    Positives share the target, negatives share none of the query's targets; a reagent that
    shares only another target of the query is neither.

    Parameters
    ----------
    unit : ndarray, float64, shape (n, d)
        One unit profile a reagent.
    targets : DataFrame, bool, shape (n, t)
        Which reagent has which target, see `target_matrix`.
    comparable : ndarray, bool, shape (n, n)
        Which reagent may answer which query (its own row and column are never used).
    signed : bool
        Rank by cosine; otherwise by |cosine|, so that opposite effects match too.

    Returns
    -------
    DataFrame
        See `eval.average_precision.score_pairs`; `query` is the row in `unit`.
    """
    similarity = unit @ unit.T if signed else np.abs(unit @ unit.T)
    comparable = comparable & ~np.eye(len(unit), dtype=bool)
    has = targets.to_numpy()
    share = has.astype(np.float32) @ has.T.astype(np.float32) > 0
    pairs = [(np.empty(0, int), np.empty(0, int))]
    labels = [np.empty(0, object)]
    for column, name in enumerate(targets.columns):
        members = np.flatnonzero(has[:, column])
        query, item = np.nonzero(comparable[np.ix_(members, members)])
        pairs.append((members[query], members[item]))
        labels.append(np.full(len(query), name, dtype=object))
    query, item = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return score_pairs(similarity, comparable & ~share, query, item, np.concatenate(labels))
