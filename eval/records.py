"""Averaging label tables into the records of metrics.json, with intervals and differences."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from eval.bootstrap import bootstrap_means, communities, interval
from eval.protocols import Plates, TaskResult
from eval.recall import gene_recall

_NUMBERS = (
    "fraction_retrieved fraction_low fraction_high mean_average_precision map_retrieved "
    "normalized_map ci_low ci_high chance difference difference_low difference_high"
)


@dataclass(frozen=True)
class Entry:
    """One row of the comparison: a task's result and the names that tell it from the others."""

    representation: str
    correction: str
    protocol: str
    result: TaskResult
    control: str = ""
    votes: str = "label"
    split: str = "all"

    def names(self) -> dict[str, str]:
        """Return the columns that name this row, in tables and in metrics.json."""
        condition = asdict(self.result.condition)
        own = ("protocol", "control", "votes", "split", "representation", "correction")
        return {"task": self.result.task, **condition, **{n: getattr(self, n) for n in own}}


def make_records(entries: Iterable[Entry]) -> list[dict[str, object]]:
    """Average every entry into a record, with intervals, and compare it with the baseline.

    Intervals are bootstrapped over communities of labels that share members: fraction_low and
    fraction_high of fraction_retrieved, ci_low and ci_high of normalized_map. difference is
    normalized_map minus that of the first entry with the same names but representation and
    correction, over the same labels with a paired interval; only where the pool is fixed.
    map_retrieved averages the labels with q < 0.05 alone. What cannot be known is None.
    """
    baseline: dict[tuple[str, ...], tuple[pd.DataFrame, np.ndarray]] = {}
    records = []
    for entry in entries:
        labels = entry.result.labels
        record: dict[str, object] = {
            **entry.names(),
            "n_labels": len(labels),
            "n_pool": entry.result.n_pool,
            **dict.fromkeys(_NUMBERS.split()),
        }
        records.append(record)
        if labels.empty:
            continue
        group = communities(labels["members"])
        draws = bootstrap_means(labels["normalized_map"].to_numpy(), group)
        retrieved = labels["retrieved"].to_numpy(dtype=float)
        for name in ("mean_average_precision", "normalized_map", "chance"):
            record[name] = float(labels[name].mean())
        record["fraction_retrieved"] = float(retrieved.mean())
        if retrieved.any():
            found = labels.loc[labels["retrieved"], "mean_average_precision"]
            record["map_retrieved"] = float(found.mean())
        record["ci_low"], record["ci_high"] = interval(draws)
        record["fraction_low"], record["fraction_high"] = interval(
            bootstrap_means(retrieved, group)
        )
        names = entry.names()
        del names["representation"], names["correction"]
        first, first_draws = baseline.setdefault(tuple(names.values()), (labels, draws))
        compared = entry.protocol == "fixed_pool" and first is not labels
        if compared and first["label"].equals(labels["label"]):
            difference = labels["normalized_map"].mean() - first["normalized_map"].mean()
            record["difference"] = float(difference)
            record["difference_low"], record["difference_high"] = interval(draws - first_draws)
    return records


def recall_records(
    name: str, correction: str, plates: list[Plates], pairs: dict[str, pd.DataFrame]
) -> list[dict[str, object]]:
    """Score gene-gene recall (`eval.recall`) of every genetic condition on every set of pairs."""
    records: list[dict[str, object]] = []
    for p in plates:
        if p.condition.modality == "compound":
            continue
        for source, known in pairs.items():
            genes = p.reagents.meta["Metadata_target_list"]
            score = gene_recall(genes, p.reagents.unit, known)
            records.append(
                {
                    "task": "gene_recall",
                    **asdict(p.condition),
                    "protocol": source,
                    "representation": name,
                    "correction": correction,
                    **asdict(score),
                }
            )
    return records
