"""The table and the figure of align_ablation.py, from what its rows found."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from eval.bootstrap import bootstrap_means, interval

TASKS = ("gene_compound", "replicate", "mechanism")
"""Each table has those that were scored."""
RANKS = (1, 5, 10)


def by_label(found: list[dict], name: str, task: str) -> pd.DataFrame:
    """Normalised mAP of a row: labels by seeds."""
    return pd.DataFrame(
        {one["seed"]: one[task]["labels"] for one in found if one["row"] == name}
    ).sort_index()


def summarize(found: list[dict], name: str, task: str) -> tuple[float, float, float, pd.Series]:
    """Mean over seeds and labels, its interval over labels, and the labels' means."""
    labels = by_label(found, name, task).mean(axis=1)
    low, high = interval(bootstrap_means(labels.to_numpy(), np.arange(len(labels))))
    return float(labels.mean()), low, high, labels


def difference(found: list[dict], name: str, task: str) -> tuple[float, float, float]:
    """Paired difference from ours on the same seeds and labels, with its interval over labels."""
    mine, ours = by_label(found, name, task), by_label(found, "ours", task)
    seeds = [seed for seed in mine if seed in ours]
    off = (mine[seeds] - ours[seeds]).mean(axis=1)
    low, high = interval(bootstrap_means(off.to_numpy(), np.arange(len(off))))
    return float(off.mean()), low, high


def markdown(found: list[dict], says: dict[str, str]) -> str:
    """Write the table: a line a row, in the order of `says` (row to what it is)."""
    names = [name for name in says if any(one["row"] == name for one in found)]
    tasks = scored_tasks(found)
    nearest = list(found[0].get("nearest", ()))
    columns = ["row", "seeds"]
    for task in tasks:
        columns += [task.replace("_", "-"), "minus ours"]
    columns += [kind.removesuffix("_accuracy").replace("_", "-") for kind in nearest]
    columns += ["text to well R@1/5/10", "well to text R@1/5/10"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name in names:
        mine = [one for one in found if one["row"] == name]
        cells = [says[name], str(len(mine))]
        for task in tasks:
            mean, low, high, _ = summarize(found, name, task)
            cells.append(f"{mean:.3f} [{low:.3f}, {high:.3f}]")
            if name == "ours" or "ours" not in names:
                cells.append("")
            else:
                off, low, high = difference(found, name, task)
                cells.append(f"{off:+.3f} [{low:+.3f}, {high:+.3f}]")
        cells += [f"{np.mean([one['nearest'][kind] for one in mine]):.3f}" for kind in nearest]
        for way in ("text_to_well", "well_to_text"):
            cells.append(recall_cell([one for one in mine if "retrieval" in one], way))
        lines.append(f"| {' | '.join(cells)} |")
    told = [one["retrieval"] for one in found if "retrieval" in one]
    if told:
        chance = "/".join(f"{told[0]['chance'][str(k)]:.2f}" for k in RANKS)
        lines.append(f"\nRetrieval among {told[0]['candidates']} candidates; chance {chance}.")
    return "\n".join(lines)


def scored_tasks(found: list[dict]) -> list[str]:
    """Those of `TASKS` that rows were scored on."""
    return [task for task in TASKS if task in found[0]]


def recall_cell(scored: list[dict], way: str) -> str:
    """Mean recalls over seeds."""
    if not scored:
        return ""
    return " / ".join(
        f"{np.mean([one['retrieval'][way][str(k)] for one in scored]):.2f}" for k in RANKS
    )


def draw(found: list[dict], says: dict[str, str]) -> Figure:
    """Normalised mAP of every row, with its interval and its seeds."""
    names = [name for name in says if any(one["row"] == name for one in found)][::-1]
    drawing = Figure(figsize=(8, 0.32 * len(names) + 0.8), layout="constrained")
    tasks = scored_tasks(found)
    axes = drawing.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    for axis, task in zip(axes, tasks, strict=True):
        for place, name in enumerate(names):
            mean, low, high, _ = summarize(found, name, task)
            colour = "#0b5cad" if name == "ours" else "#8a97a6"
            axis.plot([low, high], [place, place], color=colour)
            axis.plot(mean, place, "o", color=colour)
            each = by_label(found, name, task).mean()
            axis.plot(each, np.full(len(each), place), "|", color="black", markersize=5)
        axis.set_title(f"{task.replace('_', '-')}: normalised mAP", fontsize=9)
        axis.axvline(0, color="#b3261e", linewidth=0.8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(names)), [says[name] for name in names], fontsize=8)
    return drawing
