"""The report of a run: tables, figures, and wells with their description beside their image."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from captions.descriptions import describe_facts
from captions.facts import MAX_FACTS, facts_by_well
from data.store import load_manifest, load_sites, read_pixels, site_table
from eval.matching import MatchingScore
from eval.montages import montage
from eval.report import figure, image, page, table, text
from eval.run_metrics import Representation

COLOURS = {"embedding": "#0b5cad", "classical": "#8a97a6", "untrained": "#c9d1da"}


def matching_table(scores: dict[str, dict[str, MatchingScore]]) -> pd.DataFrame:
    """One row a task and representation."""
    return pd.DataFrame(
        [
            {
                "task": task,
                "representation": name,
                "mAP": score.map,
                "normalized mAP": score.normalized_map,
                "fraction retrieved": score.fraction_retrieved,
                "chance mAP": score.chance,
                "labels": score.n_labels,
            }
            for task, by_name in scores.items()
            for name, score in by_name.items()
        ]
    )


def claims_table(claims: dict[str, dict]) -> pd.DataFrame:
    """One row a source of descriptions."""
    rows = []
    for source, scores in claims.items():
        row = {"source": source.replace("_", " ")}
        row |= {name.replace("_", " "): v for name, v in scores.items() if name != "intervals"}
        rows.append(row)
    return pd.DataFrame(rows)


def details_table(details: dict) -> pd.DataFrame:
    """Strength, silence and calibration of the model's descriptions, in one row."""
    calibration = details["calibration"]["expected_calibration_error"]
    row = {"strength agreement": details["strength"]["strength_agreement"]}
    row |= {name.replace("_", " "): value for name, value in details["silence"].items()}
    row["false claims with an effect of 2 or more"] = details["false_claims"]["weak"]
    return pd.DataFrame([row | {"expected calibration error": calibration}])


def parts_table(details: dict, field: str) -> pd.DataFrame:
    """Claim scores by channel or by property."""
    scores = pd.DataFrame.from_dict(details[f"by_{field}"], orient="index")
    scores.index = pd.Index([name or "(geometry)" for name in scores.index], name=field)
    return scores.reset_index()


def target_figure(scores: dict[str, MatchingScore]) -> Figure:
    """Average precision of each held-out target, a bar a representation, chance as a line."""
    labels = {name: score.labels.set_index("label") for name, score in scores.items()}
    order = labels["embedding"]["mean_average_precision"].sort_values(ascending=False).index
    drawing = Figure(figsize=(8, 3), layout="constrained")
    axes = drawing.subplots()
    width = 0.8 / len(labels)
    for i, (name, own) in enumerate(labels.items()):
        places = np.arange(len(order)) + (i - (len(labels) - 1) / 2) * width
        values = own["mean_average_precision"].reindex(order)
        axes.bar(places, values, width, label=name, color=COLOURS.get(name))
    axes.hlines(
        labels["embedding"]["chance"].reindex(order),
        np.arange(len(order)) - 0.45,
        np.arange(len(order)) + 0.45,
        color="#b3261e",
        label="chance",
    )
    axes.set_xticks(range(len(order)), order, rotation=45, ha="right")
    axes.set_ylabel("mAP, compound to gene and back")
    axes.set_ylim(0, 1)
    axes.legend(frameon=False, ncols=4, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return drawing


def history_figure(run: Path) -> Figure | None:
    """Losses of both phases over their steps."""
    curves: list[tuple[str, pd.Series]] = []
    for phase in ("align", "describe"):
        path = run / f"{phase}_history.jsonl"
        if not path.exists():
            continue
        lines = path.read_text().splitlines()
        history = pd.DataFrame([json.loads(line) for line in lines]).set_index("step")
        parts = history.columns.drop("loss") if phase == "align" else ["loss"]
        for name in parts:
            curves.append((f"{phase}: {name.replace('_', ' ')}", history[name].dropna()))
    if not curves:
        return None
    drawing = Figure(figsize=(2.6 * len(curves), 2.4), layout="constrained")
    rows = drawing.subplots(1, len(curves), squeeze=False)[0]
    for axes, (title, values) in zip(rows, curves, strict=True):
        axes.plot(values.index, values, color=COLOURS["embedding"])
        axes.set(title=title, xlabel="step", ylim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
    return drawing


def top_matches(embedding: Representation, plate: str, well: str, top: int = 3) -> list[str]:
    """Name the reagents of other modalities whose wells look most like one well."""
    meta, features = embedding
    here = ((meta["Metadata_Plate"] == plate) & (meta["Metadata_Well"] == well)).to_numpy()
    modality = meta.loc[here, "Metadata_modality"].iloc[0]
    other = (~meta["Metadata_modality"].isin([modality, "control"])).to_numpy()
    similarity = features[other] @ features[here][0]
    names = meta.loc[other, "Metadata_modality"] + " " + meta.loc[other, "Metadata_pert_iname"]
    best = pd.Series(similarity, index=names).groupby(level=0).median().nlargest(top)
    return [f"{name} ({value:.2f})" for name, value in best.items()]


def well_blocks(
    run: Path, data: Path, embedding: Representation | None, count: int, seed: int
) -> list[Markup]:
    """Show described wells: image, a control's image, description, measured facts, matches.

    Half of the wells are drawn from those with measured changes, half from the others.
    """
    manifest = load_manifest(data)
    facts = facts_by_well(pd.read_parquet(data / "captions" / "facts.parquet"))
    said = pd.read_parquet(run / "descriptions.parquet")
    changed = [
        (plate, well) in facts for plate, well in zip(said["plate"], said["well"], strict=True)
    ]
    rng = np.random.default_rng(seed)
    chosen = []
    for group, size in ((np.flatnonzero(changed), count), (np.flatnonzero(~np.array(changed)), 2)):
        chosen += sorted(rng.choice(group, min(size, len(group)), replace=False).tolist())
    blocks = []
    for row in said.iloc[chosen].to_dict("records"):
        sites = load_sites(data, [row["plate"]])
        wells = site_table(sites)["Metadata_Well"]
        pixels = read_pixels(sites, [int(np.flatnonzero(wells == row["well"])[0])])[0]
        measured = facts.get((row["plate"], row["well"]), [])[:MAX_FACTS]
        blocks.append(
            figure(
                montage(pixels, manifest.channels, f"{row['plate']} {row['well']}"),
                f"channels of well {row['well']} of plate {row['plate']}",
            )
        )
        blocks.append(Markup("<p><b>Description</b> {}</p>").format(row["answer"]))
        blocks.append(Markup("<p><b>Measured</b> {}</p>").format(describe_facts(measured)))
        if embedding is not None:
            matches = ", ".join(top_matches(embedding, row["plate"], row["well"]))
            blocks.append(Markup("<p><b>Looks like</b> {}</p>").format(matches))
    return blocks


def explained_blocks(run: Path) -> list[Markup]:
    """Show the pictures that scripts/explain_well.py left in RUN/explained."""
    words = (
        "Red adds to the cosine, blue takes from it; the numbers are its parts by site and channel "
        "and add up to it. In the last column each cell has the colour of all its pixels together. "
        "The wells are the first of the store that fit, not the best."
    )
    pictures = sorted((run / "explained").glob("*.png"))
    return [text(words), *(image(path.read_bytes(), path.stem) for path in pictures)]


def write_run_report(
    path: Path,
    title: str,
    notes: list[str],
    sections: list[tuple[str, list[Markup]]],
) -> None:
    """Write the page; the notes (what is simulated, what the reference is) come first."""
    blocks = [("What this is", [text(note) for note in notes]), *sections]
    path.write_text(page(title, blocks), encoding="utf-8")


def quickstart_sections(
    run: Path,
    data: Path,
    scores: dict[str, dict[str, MatchingScore]],
    claims: dict[str, dict],
    abstention: dict[str, float],
    details: dict,
    embedding: Representation,
    seed: int,
) -> list[tuple[str, list[Markup]]]:
    """Sections of the quickstart's report, headline first."""
    curves, explained = history_figure(run), explained_blocks(run)
    return [
        (
            "Matching on held-out targets",
            [table(matching_table(scores)), figure(target_figure(scores["gene_compound"]))],
        ),
        (
            "Descriptions of held-out wells",
            [
                table(claims_table(claims)),
                table(pd.DataFrame([abstention])),
                table(details_table(details)),
                text(
                    "A claim is right when the fact and its direction were measured. Precision "
                    "counts against all measured facts of a well, recall against the first six, "
                    "which are what a description states. Blank and shuffled images, and the same "
                    "sentence for every well, say how much is known without looking. Silence is "
                    "right where nothing was measured to change. Confidence is the mean "
                    "probability of a claim's words, its calibration error how far that is from "
                    "the truth."
                ),
                table(parts_table(details, "channel")),
                table(parts_table(details, "property")),
            ],
        ),
        ("Wells", well_blocks(run, data, embedding, 6, seed)),
        *([("What drove an embedding", explained)] if len(explained) > 1 else []),
        ("Training", [figure(curves)] if curves else [text("no history of training")]),
    ]
