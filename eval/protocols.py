"""The CPJUMP1 benchmark's three tasks, and the protocols that are made of them.

Tasks, for every condition (modality, cell, time) of the profiles:
**activity** (a reagent's wells find each other among the controls of their plates), **matching**
(reagents of one modality with a common target find each other), **gene_compound** (compounds and
genetic reagents with a common target find each other, in one cell line, every pair of times).
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from tqdm import tqdm

from data.errors import InputError
from eval.average_precision import NULL_SIZE, correct_p_values, score_labels, score_pairs, unit_rows
from eval.profiles import Profiles
from eval.reagents import consensus, score_targets, target_matrix
from eval.wells import CONDITION


@dataclass(frozen=True)
class Condition:
    """The plates of one modality, cell line and time."""

    modality: str
    cell: str
    time: str


@dataclass(frozen=True)
class TaskResult:
    """One task in one condition: its table of labels and what to call it.

    Attributes
    ----------
    task : str
        "activity", "matching" or "gene_compound".
    condition : Condition
        For gene_compound, modality and time name both sides ("compound+crispr", "48+144").
    labels : DataFrame
        One row a label, see `eval.average_precision.score_labels`; `members` lists the reagents
        (for activity: the targets) that decide which labels stand or fall together.
    n_pool : int
        Reagents that were compared (activity: wells).
    """

    task: str
    condition: Condition
    labels: pd.DataFrame
    n_pool: int


@dataclass(frozen=True)
class Plates:
    """One condition, ready for the tasks that build on each other.

    Attributes
    ----------
    condition : Condition
    wells : Profiles
    activity : TaskResult
    reagents : Reagents
        Consensus profiles of all treated reagents.
    """

    condition: "Condition"
    wells: Profiles
    activity: "TaskResult"
    reagents: "Reagents"

    @property
    def active(self) -> set[str]:
        """Reagents retrieved in the activity task (q < 0.05)."""
        labels = self.activity.labels
        return set(labels.loc[labels["retrieved"], "label"])


@dataclass(frozen=True)
class Reagents:
    """The consensus profiles of one condition: one unit vector a reagent."""

    condition: Condition
    meta: pd.DataFrame
    unit: np.ndarray

    def keep(self, names: Collection[str]) -> "Reagents":
        """Keep the reagents named in `names`."""
        rows = self.meta["Metadata_broad_sample"].isin(set(names)).to_numpy()
        return Reagents(self.condition, self.meta[rows].reset_index(drop=True), self.unit[rows])


def conditions(profiles: Profiles) -> Iterator[tuple[Condition, Profiles]]:
    """Split profiles by modality, cell and time, in that order."""
    names = profiles.meta[CONDITION]
    for modality, cell, time in names.drop_duplicates().sort_values(CONDITION).to_numpy():
        rows = (names == [modality, cell, time]).all(axis=1).to_numpy()
        yield Condition(modality, cell, str(time)), profiles.subset(rows)


def activity(
    condition: Condition,
    wells: Profiles,
    null_size: int = NULL_SIZE,
    seed: int = 0,
    exclude_position: bool = False,
) -> TaskResult:
    """Score whether a reagent's wells find each other among the controls of their plates.

    Queries are all wells but negative controls. Positives: the reagent's other wells in the
    condition, on any plate. Negatives: the negative controls on the query's own plate. Cosine.

    Parameters
    ----------
    condition : Condition
    wells : Profiles
        The wells of the condition.
    null_size, seed : int
        See `eval.average_precision.p_values`.
    exclude_position : bool
        Leave out pairs in the same well position: what two plates share there may be the
        position's effect and not the reagent's.
    """
    meta, unit = wells.meta, unit_rows(wells.features)
    negcon = (meta["Metadata_control_type"] == "negcon").to_numpy()
    plate = meta["Metadata_Plate"].to_numpy()
    treated = np.flatnonzero(~negcon)
    reagent = meta["Metadata_broad_sample"].to_numpy()[treated]
    position = meta["Metadata_Well"].to_numpy()[treated]
    scores = []
    for name in np.unique(plate):
        asks = np.flatnonzero(plate[treated] == name)
        controls = np.flatnonzero(negcon & (plate == name))
        if not len(asks) or not len(controls):
            continue
        pool = np.concatenate([treated, controls])
        same = (reagent[asks, None] == reagent) & (asks[:, None] != np.arange(len(treated)))
        if exclude_position:
            same &= position[asks, None] != position
        query, item = np.nonzero(same)
        negative = np.zeros((len(asks), len(pool)), dtype=bool)
        negative[:, len(treated) :] = True
        similarity = unit[treated[asks]] @ unit[pool].T
        scores.append(score_pairs(similarity, negative, query, item, reagent[asks][query]))
    labels = score_labels(_stack(scores), null_size, seed)
    targets = meta.drop_duplicates("Metadata_broad_sample").set_index("Metadata_broad_sample")
    labels["members"] = labels["label"].map(targets["Metadata_target_list"])
    return TaskResult("activity", condition, labels, len(wells.meta))


def reagent_profiles(condition: Condition, wells: Profiles) -> Reagents:
    """Merge the treated wells of a condition to one median profile a reagent."""
    treated = (wells.meta["Metadata_control_type"] != "negcon").to_numpy()
    if not treated.any():
        raise InputError(f"{condition}: every well is a negative control")
    by = ["Metadata_broad_sample"]
    return Reagents(condition, *consensus(wells.meta[treated], wells.features[treated], by))


def matching(reagents: Reagents, null_size: int = NULL_SIZE, seed: int = 0) -> TaskResult:
    """Score whether reagents of one modality that share a target find each other.

    Compounds by |cosine|, with every target of the list a label of its own. Guides by signed
    cosine, only those whose gene has another guide in the pool.
    """
    if reagents.condition.modality != "compound":
        genes = reagents.meta["Metadata_target_list"]
        sisters = (genes != "") & genes.duplicated(keep=False)
        reagents = reagents.keep(reagents.meta.loc[sisters, "Metadata_broad_sample"])
    targets = target_matrix(reagents.meta["Metadata_target_list"])
    anyone = np.ones((len(targets), len(targets)), dtype=bool)
    signed = reagents.condition.modality != "compound"
    queries = score_targets(reagents.unit, targets, anyone, signed)
    return _target_result("matching", reagents.condition, reagents, queries, null_size, seed)


def gene_compound(
    compounds: Reagents, genetic: Reagents, null_size: int = NULL_SIZE, seed: int = 0
) -> TaskResult:
    """Score whether compounds and genetic reagents with a common target find each other.

    Compounds' target lists are cut to the genes present on the genetic side, and compounds left
    with none are dropped. Queries from both sides; positives share the target, negatives share
    none; always across the modalities; |cosine|.
    """
    condition = Condition(
        f"{compounds.condition.modality}+{genetic.condition.modality}",
        compounds.condition.cell,
        f"{compounds.condition.time}+{genetic.condition.time}",
    )
    genes = set(genetic.meta["Metadata_target_list"]) - {""}
    lists = compounds.meta["Metadata_target_list"].str.split("|")
    cut = lists.map(lambda listed: "|".join(t for t in listed if t in genes))
    kept = (cut != "").to_numpy()
    meta = pd.concat(
        [compounds.meta[kept].assign(Metadata_target_list=cut[kept]), genetic.meta],
        ignore_index=True,
    )
    both = Reagents(condition, meta, np.concatenate([compounds.unit[kept], genetic.unit]))
    is_compound = np.arange(len(meta)) < kept.sum()
    queries = score_targets(
        both.unit,
        target_matrix(meta["Metadata_target_list"]),
        is_compound[:, None] != is_compound,
    )
    return _target_result("gene_compound", condition, both, queries, null_size, seed)


def prepare(profiles: Profiles, null_size: int = NULL_SIZE, seed: int = 0) -> list[Plates]:
    """Run activity and merge wells to reagents, condition by condition, with a progress bar."""
    result = []
    for condition, wells in tqdm(list(conditions(profiles)), desc=f"{profiles.name}: activity"):
        scored = activity(condition, wells, null_size, seed)
        result.append(Plates(condition, wells, scored, reagent_profiles(condition, wells)))
    return result


def match_reagents(
    plates: list[Plates], pool: dict[Condition, set[str]], null_size: int, seed: int
) -> list[TaskResult]:
    """Run matching and gene_compound on the reagents in the pool, in all conditions.

    Parameters
    ----------
    plates : list of Plates
    pool : dict
        The reagents of each condition that take part: the active ones (published protocol) or a
        list that is the same for every representation (fixed pool).
    null_size, seed : int
        See `eval.average_precision.p_values`.

    Returns
    -------
    list of TaskResult
        Matching of compounds and of guides (not of ORFs: one reagent a gene), then every compound
        condition with every genetic condition of its cell line.

    Raises
    ------
    InputError
        When the pool lacks a condition or names a reagent without a profile.
    """
    for p in plates:
        if p.condition not in pool:
            raise InputError(f"the pool has no reagents for {p.condition}")
        lacking = sorted(pool[p.condition] - set(p.reagents.meta["Metadata_broad_sample"]))
        if lacking:
            raise InputError(
                f"{len(lacking)} reagents of the pool have no profile in {p.condition} "
                f"(first: {lacking[0]}): a smaller pool would not be comparable"
            )
    pooled = [p.reagents.keep(pool[p.condition]) for p in plates]
    compounds = [r for r in pooled if r.condition.modality == "compound"]
    within = [r for r in pooled if r.condition.modality != "orf"]
    across = [
        (compound, genetic)
        for compound in compounds
        for genetic in pooled
        if genetic.condition.modality != "compound"
        and genetic.condition.cell == compound.condition.cell
    ]
    with tqdm(total=len(within) + len(across), desc="matching") as bar:
        results = []
        for reagents in within:
            results.append(matching(reagents, null_size, seed))
            bar.update()
        for compound, genetic in across:
            results.append(gene_compound(compound, genetic, null_size, seed))
            bar.update()
    return results


def _target_result(
    task: str,
    condition: Condition,
    pool: Reagents,
    queries: pd.DataFrame,
    null_size: int,
    seed: int,
) -> TaskResult:
    labels = score_labels(queries, null_size, seed)
    compounds = pool.meta[pool.meta["Metadata_modality"] == "compound"]
    # Targets hit by the same compounds are one observation: their members decide who votes once.
    votes = compounds if len(compounds) else pool.meta
    listed = votes.assign(label=votes["Metadata_target_list"].str.split("|")).explode("label")
    members = listed.groupby("label")["Metadata_broad_sample"].agg(lambda s: "|".join(sorted(s)))
    labels["members"] = labels["label"].map(members)
    return TaskResult(task, condition, labels, len(pool.meta))


def _stack(scores: list[pd.DataFrame]) -> pd.DataFrame:
    if scores:
        return pd.concat(scores, ignore_index=True)
    nobody = np.empty(0, dtype=int)
    return score_pairs(np.empty((0, 0)), np.empty((0, 0), dtype=bool), nobody, nobody, nobody)


def unique_sets(labels: pd.DataFrame) -> pd.DataFrame:
    """Give targets with the same compounds one vote: the mean of their rows, q over the sets.

    Examples
    --------
    >>> table = pd.DataFrame({"label": ["A", "B", "C"], "members": ["x|y", "x|y", "z|y"],
    ...                       "normalized_map": [0.5, 0.5, 0.0], "p_value": [0.01, 0.01, 0.2]})
    >>> unique_sets(table)[["label", "normalized_map"]].to_numpy().tolist()
    [['A|B', 0.5], ['C', 0.0]]
    """
    if labels.empty:
        return labels
    numbers = {c: "mean" for c in labels.select_dtypes(["number", "bool"]).columns}
    groups = labels.groupby("members", sort=False)
    return correct_p_values(groups.agg({"label": "|".join, **numbers}).reset_index())
