r"""Score profiles or embeddings on the CPJUMP1 matching benchmark.

Example, with the profiles that the paper published:

    python scripts/run_benchmark.py --profiles plates/*.csv.gz \
        --annotations JUMP-Target-1_compound_metadata_additional_annotations.tsv \
        --experiment experiment-metadata.tsv --out runs/benchmark

Several representations of the same wells become columns of one comparison:

    ... --profiles plates/*.csv.gz --profiles embeddings.parquet --names cellprofiler morphoclip
"""

import argparse
import shlex
import sys
from pathlib import Path

import pandas as pd
import yaml
from _cli import run_main

from captions.knowledge import load_knowledge
from data.errors import InputError
from eval.average_precision import NULL_SIZE
from eval.benchmark import Settings, run_benchmark
from eval.benchmark_report import write_benchmark
from eval.corrections import CORRECTIONS
from eval.leaks import LEAK_KINDS
from eval.matching import PROTOCOLS
from eval.profiles import load_profiles
from eval.recall import read_pairs


def build_parser() -> argparse.ArgumentParser:
    """Describe the flags; `--config` sets their defaults."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config", type=Path, help="YAML whose keys are the flags below; flags override it")
    add(
        "--profiles",
        nargs="+",
        action="append",
        metavar="FILE",
        help="CSV(.gz), Parquet or .h5ad files of one representation; once a representation, "
        "the baseline first",
    )
    add("--names", nargs="+", help="one name a --profiles (default: the first file's name)")
    add("--annotations", type=Path, help="TSV with broad_sample and target_list of compounds")
    add("--experiment", type=Path, help="CPJUMP1's experiment-metadata.tsv: picks its 40 plates")
    add("--out", type=Path, help="folder to write")
    add("--protocols", nargs="+", default=["published", "fixed_pool"], choices=PROTOCOLS)
    add("--corrections", nargs="+", default=["none"], choices=list(CORRECTIONS))
    add("--no-controls", dest="controls", action="store_false", help="skip the controls")
    add("--pool", type=Path, help="TSV of the fixed pool, such as an earlier run's pool.tsv")
    add("--split", choices=["official", "column"], help="report held-out targets too")
    add(
        "--training-captions",
        type=Path,
        help="Parquet of what was trained on, such as RUN/training_text.parquet: held-out targets "
        "that it knows are refused",
    )
    add("--knowledge", type=Path, help="folder of annotation tables: synonyms for that audit")
    add("--on-leak", default="refuse", choices=["refuse", "exclude"], help="the run or the target")
    add("--accept-leaks", nargs="+", default=[], choices=LEAK_KINDS, help="that do not count")
    add("--gene-pairs", nargs="+", type=Path, default=[], help="known gene pairs (.csv, .gmt)")
    add("--null-size", type=int, default=NULL_SIZE, help="random rankings behind a p-value")
    add("--seed", type=int, default=0)
    return parser


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the flags and the config file that they may name.

    Raises
    ------
    InputError
        When the config is missing or has unknown keys, or a needed flag is absent.
    """
    parser = build_parser()
    config = parser.parse_args(arguments).config
    listed = None
    if config:
        settings = yaml.safe_load(_existing(config, "config").read_text()) or {}
        known = {action.dest for action in parser._actions} - {"help", "config"}
        unknown = sorted(set(settings) - known)
        if unknown:
            raise InputError(f"{config}: unknown key {unknown[0]}; known: {sorted(known)}")
        # --profiles adds to a default, so the config's can only stand in for it afterwards.
        listed = settings.pop("profiles", None)
        parser.set_defaults(**settings)
    flags = parser.parse_args(arguments)
    flags.profiles = flags.profiles or listed
    for needed in ("profiles", "out"):
        if not getattr(flags, needed):
            raise InputError(f"--{needed} is missing: see --help")
    return flags


def main() -> None:
    """Read, score, write, and print the headline."""
    flags = parse(sys.argv[1:])
    names = flags.names or [Path(files[0]).name.split(".")[0] for files in flags.profiles]
    if len(names) != len(flags.profiles):
        raise InputError(f"{len(flags.profiles)} --profiles but {len(names)} --names")
    annotations = _table(flags.annotations, "annotations")
    experiment = _table(flags.experiment, "experiment metadata")
    groups = [
        load_profiles(files, name, annotations, experiment)
        for files, name in zip(flags.profiles, names, strict=True)
    ]
    captions = flags.training_captions
    benchmark = run_benchmark(
        groups,
        Settings(
            protocols=tuple(flags.protocols),
            corrections=tuple(flags.corrections),
            controls=flags.controls,
            split=flags.split,
            on_leak=flags.on_leak,
            accept_leaks=tuple(flags.accept_leaks),
            null_size=flags.null_size,
            seed=flags.seed,
        ),
        pool=_table(flags.pool, "pool"),
        training_captions=pd.read_parquet(_existing(captions, "captions")) if captions else None,
        gene_pairs={Path(path).stem: read_pairs(path) for path in flags.gene_pairs},
        knowledge=load_knowledge(flags.knowledge) if flags.knowledge else None,
    )
    write_benchmark(benchmark, flags.out, shlex.join(["run_benchmark.py", *sys.argv[1:]]))
    shown = pd.DataFrame(benchmark.records).query("control == '' and split == 'all'")
    columns = ["task", "modality", "cell", "time", "protocol", "votes", "representation"]
    columns += ["correction", "n_labels", "fraction_retrieved", "mean_average_precision"]
    print(shown[[*columns, "normalized_map"]].round(3).to_string(index=False))
    for notice in benchmark.notices.itertuples():
        print(f"notice: {notice.name} ({notice.count}): {notice.where}")
    print(f"report: {flags.out / 'report.html'}")


def _existing(path: Path, what: str) -> Path:
    if not path.is_file():
        raise InputError(f"{what} not found: {path}")
    return path


def _table(path: Path | None, what: str) -> pd.DataFrame | None:
    """Read a TSV as text."""
    return None if path is None else pd.read_csv(_existing(path, what), sep="\t", dtype=str)


if __name__ == "__main__":
    run_main(main)
