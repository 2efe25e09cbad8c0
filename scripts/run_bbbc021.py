"""The whole path on real images: BBBC021, every compound held out once.

python scripts/run_bbbc021.py --input SHARED/data/bbbc021 --out runs/bbbc021

Each fold holds out one compound of each mechanism, trains both phases on replicate 1 without
them, and asks on replicate 2 (other plates): do the held-out compounds' wells find other compounds
of their mechanism, and are their descriptions true?
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from _cli import parse_config, run_main
from _commands import run, script, training

from data.files import atomic_path
from data.store import load_wells
from eval.leaks import find_leaks, load_described, load_training_text, refuse_leaks
from eval.matching import mechanism_matching
from eval.profiles import read_profiles
from eval.report import table, text
from eval.run_metrics import (
    Representation,
    classical_profiles,
    collect_claims,
    score_run_claims,
)
from eval.run_report import claims_table, well_blocks, write_run_report

ROOT = Path(__file__).resolve().parent.parent
MECHANISM = "Metadata_moa"
REPRESENTATIONS = {
    "embedding": "embeddings",
    "imagenet": "embeddings_backbone",
    "untrained": "embeddings_untrained",
}
"""Files of a fold's representations."""


@dataclass
class Bbbc021Config:
    """Where the images are, and how much to run."""

    input: str = field(metadata={"help": "folder with labels.csv and png/"})
    out: str = field(default=str(ROOT / "runs" / "bbbc021"), metadata={"help": "run folder"})
    training: str = field(
        default=str(ROOT / "configs" / "bbbc021.yaml"), metadata={"help": "training YAML"}
    )
    size: int = field(default=256, metadata={"help": "side of a prepared field, pixels"})
    folds: int | None = field(default=None, metadata={"help": "only the first so many folds"})
    train_options: str = field(
        default="", metadata={"help": "further options of train_lora.py, in one string"}
    )


def main() -> None:
    """Parse, run the folds, score, report."""
    (config,) = parse_config(Bbbc021Config)
    out = Path(config.out).resolve()
    data = out / "prepared"
    prepare = script(
        "prepare_data.py", "--source", "bbbc021", "--input", config.input,
        "--out", str(data), "--size", str(config.size),
    )  # fmt: skip
    run(prepare)
    run(script("build_captions.py", "--data", str(data)))
    folds = list(compound_folds(load_wells(data)))[: config.folds]
    for number, (held_out, _) in enumerate(folds):
        run_fold(config, out / f"fold_{number}", data, held_out)
    report(out, data, folds)


def compound_folds(wells: pd.DataFrame) -> Iterator[tuple[list[str], list[str]]]:
    """Yield folds: the compounds held out, and those among them that no earlier fold held out."""
    compounds = wells.groupby(MECHANISM)["Metadata_broad_sample"].unique().map(sorted)
    seen: set[str] = set()
    for fold in range(int(compounds.map(len).max())):
        held_out = [names[fold % len(names)] for names in compounds]
        yield held_out, [name for name in held_out if name not in seen]
        seen.update(held_out)


def run_fold(config: Bbbc021Config, out: Path, data: Path, held_out: list[str]) -> None:
    """Train one fold and write its embeddings and descriptions."""
    if (out / "descriptions_blank.parquet").exists():
        return
    query = f"Metadata_replicate == 1 and Metadata_broad_sample not in {held_out}"
    run(
        training(
            "--config", config.training, "--data", str(data), "--out", str(out),
            "--train_query", query, *config.train_options.split(),
        )
    )  # fmt: skip
    wells = ("--model", str(out), "--data", str(data), "--query")
    run(
        script(
            "embed_wells.py", *wells, "Metadata_replicate == 2",
            "--representation", "embedding,backbone,untrained",
            "--out", str(out / "embeddings.parquet"),
        )
    )  # fmt: skip
    asked = f"Metadata_replicate == 2 and Metadata_broad_sample in {held_out}"
    run(
        script(
            "describe_well.py", *wells, asked, "--image", "own,blank",
            "--out", str(out / "descriptions.parquet"),
        )
    )  # fmt: skip


def refuse_leaked_compounds(run: Path, data: Path, held_out: list[str]) -> None:
    """Refuse a fold whose held-out compounds were trained on or named (their mechanisms may be)."""
    reagents, _ = load_described(data)
    compounds = reagents.assign(
        Metadata_target_list=reagents["Metadata_broad_sample"], mechanism=""
    )
    refuse_leaks(find_leaks(load_training_text(run), held_out, compounds), held_out)


def score_folds(
    out: Path, data: Path, folds: list[tuple[list[str], list[str]]]
) -> dict[str, dict[str, float]]:
    """Mean over all held-out treatments of each representation's scores."""
    scores: dict[str, dict[str, float]] = {}
    for name in ("embedding", "classical", "imagenet", "untrained"):
        folded, weights = [], []
        for number, (_, asking) in enumerate(folds):
            meta, features = _representation(out / f"fold_{number}", data, name)
            asks = meta["Metadata_broad_sample"].isin(asking).to_numpy()
            score = mechanism_matching(meta, features, queries=asks)
            folded.append(score.numbers())
            weights.append(score.n_treatments)
        scores[name] = {
            key: float(np.average([fold[key] for fold in folded], weights=weights))
            for key in folded[0]
            if key != "n_treatments"
        } | {"n_treatments": sum(weights)}
    return scores


def _representation(run: Path, data: Path, name: str) -> Representation:
    if name != "classical":
        return read_profiles(run / f"{REPRESENTATIONS[name]}.parquet")
    meta, features = classical_profiles(data)
    second = (meta["Metadata_replicate"].astype(int) == 2).to_numpy()
    return meta[second].reset_index(drop=True), features[second]


def report(out: Path, data: Path, folds: list[tuple[list[str], list[str]]]) -> None:
    """Write metrics.json and report.html over the folds, and print the tables."""
    for number, (held_out, _) in enumerate(folds):
        refuse_leaked_compounds(out / f"fold_{number}", data, held_out)
    wells = load_wells(data)
    for name in ("descriptions", "descriptions_blank"):
        parts = []
        for number, (_, asking) in enumerate(folds):
            said = pd.read_parquet(out / f"fold_{number}" / f"{name}.parquet")
            keys = wells[wells["Metadata_broad_sample"].isin(asking)]
            keys = keys[["Metadata_Plate", "Metadata_Well"]].set_axis(["plate", "well"], axis=1)
            parts.append(said.merge(keys))
        with atomic_path(out / f"{name}.parquet") as path:
            pd.concat(parts, ignore_index=True).to_parquet(path, index=False)
    matching = score_folds(out, data, folds)
    collected = collect_claims(out, data, 0, MECHANISM, "Metadata_replicate == 1")
    claims, _ = score_run_claims(collected, MECHANISM)
    reference = (
        "The data set has no control wells here: its median well stands in as the reference of "
        "every measured change, and where a description says 'controls' it means that well."
    )
    metrics = {
        "matching": {"mechanism": matching},
        "claims": claims,
        "reference": reference,
        "folds": len(folds),
        "command": "python scripts/run_bbbc021.py " + " ".join(sys.argv[1:]),
    }
    with atomic_path(out / "metrics.json") as path:
        path.write_text(json.dumps(metrics, indent=2))
    rows = pd.DataFrame([{"representation": name, **row} for name, row in matching.items()])
    sections = [
        ("Mechanisms of held-out compounds", [table(rows)]),
        ("Descriptions of held-out wells", [table(claims_table(claims)), text(reference)]),
        ("Wells", well_blocks(out, data, None, 6, 0)),
    ]
    with atomic_path(out / "report.html") as path:
        write_run_report(path, "MorphoCLIP on BBBC021", ["Real images.", reference], sections)
    print(rows.to_string(index=False, float_format="%.3f"))
    print(claims_table(claims).to_string(index=False, float_format="%.3f"))
    print(f"\n{reference}\nReport: {out / 'report.html'}")


if __name__ == "__main__":
    run_main(main)
