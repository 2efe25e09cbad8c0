"""Writing a benchmark: metrics.json, tables, figures and one self-contained page."""

import json
import math
import os
from importlib.metadata import version
from pathlib import Path

import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from data.files import atomic_path
from eval.benchmark import Benchmark
from eval.figures import interval_figure, significance_figure
from eval.published import published_fractions
from eval.report import figure, page, table, text

_CONDITION = ["task", "modality", "cell", "time"]
_TASKS = {
    "activity": "Activity: wells of one reagent against their plates' controls",
    "matching": "Matching: reagents of one modality with a common target",
    "gene_compound": "Gene-compound: compounds and genetic reagents with a common target",
}


def write_benchmark(benchmark: Benchmark, out: str | os.PathLike[str], command: str) -> None:
    """Write a run's folder; every file appears whole or not at all.

    figures/*.png, labels.parquet and labels.csv (one row a label of every record), pool.tsv (the
    fixed pool, for `--pool`), notices.json, report.html, and last metrics.json (the records).

    Parameters
    ----------
    benchmark : Benchmark
    out : path
    command : str
        What made it, for the report.
    """
    records = [{k: _plain(v) for k, v in record.items()} for record in benchmark.records]
    out = Path(out)
    figures: dict[str, Figure] = {}
    sections = _sections(benchmark, pd.DataFrame(records), figures, command)
    for name, drawing in figures.items():
        with atomic_path(out / "figures" / f"{name}.png") as path:
            drawing.savefig(path, dpi=150)
    with atomic_path(out / "labels.parquet") as path:
        benchmark.labels.to_parquet(path, index=False)
    texts = {
        "labels.csv": benchmark.labels.to_csv(index=False, float_format="%.6g"),
        "pool.tsv": benchmark.pool.to_csv(index=False, sep="\t"),
        "notices.json": json.dumps(benchmark.notices.to_dict("records"), indent=1) + "\n",
        "report.html": page("CPJUMP1 matching benchmark", sections),
        "metrics.json": json.dumps(records, indent=1, allow_nan=False) + "\n",
    }
    for name, content in texts.items():
        with atomic_path(out / name) as path:
            path.write_text(content)


def _plain(value: object) -> object:
    """Make a value fit for JSON: numpy numbers plain, what is not a number None."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


Section = tuple[str, list[Markup]]


def _sections(
    benchmark: Benchmark, records: pd.DataFrame, figures: dict[str, Figure], command: str
) -> list[Section]:
    records = records.assign(series=_series(records))
    scored = records[records["task"] != "gene_recall"]
    main = scored[(scored["control"] == "") & (scored["split"] == "all")]
    sections: list[Section] = []
    headline = main[(main["protocol"] == "fixed_pool") & _one_vote(main)]
    if len(headline):
        words = (
            "The same reagents for every representation, whether active or not. Normalised mAP: 0 "
            "is chance, 1 is perfect. Targets with the same compounds have one vote together. "
            "Intervals: bootstrap over communities of targets; differences are paired, against "
            "the first representation."
        )
        blocks = [text(words), table(_show(headline, difference=True))]
        for task, title in _TASKS.items():
            rows = headline[(headline["task"] == task) & (headline["n_labels"] > 0)]
            if len(rows):
                drawing = interval_figure(
                    rows, "normalized_map", "ci_low", "ci_high", "normalised mAP (0 is chance)"
                )
                figures[f"fixed_pool_{task}"] = drawing
                blocks += [text(title), figure(drawing, f"fixed pool {task}")]
        sections.append(("Fixed pool (headline)", blocks))
    for protocol, title, words in (
        ("published", "Published protocol", "As in the paper: only active reagents are matched."),
        ("cellclip", "CellCLIP's variant", "A quarter of the well positions, kernel PCA scores."),
    ):
        rows = main[main["protocol"] == protocol]
        if len(rows):
            blocks = [text(words), table(_beside_published(rows, protocol == "published"))]
            drawn = benchmark.labels[
                (benchmark.labels["protocol"] == protocol)
                & (benchmark.labels["control"] == "")
                & (benchmark.labels["split"] == "all")
            ]
            blocks += _figures(rows, drawn.assign(series=_series(drawn)), figures, protocol)
            sections.append((title, blocks))
    held_out = scored[(scored["control"] == "") & (scored["split"] == "held_out")]
    if len(held_out):
        words = "Labels whose targets were held out; the pool stays whole."
        sections.append(("Held-out targets", [text(words), table(_show(held_out))]))
    controls = scored[scored["control"] != ""]
    if len(controls):
        words = (
            "label_permuted should be chance. control_positions: how many control positions look "
            "like active compounds. position_excluded: without pairs in one position. "
            "half_controls: the correction fitted on half of the controls, judged against that "
            "half or the other. held_out_negatives: held-out reagents among themselves."
        )
        sections.append(("Controls", [text(words), table(_show(controls, control=True))]))
    recall = records[records["task"] == "gene_recall"]
    if len(recall):
        columns = ["protocol", "modality", "cell", "time", "series", "recall", "chance", "n_pairs"]
        sections.append(("Gene-gene recall", [table(recall[columns])]))
    notices = [text("Nothing was left out or repaired.")]
    if len(benchmark.notices):
        notices = [table(benchmark.notices)]
    sections.append(("Notices about the input", notices))
    made = [text(command), text(f"copairs {version('copairs')}, numpy {version('numpy')}")]
    settings = records[["null_size", "seed"]].dropna().iloc[0]
    made.append(text(f"null {int(settings['null_size'])} rankings, seed {int(settings['seed'])}"))
    sections.append(("How it was made", made))
    return sections


def _series(rows: pd.DataFrame) -> pd.Series:
    """Name what is compared: the representation, and its correction where there is one."""
    corrected = rows["correction"].where(rows["correction"] != "none", "")
    return (rows["representation"] + " " + corrected).str.strip()


def _one_vote(records: pd.DataFrame) -> pd.Series:
    return (records["votes"] == "compound_set") | (records["task"] == "activity")


def _show(records: pd.DataFrame, control: bool = False, difference: bool = False) -> pd.DataFrame:
    columns = [*_CONDITION, "protocol", "votes", "series", "n_labels", "n_pool"]
    columns += ["fraction_retrieved", "mean_average_precision", "chance", "normalized_map"]
    columns += ["ci_low", "ci_high"]
    if control:
        columns.insert(0, "control")
    if difference:
        columns += ["difference", "difference_low", "difference_high"]
        columns.remove("protocol")
    return records[columns].rename(columns={"mean_average_precision": "mAP"})


def _beside_published(records: pd.DataFrame, add: bool) -> pd.DataFrame:
    shown = _show(records).drop(columns=["protocol", "votes"])
    if not add:
        return shown.assign(map_retrieved=records["map_retrieved"].astype(float))
    merged = shown.merge(published_fractions(), on=_CONDITION, how="left")
    return merged.rename(columns={"published": "CellProfiler, published"})


def _figures(
    records: pd.DataFrame, labels: pd.DataFrame, figures: dict[str, Figure], protocol: str
) -> list[Markup]:
    blocks = []
    for task, title in _TASKS.items():
        of_task = records[records["task"] == task]
        dots = labels[labels["task"] == task]
        if not len(of_task) or not len(dots):
            continue
        drawings = {
            "significance": significance_figure(dots),
            "fraction": interval_figure(
                of_task,
                "fraction_retrieved",
                "fraction_low",
                "fraction_high",
                "fraction retrieved (q < 0.05)",
            ),
        }
        blocks.append(text(title))
        for name, drawing in drawings.items():
            figures[f"{protocol}_{task}_{name}"] = drawing
            blocks.append(figure(drawing, f"{protocol} {task} {name}"))
    return blocks
