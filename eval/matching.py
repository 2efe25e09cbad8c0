"""Which perturbations look alike? The matching scores of the quickstart and of BBBC021.

The scores take a metadata table and the feature matrix beside it (row i of one is row i of the
other). `run_protocol` is the door to the CPJUMP1 benchmark, whose tasks are in `eval.protocols`.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from data.errors import InputError
from eval.average_precision import NULL_SIZE, score_labels, score_pairs, unit_rows
from eval.bootstrap import bootstrap_means, interval
from eval.cellclip import cellclip_pool, cellclip_view
from eval.profiles import Profiles
from eval.protocols import Condition, TaskResult, match_reagents, prepare
from eval.reagents import consensus, score_targets, target_matrix

_BLOCK = 1024  # queries compared at once, so that memory grows with the pool, not its square


PROTOCOLS = ("published", "fixed_pool", "cellclip")


def run_protocol(
    profiles: Profiles,
    protocol: str = "published",
    pool: dict[Condition, set[str]] | None = None,
    null_size: int = NULL_SIZE,
    seed: int = 0,
) -> list[TaskResult]:
    """Run activity, matching and gene-compound matching in every condition of the profiles.

    Parameters
    ----------
    profiles : Profiles
        See `eval.profiles.load_profiles` (files) and `profiles_from_table` (a DataFrame).
    protocol : {"published", "fixed_pool", "cellclip"}
        Which reagents are matched: the active ones, a fixed list, or CellCLIP's choice.
    pool : dict, optional
        For "fixed_pool": the reagents of each condition; by default all of them.
    null_size, seed : int
        Random rankings behind each p-value, and their seed.

    Returns
    -------
    list of TaskResult
        Activity of every condition, then matching, then gene_compound.

    Raises
    ------
    InputError
        When the protocol is unknown, or the pool lacks a condition or names reagents that the
        profiles do not have.

    Examples
    --------
    Eight wells: two plates, each with two controls and one well of each of two compounds.

    >>> import io
    >>> from eval.profiles import profiles_from_table
    >>> wells = pd.read_csv(io.StringIO('''
    ... Plate,Well,broad_sample,control_type,target_list,x,y,z
    ... P1,A01,BRD-1,,TUBB,5.0,0.1,0.2
    ... P1,A02,BRD-2,,TUBB,4.0,0.3,-0.1
    ... P1,A03,DMSO,negcon,,-0.1,1.0,0.4
    ... P1,A04,DMSO,negcon,,0.1,-0.9,0.7
    ... P2,A01,BRD-1,,TUBB,6.0,-0.2,0.1
    ... P2,A02,BRD-2,,TUBB,4.5,0.2,0.3
    ... P2,A03,DMSO,negcon,,0.2,0.8,-0.5
    ... P2,A04,DMSO,negcon,,-0.3,-1.1,0.1
    ... '''))
    >>> wells = wells.rename(columns=lambda c: c if c in "xyz" else f"Metadata_{c}")
    >>> wells = wells.assign(Metadata_modality="compound", Metadata_Cell_type="U2OS")
    >>> profiles = profiles_from_table(wells.assign(Metadata_Time=48), "example")
    >>> activity = run_protocol(profiles, null_size=1000)[0]
    >>> activity.labels[["label", "mean_average_precision", "n_total"]].to_numpy().tolist()
    [['BRD-1', 1.0, 3.0], ['BRD-2', 1.0, 3.0]]
    """
    if protocol not in PROTOCOLS:
        raise InputError(f"unknown protocol {protocol}: choose from {', '.join(PROTOCOLS)}")
    plates = prepare(
        cellclip_view(profiles, seed) if protocol == "cellclip" else profiles, null_size, seed
    )
    if protocol == "published":
        pool = {p.condition: p.active for p in plates}
    elif protocol == "cellclip":
        pool = cellclip_pool(plates)
    elif pool is None:
        pool = {p.condition: set(p.reagents.meta["Metadata_broad_sample"]) for p in plates}
    return [p.activity for p in plates] + match_reagents(plates, pool, null_size, seed)


@dataclass(frozen=True)
class MatchingScore:
    """The numbers of one matching task; means over labels, every label with one vote.

    Attributes
    ----------
    map, normalized_map : float
        Mean average precision, and (AP - chance) / (1 - chance): 0 is chance, 1 perfect.
    fraction_retrieved : float
        Share of labels with q < 0.05 (Benjamini-Hochberg).
    chance : float
        Expected mAP under random ranking.
    map_low, map_high : float
        95 % bootstrap interval of map, over labels.
    n_labels : int
    labels : DataFrame
        One row a label, see `eval.average_precision.score_labels`.
    """

    map: float
    normalized_map: float
    fraction_retrieved: float
    chance: float
    map_low: float
    map_high: float
    n_labels: int
    labels: pd.DataFrame

    def numbers(self) -> dict[str, float]:
        """Return the numbers without the table, for metrics.json."""
        return {k: v for k, v in vars(self).items() if k != "labels"}


def summarize_labels(labels: pd.DataFrame) -> MatchingScore:
    """Average a table of labels (`eval.average_precision.score_labels`) into its numbers."""
    each = labels["mean_average_precision"].to_numpy()
    low, high = interval(bootstrap_means(each, np.arange(len(each))))
    return MatchingScore(
        map=float(each.mean()),
        normalized_map=float(labels["normalized_map"].mean()),
        fraction_retrieved=float(labels["retrieved"].mean()),
        chance=float(labels["chance"].mean()),
        map_low=low,
        map_high=high,
        n_labels=len(labels),
        labels=labels,
    )


def replicate_matching(
    meta: pd.DataFrame, features: np.ndarray, null_size: int = 10_000, seed: int = 0
) -> MatchingScore:
    """Score whether wells of one reagent find each other among all treated wells.

    Every treated well (Metadata_pert_type not "control") is a query. Positives: the reagent's
    other wells, on any plate. Negatives: all treated wells of other reagents, on any plate, its
    sisters of the same target included. Signed cosine; one label a reagent. A reagent with one
    well has no positives: it is no label, but stays in the pool.

    Parameters
    ----------
    meta : DataFrame
        Metadata_broad_sample, Metadata_pert_type.
    features : ndarray, float, shape (n, d)
    null_size, seed : int
        Random rankings behind each p-value, and their seed.

    Raises
    ------
    InputError
        When no reagent has two treated wells.
    """
    treated = (meta["Metadata_pert_type"] != "control").to_numpy()
    reagent = meta.loc[treated, "Metadata_broad_sample"].to_numpy()
    unit = unit_rows(features[treated])
    scores = []
    for start in range(0, len(unit), _BLOCK):
        rows = slice(start, start + _BLOCK)
        same = reagent[rows, None] == reagent
        query, item = np.nonzero(same & (np.arange(len(unit)) != _column(rows, len(unit))))
        scores.append(score_pairs(unit[rows] @ unit.T, ~same, query, item, reagent[rows][query]))
    queries = pd.concat(scores)
    if queries.empty:
        raise InputError("no reagent has two treated wells: nothing to match")
    return summarize_labels(score_labels(queries, null_size, seed))


def _column(rows: slice, n: int) -> np.ndarray:
    return np.arange(n)[rows, None]


def gene_compound_matching(
    meta: pd.DataFrame,
    features: np.ndarray,
    held_out: bool = True,
    null_size: int = 10_000,
    seed: int = 0,
) -> MatchingScore:
    """Score whether compounds and genetic reagents of one target find each other.

    Wells are merged to one profile a reagent (median, unit length). Queries are compounds and
    guides or ORFs with a target. For each of a query's targets, positives are the reagents on the
    other side with that target; negatives those on the other side that share none of the query's
    targets, reagents without any target (inactive ones) included. |cosine|. One label a target
    gene: the mean over its queries from both sides.

    Parameters
    ----------
    meta : DataFrame
        Metadata_broad_sample, Metadata_modality, Metadata_target_list ("A|B"), Metadata_split.
    features : ndarray, float, shape (n, d)
    held_out : bool
        Keep only reagents whose targets were held out (Metadata_split "test") and those without a
        target, so that a reagent seen in training is neither query nor answer nor distractor.
    null_size, seed : int
        Random rankings behind each p-value, and their seed.

    Raises
    ------
    InputError
        When no target has reagents on both sides.
    """
    keep = meta["Metadata_modality"].isin(["compound", "crispr", "orf"])
    if "Metadata_pert_type" in meta:
        keep &= meta["Metadata_pert_type"] != "control"
    if held_out:
        keep &= (meta["Metadata_split"] == "test") | (meta["Metadata_target_list"].fillna("") == "")
    rows = keep.to_numpy()
    if not rows.any():
        raise InputError("no treated well has a held-out target: nothing to match")
    by = ["Metadata_modality", "Metadata_broad_sample"]
    reagents, unit = consensus(meta[rows], features[rows], by)
    targets = target_matrix(reagents["Metadata_target_list"])
    is_compound = (reagents["Metadata_modality"] == "compound").to_numpy()
    queries = score_targets(unit, targets, is_compound[:, None] != is_compound)
    if queries.empty:
        raise InputError(
            "no target has both a compound and a genetic reagent among "
            f"{len(reagents)} {'held-out ' if held_out else ''}reagents"
        )
    return summarize_labels(score_labels(queries, null_size, seed))


@dataclass(frozen=True)
class MechanismScore:
    """How well treatments find others of their mechanism of action.

    Attributes
    ----------
    nsc_accuracy : float
        1-nearest-neighbour accuracy, not counting the same compound.
    nsc_week_accuracy : float
        The same, not counting the same compound nor anything of the query's week. A query with
        nothing else of its mechanism in other weeks counts as wrong.
    map : float
        Mean over mechanisms of the mean AP of their treatments, same compound left out.
    chance : float
        Expected `map` under random ranking.
    n_treatments : int
    labels : DataFrame
        One row a mechanism, see `eval.average_precision.score_labels`.
    """

    nsc_accuracy: float
    nsc_week_accuracy: float
    map: float
    chance: float
    n_treatments: int
    labels: pd.DataFrame

    def numbers(self) -> dict[str, float]:
        """Return the numbers without the table, for metrics.json."""
        return {k: v for k, v in vars(self).items() if k != "labels"}


def mechanism_matching(
    meta: pd.DataFrame,
    features: np.ndarray,
    queries: np.ndarray | None = None,
    null_size: int = 10_000,
    seed: int = 0,
) -> MechanismScore:
    """Score BBBC021's task: a treatment's nearest neighbour should share its mechanism.

    Wells are merged to treatments (compound and concentration: mean, then unit length). Cosine.
    BBBC021 has one well a treatment in each replicate, so on one replicate wells and treatments
    are the same thing. There, frozen EfficientNet-Lite0 (ImageNet mean and deviation, one pass a
    channel, each site's concatenated vector scaled to length one, mean over the well's sites)
    has nsc .945 and nsc-week .800 on replicate 2; without that scaling .927 and .782.

    Parameters
    ----------
    meta : DataFrame
        Metadata_broad_sample (compound), Metadata_concentration, Metadata_moa, Metadata_week.
    features : ndarray, float, shape (n, d)
    queries : ndarray, bool, shape (n,), optional
        Wells of the treatments that ask (a fold's held-out compounds); every treatment answers.
        By default all ask.
    null_size, seed : int
        Random rankings behind each p-value, and their seed.

    Raises
    ------
    InputError
        When fewer than two compounds are given, so that nothing can be a neighbour.
    """
    asks = np.ones(len(meta), dtype=bool) if queries is None else np.asarray(queries, dtype=bool)
    by = ["Metadata_broad_sample", "Metadata_concentration"]
    treatments, unit = consensus(meta.assign(asks=asks), features, by, how="mean")
    compound, week, moa = (
        treatments[f"Metadata_{name}"].to_numpy() for name in ("broad_sample", "week", "moa")
    )
    if len(np.unique(compound)) < 2:
        raise InputError("mechanism matching needs at least two compounds")
    ask = np.flatnonzero(treatments["asks"])
    similarity = unit[ask] @ unit.T
    other_compound = compound[ask, None] != compound
    other_week = other_compound & (week[ask, None] != week)
    same_moa = moa[ask, None] == moa
    query, item = np.nonzero(same_moa & other_compound)
    labels = score_labels(
        score_pairs(similarity, ~same_moa & other_compound, query, item, moa[ask][query]),
        null_size,
        seed,
    )
    return MechanismScore(
        nsc_accuracy=_nearest_accuracy(similarity, other_compound, same_moa),
        nsc_week_accuracy=_nearest_accuracy(similarity, other_week, same_moa),
        map=float(labels["mean_average_precision"].mean()),
        chance=float(labels["chance"].mean()),
        n_treatments=len(ask),
        labels=labels,
    )


def _nearest_accuracy(similarity: np.ndarray, allowed: np.ndarray, correct: np.ndarray) -> float:
    nearest = np.where(allowed, similarity, -np.inf).argmax(axis=1)
    row = np.arange(len(nearest))
    return float((correct[row, nearest] & allowed[row, nearest]).mean())
