"""The whole path on simulated plates: images in, matches, descriptions and a report out.

python scripts/run_quickstart.py --out runs/quickstart

Every stage is one of the other scripts, run as a user would run it. Give the same command again
after an interruption: finished stages are not repeated.
"""

import json
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from _cli import parse_config, run_main
from _commands import run, script, training

from data.errors import InputError
from data.files import atomic_path
from data.phenotypes import HELD_OUT_TARGETS, INACTIVE_GENES
from data.store import load_wells

ROOT = Path(__file__).resolve().parent.parent
TEST_WELLS = "Metadata_split == 'test'"
STAGES = ("simulate", "prepare", "captions", "train", "evaluate")


@dataclass
class QuickstartConfig:
    """Where the quickstart goes and how far."""

    out: str = field(default=str(ROOT / "runs" / "quickstart"), metadata={"help": "run folder"})
    training: str = field(
        default=str(ROOT / "configs" / "quickstart.yaml"), metadata={"help": "training YAML"}
    )
    simulation: str = field(
        default=str(ROOT / "configs" / "simulation.yaml"), metadata={"help": "simulator YAML"}
    )
    held_out_targets: str = field(
        default=",".join((*HELD_OUT_TARGETS, *INACTIVE_GENES)),
        metadata={
            "help": "as in prepare_data.py; inactive genes are distractors, never trained on"
        },
    )
    size: int = field(default=128, metadata={"help": "side of a prepared field, pixels"})
    until: str = field(default="evaluate", metadata={"help": f"last stage: {', '.join(STAGES)}"})
    install_seconds: float = field(default=0.0, metadata={"help": "what `make env` took"})

    def __post_init__(self) -> None:
        if self.until not in STAGES:
            raise InputError(f"until is {self.until!r}; expected one of {', '.join(STAGES)}")


def main() -> None:
    """Parse and run the stages."""
    (config,) = parse_config(QuickstartConfig)
    run_stages(config)


def run_stages(config: QuickstartConfig) -> None:
    """Run each stage that is not finished, and record how long it took and its peak memory."""
    out = Path(config.out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    last = STAGES.index(config.until)
    for stage in STAGES[: last + 1]:
        record = load_record(out)
        if stage in record["seconds"]:
            continue
        started = time.monotonic()
        with PeakMemory() as memory:
            for command in stage_commands(stage, config, out):
                print(f"\n$ {' '.join(command)}", flush=True)
                run(command)
        record["seconds"][stage] = round(time.monotonic() - started, 1)
        record["seconds"]["install"] = config.install_seconds
        record["peak_memory_gb"] = round(max(record["peak_memory_gb"], memory.peak_gb), 2)
        save_record(out, record)
    if config.until == STAGES[-1]:
        finish(out)


def stage_commands(stage: str, config: QuickstartConfig, out: Path) -> list[list[str]]:
    """Return the commands of a stage, as lists of words."""
    raw, prepared = str(out / "raw"), str(out / "prepared")
    wells = ("--model", str(out), "--data", prepared)
    commands = {
        "simulate": [script("simulate_plates.py", "--config", config.simulation, "--out", raw)],
        "prepare": [
            script(
                "prepare_data.py", "--source", "plates", "--input", raw, "--out", prepared,
                "--size", str(config.size), "--held_out_targets", config.held_out_targets,
            )
        ],
        "captions": [script("build_captions.py", "--data", prepared)],
        "train": [
            training("--config", config.training, "--data", prepared, "--out", str(out))
        ],
        "evaluate": [
            script(
                "embed_wells.py", *wells, "--representation", "embedding,untrained",
                "--out", str(out / "embeddings.parquet"),
            ),
            script(
                "describe_well.py", *wells, "--query", TEST_WELLS, "--image", "own,blank,none",
                "--out", str(out / "descriptions.parquet"),
            ),
            *(
                script(
                    "explain_well.py", *wells, "--plate", plate, "--well", well,
                    "--against", target, "--modality", "crispr",
                    "--out", str(out / "explained" / f"{plate}-{well}.png"),
                )
                for plate, well, target in explained_wells(out / "prepared")
            ),
            script("report_run.py", "--run", str(out), "--data", prepared),
        ],
    }  # fmt: skip
    return commands[stage]


def explained_wells(prepared: Path, count: int = 1) -> list[tuple[str, str, str]]:
    """Choose wells whose match the report explains: the first that fit, not the best.

    Returns
    -------
    list of (str, str, str)
        Plate and well of compounds whose target was held out, and that target, whose knock-out is
        in the store too.
    """
    if not (prepared / "wells.parquet").is_file():  # not prepared yet
        return []
    wells = load_wells(prepared).query("Metadata_split == 'test'")
    guides = set(wells.loc[wells["Metadata_modality"] == "crispr", "Metadata_pert_iname"])
    fit = (wells["Metadata_modality"] == "compound") & wells["Metadata_target_list"].isin(guides)
    columns = ["Metadata_Plate", "Metadata_Well", "Metadata_target_list"]
    chosen = wells.loc[fit, columns].head(count).itertuples(index=False, name=None)
    return [(plate, well, target) for plate, well, target in chosen]


def load_record(out: Path) -> dict:
    """Read what earlier stages of this run took."""
    path = out / "stages.json"
    return json.loads(path.read_text()) if path.exists() else {"seconds": {}, "peak_memory_gb": 0.0}


def save_record(out: Path, record: dict) -> None:
    """Write what the stages took."""
    with atomic_path(out / "stages.json") as path:
        path.write_text(json.dumps(record, indent=2))


def finish(out: Path) -> None:
    """Put times and memory into metrics.json and say what there is to see."""
    record = load_record(out)
    phases = json.loads((out / "train_seconds.json").read_text())
    seconds = {**record["seconds"], **phases}
    seconds["total"] = round(sum(record["seconds"].values()), 1)
    metrics = json.loads((out / "metrics.json").read_text())
    metrics |= {
        "seconds": seconds,
        "peak_memory_gb": record["peak_memory_gb"],
        "command": "make quickstart",
    }
    with atomic_path(out / "metrics.json") as path:
        path.write_text(json.dumps(metrics, indent=2))
    data = out / "prepared"
    print(
        f"\n{seconds['total']:.0f} s in all, {record['peak_memory_gb']:.1f} GB at most."
        f"\nReport: {out / 'report.html'}\n\nTry next:\n"
        f"  .venv/bin/python scripts/describe_well.py --model {out} --data {data}"
        " --plate SIMC01 --well C05\n"
        f"  .venv/bin/python scripts/find_matches.py --model {out} --data {data}"
        " --reagent nocodazole --modality crispr\n"
        f"  .venv/bin/python scripts/find_matches.py --model {out} --data {data}"
        ' --text "loss of mitochondrial membrane potential"'
    )


class PeakMemory:
    """Watch the resident memory of this process and all below it."""

    def __enter__(self) -> "PeakMemory":
        self.peak_gb = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._done.wait(0.5):
            total = 0
            for process in [me, *me.children(recursive=True)]:
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.peak_gb = max(self.peak_gb, total / 2**30)


if __name__ == "__main__":
    run_main(main)
