"""Intervals that respect that targets share compounds.

Targets hit by the same compounds are not independent: one pair of compounds can carry twenty
targets. So whole communities of labels are drawn again, not single labels; the intervals come
out about twice as wide, and honest.
"""

import networkx as nx
import numpy as np
import pandas as pd


def communities(members: pd.Series, seed: int = 0) -> np.ndarray:
    """Group labels that share members: Louvain communities of the label graph.

    Connected components would not do: in CPJUMP1 one of them holds most of the compounds.

    Parameters
    ----------
    members : Series of str
        "A|B": what each label consists of. A label without members stands alone.
    seed : int
        Of Louvain's random order.

    Returns
    -------
    ndarray, int, shape (labels,)
        The community of each label, 0, 1, ...

    Examples
    --------
    >>> communities(pd.Series(["a|b", "b|c", "d"])).tolist()
    [0, 0, 1]
    """
    has = members.fillna("").str.get_dummies(sep="|").to_numpy(dtype=np.float32)
    shared = has @ has.T
    np.fill_diagonal(shared, 0)
    graph = nx.from_numpy_array(shared)
    found = nx.community.louvain_communities(graph, seed=seed)
    result = np.empty(len(members), dtype=int)
    for number, nodes in enumerate(sorted(found, key=min)):
        result[list(nodes)] = number
    return result


def bootstrap_means(
    values: np.ndarray, community: np.ndarray, draws: int = 2000, seed: int = 0
) -> np.ndarray:
    """Draw communities with replacement and average the labels drawn.

    Parameters
    ----------
    values : ndarray, float, shape (labels,)
    community : ndarray, int, shape (labels,)
    draws, seed : int
        The same seed and communities draw the same labels, so that the difference of two calls
        is a paired bootstrap.

    Returns
    -------
    ndarray, float64, shape (draws,)
    """
    n = community.max() + 1
    times = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws)
    return (times @ np.bincount(community, values)) / (times @ np.bincount(community))


def interval(means: np.ndarray) -> tuple[float, float]:
    """Return the central 95 % of bootstrapped means."""
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
