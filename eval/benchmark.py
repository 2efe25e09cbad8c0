"""The whole benchmark: representations and corrections in, one list of records out.

`run_benchmark` composes protocols (`eval.protocols`, `eval.cellclip`), controls (`eval.controls`)
and splits (`eval.splits`); `eval.benchmark_report` writes what it returns.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import pandas as pd

from captions.knowledge import Knowledge, load_knowledge
from data.errors import InputError
from eval import controls
from eval.average_precision import NULL_SIZE, correct_p_values
from eval.cellclip import cellclip_pool, cellclip_view
from eval.corrections import correct
from eval.leaks import describe_evaluated, find_leaks, refuse_leaks
from eval.matching import PROTOCOLS
from eval.notices import Notice, some
from eval.profiles import Profiles, align
from eval.protocols import (
    Condition,
    Plates,
    TaskResult,
    conditions,
    match_reagents,
    prepare,
    unique_sets,
)
from eval.records import Entry, make_records, recall_records
from eval.splits import held_out_targets, representation_split
from eval.wells import CONDITION

Pool = dict[Condition, set[str]]


@dataclass(frozen=True)
class Settings:
    """What to run.

    Attributes
    ----------
    protocols : tuple of str
        Of `eval.matching.PROTOCOLS`.
    corrections : tuple of str
        Of `eval.corrections.CORRECTIONS`; the first, with the first representation, is the
        baseline that picks the fixed pool and that others are compared with.
    controls : bool
        Run the controls of `eval.controls` too.
    split : str or None
        "official" or "column": report held-out targets beside all, see `eval.splits`.
    on_leak : str
        What happens when held-out targets are known from training: "refuse" the run, or "exclude"
        them from the held-out rows.
    accept_leaks : tuple of str
        Kinds of `eval.leaks.LEAK_KINDS` that do not count; they are noted.
    null_size, seed : int
        See `eval.average_precision.p_values`.
    """

    protocols: tuple[str, ...] = ("published", "fixed_pool")
    corrections: tuple[str, ...] = ("none",)
    controls: bool = True
    split: str | None = None
    on_leak: str = "refuse"
    accept_leaks: tuple[str, ...] = ()
    null_size: int = NULL_SIZE
    seed: int = 0


@dataclass(frozen=True)
class Benchmark:
    """Everything that a run found.

    Attributes
    ----------
    records : list of dict
        One record a row of the comparison: the contents of metrics.json.
    labels : DataFrame
        The label tables of all rows, with the columns that name the row.
    notices : DataFrame
        representation, name, count, where.
    pool : DataFrame
        The fixed pool: condition columns and Metadata_broad_sample.
    """

    records: list[dict[str, object]]
    labels: pd.DataFrame
    notices: pd.DataFrame
    pool: pd.DataFrame


def run_benchmark(
    groups: Sequence[Profiles],
    settings: Settings,
    pool: pd.DataFrame | None = None,
    training_captions: pd.DataFrame | None = None,
    gene_pairs: dict[str, pd.DataFrame] | None = None,
    knowledge: Knowledge | None = None,
) -> Benchmark:
    """Run the benchmark on one or more representations of the same wells.

    Parameters
    ----------
    groups : sequence of Profiles
        The first is the baseline.
    settings : Settings
    pool : DataFrame, optional
        The fixed pool (as `Benchmark.pool` of an earlier run, or Metadata_broad_sample alone); by
        default the reagents that are active in the baseline.
    training_captions : DataFrame, optional
        Text that a model was trained on, for the leak audit of held-out targets.
    knowledge : Knowledge, optional
        Synonyms for that audit; without it symbols, names and structures of the profiles are all.
    gene_pairs : dict of DataFrame, optional
        Known pairs of genes by name, see `eval.recall`.

    Raises
    ------
    InputError
        When names repeat, a protocol is unknown, captions are given without a split, held-out
        targets are known from training (see `Settings.on_leak`), or the input is wrong (see
        `eval.profiles` and the other modules).
    """
    names = [group.name for group in groups]
    if len(set(names)) < len(names):
        raise InputError(f"two representations have one name: {', '.join(names)}")
    for protocol in settings.protocols:
        if protocol not in PROTOCOLS:
            raise InputError(f"unknown protocol {protocol}: choose from {', '.join(PROTOCOLS)}")
    groups = align(groups)
    notices = [(group.name, notice) for group in groups for notice in group.notices]
    held_out, audited = _held_out(groups[0].meta, settings, training_captions, knowledge)
    notices += [("all", notice) for notice in audited]
    fixed = None if pool is None else pool_by_condition(pool, groups[0])
    entries: list[Entry] = []
    recalls: list[dict[str, object]] = []
    for group in groups:
        for correction in settings.corrections:
            corrected = correct(group, correction)
            plates = prepare(corrected, settings.null_size, settings.seed)
            if fixed is None:
                fixed = {p.condition: p.active for p in plates}
            if not entries:
                notices += [("all", notice) for notice in plate_notices(plates, fixed)]
            run = _Run(group.name, correction, plates, fixed, held_out, settings)
            entries += run.protocol_entries(corrected)
            if settings.controls:
                entries += run.control_entries(group)
            recalls += recall_records(group.name, correction, plates, gene_pairs or {})
    assert fixed is not None
    return _collect(entries, recalls, notices, fixed, settings)


def _held_out(
    meta: pd.DataFrame,
    settings: Settings,
    captions: pd.DataFrame | None,
    knowledge: Knowledge | None,
) -> tuple[set[str], list[Notice]]:
    """Name the held-out targets that may be reported."""
    if settings.split is None:
        if captions is not None:
            raise InputError("--training-captions needs --split: which targets are held out?")
        return set(), []
    held_out = held_out_targets(meta, settings.split)
    if captions is None:
        where = "no --training-captions: whether the targets were held out was not checked"
        return held_out, [Notice("leak_audit_missing", len(held_out), where)]
    return audit(captions, held_out, meta, settings, knowledge)


def _collect(
    entries: list[Entry],
    recalls: list[dict[str, object]],
    notices: list[tuple[str, Notice]],
    pool: Pool,
    settings: Settings,
) -> Benchmark:
    """Turn entries into records and one table of labels."""
    main = [e for e in entries if not e.control and e.split == "all"]
    empty = [e.names() for e in main if e.result.labels.empty]
    if len(empty) == len(main):
        raise InputError("nothing can be scored: no reagent has two wells beside controls")
    if empty:
        which = [f"{n['protocol']} {n['task']} {n['modality']} {n['cell']}" for n in empty]
        where = f"{some(which)}: nothing in the pool shares a target"
        notices = [*notices, ("all", Notice("task_without_labels", len(empty), where))]
    records = make_records(entries)
    for record in records:
        record |= {"null_size": settings.null_size, "seed": settings.seed}
        if settings.split == "official":
            half = representation_split(str(record["modality"]), str(record["time"]))
            record["representation_split"] = half
    filled = [e for e in entries if len(e.result.labels)]
    labels = pd.concat([e.result.labels.assign(**e.names()) for e in filled], ignore_index=True)
    table = [{"representation": name, **asdict(notice)} for name, notice in notices]
    return Benchmark(
        records + recalls,
        labels[[*filled[0].names(), *filled[0].result.labels.columns]],
        pd.DataFrame(table, columns=["representation", "name", "count", "where"]),
        _pool_table(pool),
    )


@dataclass(frozen=True)
class _Run:
    """One representation under one correction, ready to be scored."""

    name: str
    correction: str
    plates: list[Plates]
    pool: Pool
    held_out: set[str]
    settings: Settings

    def protocol_entries(self, profiles: Profiles) -> Iterator[Entry]:
        active = {p.condition: p.active for p in self.plates}
        if "published" in self.settings.protocols:
            yield from self._scored("published", self.plates, active)
        if "fixed_pool" in self.settings.protocols:
            yield from self._scored("fixed_pool", self.plates, self.pool)
            if self.held_out:
                pool = controls.held_out_pool(self.plates, self.pool, self.held_out)
                for result in self._match(self.plates, pool):
                    held = _only(result, self.held_out)
                    yield self._entry("fixed_pool", held, "held_out_negatives", split="held_out")
        if "cellclip" in self.settings.protocols and self.correction == "none":
            view = cellclip_view(profiles, self.settings.seed)
            plates = prepare(view, self.settings.null_size, self.settings.seed)
            yield from self._scored("cellclip", plates, cellclip_pool(plates))

    def control_entries(self, uncorrected: Profiles) -> Iterator[Entry]:
        null = (self.settings.null_size, self.settings.seed)
        for p in self.plates:
            for control, score in (
                ("label_permuted", controls.label_permuted_activity),
                ("control_positions", controls.control_position_activity),
                ("position_excluded", controls.position_excluded_activity),
            ):
                yield self._entry("published", score(p.condition, p.wells, *null), control)
            if p.condition.modality != "orf":
                permuted = controls.label_permuted_matching(
                    p.reagents.keep(self.pool[p.condition]), *null
                )
                yield self._entry("fixed_pool", permuted, "label_permuted")
        for control, fitted in (("half_controls_fitted", True), ("half_controls_held_out", False)):
            halved = controls.half_controls(uncorrected, self.correction, fitted, null[1])
            for condition, wells in conditions(halved):
                result = controls.activity(condition, wells, *null)
                yield self._entry("published", result, control)

    def _match(self, plates: list[Plates], pool: Pool) -> list[TaskResult]:
        return match_reagents(plates, pool, self.settings.null_size, self.settings.seed)

    def _scored(self, protocol: str, plates: list[Plates], pool: Pool) -> Iterator[Entry]:
        for result in [p.activity for p in plates] + self._match(plates, pool):
            yield self._entry(protocol, result)
            if self.held_out:
                held = _only(result, self.held_out)
                yield self._entry(protocol, held, split="held_out")
            if protocol == "fixed_pool" and result.task != "activity":
                yield self._entry(protocol, _once(result), votes="compound_set")
                if self.held_out:
                    yield self._entry(protocol, _once(held), votes="compound_set", split="held_out")

    def _entry(
        self,
        protocol: str,
        result: TaskResult,
        control: str = "",
        votes: str = "label",
        split: str = "all",
    ) -> Entry:
        return Entry(self.name, self.correction, protocol, result, control, votes, split)


def _only(result: TaskResult, targets: set[str]) -> TaskResult:
    """Keep the labels of some targets (activity: reagents that have one), q among them anew."""
    labels = result.labels
    if result.task == "activity":
        rows = labels["members"].str.split("|").map(lambda listed: not targets.isdisjoint(listed))
    else:
        rows = labels["label"].isin(targets)
    kept = correct_p_values(labels[rows.astype(bool)].reset_index(drop=True))
    return TaskResult(result.task, result.condition, kept, result.n_pool)


def _once(result: TaskResult) -> TaskResult:
    return TaskResult(result.task, result.condition, unique_sets(result.labels), result.n_pool)


def audit(
    captions: pd.DataFrame,
    held_out: set[str],
    meta: pd.DataFrame,
    settings: Settings,
    knowledge: Knowledge | None,
) -> tuple[set[str], list[Notice]]:
    """Refuse held-out targets that are known from training, or leave them out; say so.

    Raises
    ------
    InputError
        When targets leak and `on_leak` is "refuse", or none is left.
    """
    if settings.on_leak not in ("refuse", "exclude"):
        raise InputError(f"on_leak is {settings.on_leak!r}: expected refuse or exclude")
    genes = knowledge.look_up_genes(held_out) if knowledge else None
    reagents = describe_evaluated(meta, knowledge or load_knowledge())
    leaks = find_leaks(captions, held_out, reagents, genes)
    if settings.on_leak == "refuse":
        advice = "; or report the others with --on-leak exclude"
        refuse_leaks(leaks, held_out, settings.accept_leaks, advice)
    accepted = leaks["kind"].isin(list(settings.accept_leaks))
    leaked, tolerated = (set(leaks.loc[rows, "target"]) for rows in (~accepted, accepted))
    clean = held_out - leaked
    if not clean:
        refuse_leaks(leaks, held_out, settings.accept_leaks)
    notices = []
    if leaked:
        where = (
            f"{', '.join(sorted(leaked))} are known from training: {len(clean)} targets are left"
        )
        notices.append(Notice("leaked_target", len(leaked), where))
    if tolerated & clean:
        where = f"{some(sorted(tolerated & clean))}: {', '.join(settings.accept_leaks)} accepted"
        notices.append(Notice("leak_accepted", len(tolerated & clean), where))
    searched = "with synonyms" if knowledge else "without synonyms (no --knowledge)"
    notices.append(Notice("leak_audit", len(leaked), f"{len(held_out)} targets, {searched}"))
    return clean, notices


def pool_by_condition(pool: pd.DataFrame, profiles: Profiles) -> Pool:
    """Read a pool table: by its condition columns, or one list for all conditions.

    Raises
    ------
    InputError
        When Metadata_broad_sample is missing or a listed reagent is in no condition.
    """
    if "Metadata_broad_sample" not in pool:
        raise InputError("pool: column Metadata_broad_sample is missing")
    result: Pool = {}
    found: set[str] = set()
    for condition, wells in conditions(profiles):
        rows = pool
        if set(CONDITION) <= set(pool):
            same = pool[CONDITION].astype(str) == list(asdict(condition).values())
            rows = pool[same.all(axis=1)]
        listed = set(rows["Metadata_broad_sample"])
        if not set(CONDITION) <= set(pool):
            listed &= set(wells.meta["Metadata_broad_sample"])
        result[condition] = listed
        found |= listed
    absent = sorted(set(pool["Metadata_broad_sample"]) - found)
    if absent:
        raise InputError(f"pool: {len(absent)} reagents are in no condition (first: {absent[0]})")
    return result


def _pool_table(pool: Pool) -> pd.DataFrame:
    rows = [(*asdict(c).values(), name) for c, names in pool.items() for name in sorted(names)]
    return pd.DataFrame(rows, columns=[*CONDITION, "Metadata_broad_sample"])


def plate_notices(plates: list[Plates], pool: Pool) -> list[Notice]:
    """Count what cannot be scored: reagents with one well, targets with one reagent."""
    single: list[str] = []
    lonely: list[str] = []
    for p in plates:
        treated = p.wells.meta[p.wells.meta["Metadata_control_type"] != "negcon"]
        wells = treated["Metadata_broad_sample"].value_counts()
        single += sorted(wells.index[wells == 1])
        if p.condition.modality != "orf":
            pooled = p.reagents.keep(pool[p.condition]).meta["Metadata_target_list"]
            reagents = pooled[pooled != ""].str.split("|").explode().value_counts()
            lonely += sorted(reagents.index[reagents == 1])
    found = (
        ("single_replicate", single, "one well in its condition: no label for activity"),
        ("single_reagent_target", lonely, "one reagent in the fixed pool: no label for matching"),
    )
    return [Notice(n, len(who), f"{some(who)}: {why}") for n, who, why in found if who]
