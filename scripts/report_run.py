"""Score a run on its held-out wells: RUN/metrics.json, RUN/report.html, and the model card.

python scripts/report_run.py --run runs/quickstart --data runs/quickstart/prepared

Needs embeddings.parquet, embeddings_untrained.parquet, descriptions.parquet and
descriptions_blank.parquet in the run folder (embed_wells.py and describe_well.py make them), and
scores descriptions_wrong_controls.parquet and descriptions_none.parquet where they are.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from _cli import parse_config, run_main

from data.files import atomic_path
from data.store import load_manifest, load_wells
from eval.leaks import (
    LEAK_KINDS,
    find_leaks,
    load_described,
    load_training_text,
    refuse_leaks,
)
from eval.model_card import write_model_card
from eval.run_metrics import (
    collect_claims,
    run_representations,
    score_details,
    score_matching,
    score_run_claims,
    to_json,
)
from eval.run_report import (
    claims_table,
    details_table,
    matching_table,
    quickstart_sections,
    write_run_report,
)
from eval.splits import held_out_targets

TARGETS = "Metadata_target_list"


@dataclass
class ReportConfig:
    """Which run to score, on what."""

    run: str = field(metadata={"help": "run folder"})
    data: str = field(metadata={"help": "prepared store with captions"})
    seed: int = field(default=0, metadata={"help": "of null rankings, bootstraps and shuffles"})
    accept_leaks: list[str] = field(
        default_factory=list,
        metadata={
            "help": "kinds of leaks that do not stop the report (it names them), of: "
            f"{', '.join(LEAK_KINDS)}"
        },
    )


def main() -> None:
    """Parse, score, write, print the headline."""
    (config,) = parse_config(ReportConfig)
    run, data = Path(config.run), Path(config.data)
    manifest = load_manifest(data)
    targets = held_out_targets(load_wells(data), "column")
    reagents, genes = load_described(data)
    leaks = find_leaks(load_training_text(run), targets, reagents, genes)
    refuse_leaks(leaks, targets, config.accept_leaks)
    representations = run_representations(run, data)
    scores = score_matching(representations, config.seed)
    collected = collect_claims(run, data, config.seed, TARGETS, "Metadata_split == 'train'")
    claims, abstention = score_run_claims(collected, TARGETS)
    details = score_details(collected, TARGETS)
    metrics = {
        "matching": to_json(scores),
        "claims": claims,
        "abstention": abstention,
        "claim_details": details,
        "simulated": manifest.simulated,
        "reference": manifest.reference,
        "held_out_targets": sorted(targets),
        "leaks": leaks.to_dict("records"),
        "command": f"python scripts/report_run.py --run {config.run} --data {config.data}",
    }
    with atomic_path(run / "metrics.json") as path:
        path.write_text(json.dumps(metrics, indent=2))
    notes = [
        "All plates of this run are SIMULATED: numbers say what the method does, not what it "
        "finds in real cells."
        if manifest.simulated
        else "Real plates.",
        f"Reference of every measured change: {manifest.reference}.",
        f"Targets never seen in training: {', '.join(sorted(targets))}.",
        f"Leak audit: {leaks_note(leaks)}.",
    ]
    sections = quickstart_sections(
        run, data, scores, claims, abstention, details, representations["embedding"], config.seed
    )
    with atomic_path(run / "report.html") as path:
        write_run_report(path, f"MorphoCLIP: {run.name}", notes, sections)
    write_model_card(run, data)
    print(matching_table(scores).to_string(index=False, float_format="%.3f"))
    print()
    print(claims_table(claims).to_string(index=False, float_format="%.3f"))
    print(f"\nunchanged inactive wells, changed active wells: {abstention}")
    print(details_table(details).to_string(index=False, float_format="%.3f"))


def leaks_note(leaks: pd.DataFrame) -> str:
    """Say what the audit found and was told to accept."""
    if leaks.empty:
        return "neither gene, reagents, structures nor mechanisms of theirs were trained on"
    named = [f"{row.target} ({row.kind} {row.term})" for row in leaks.itertuples()]
    return f"ACCEPTED although known from training: {', '.join(named)}"


if __name__ == "__main__":
    run_main(main)
