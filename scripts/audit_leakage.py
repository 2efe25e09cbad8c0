"""Say for each held-out target whether anything of it was in what a run was trained on.

python scripts/audit_leakage.py --run runs/quickstart --data runs/quickstart/prepared

Prints a row a target, writes RUN/leaks.tsv (every term, how often, and an example), and ends with
exit code 2 when a target is known from training.
"""

from dataclasses import dataclass, field
from pathlib import Path

from _cli import parse_config, run_main

from data.files import atomic_path
from data.store import load_wells
from eval.leaks import (
    LEAK_KINDS,
    find_leaks,
    load_described,
    load_training_text,
    refuse_leaks,
    summarize_leaks,
)
from eval.splits import held_out_targets


@dataclass
class AuditConfig:
    """Which run to audit, and what counts."""

    run: str = field(metadata={"help": "run folder, with what it was trained on"})
    data: str = field(metadata={"help": "prepared store with captions"})
    accept_leaks: list[str] = field(
        default_factory=list,
        metadata={"help": f"kinds that do not count, of: {', '.join(LEAK_KINDS)}"},
    )


def main() -> None:
    """Parse, search, print, save, refuse."""
    (config,) = parse_config(AuditConfig)
    run, data = Path(config.run), Path(config.data)
    wells = load_wells(data)
    targets = held_out_targets(wells, "column")
    reagents, genes = load_described(data)
    leaks = find_leaks(load_training_text(run), targets, reagents, genes)
    with atomic_path(run / "leaks.tsv") as path:
        leaks.to_csv(path, sep="\t", index=False)
    print(summarize_leaks(leaks, targets).to_string(index=False))
    print(f"every leak with an example: {run / 'leaks.tsv'}")
    refuse_leaks(leaks, targets, config.accept_leaks)
    print(f"{len(targets)} held-out targets are clean")


if __name__ == "__main__":
    run_main(main)
