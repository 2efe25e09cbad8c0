"""Time and memory of the matching benchmark on CPJUMP1's full layout, against copairs.

    python benchmarks/matching_speed.py

Simulates 40 plates (15,360 wells, 512 dimensions), runs all 36 conditions under three protocols,
then the published protocol once more with copairs, condition by condition with its defaults, and
compares every AP. Last, all-against-all replicate matching of 9,216 wells (copairs issue 90).
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import copairs.map as cmap
import numpy as np
import pandas as pd
from copairs.map import multilabel
from tqdm import tqdm

from eval.average_precision import NULL_SIZE, null_average_precision
from eval.matching import PROTOCOLS, replicate_matching, run_protocol
from eval.profiles import Profiles, profiles_from_table
from eval.protocols import Plates, Reagents, TaskResult, prepare

# The tests' simulated plates serve here too; tests/ is no package.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from helpers_eval import simulate_profiles


def copairs_activity(wells: Profiles, cache: str) -> pd.Series:
    """Mean AP of every reagent."""
    meta = wells.meta.assign(negcon=(wells.meta["Metadata_control_type"] == "negcon").astype(int))
    scores = cmap.average_precision(
        meta,
        wells.features,
        pos_sameby=["Metadata_broad_sample"],
        pos_diffby=[],
        neg_sameby=["Metadata_Plate"],
        neg_diffby=["negcon"],
        progress_bar=False,
    )
    return copairs_labels(scores[scores["negcon"] == 0], "Metadata_broad_sample", cache)


def copairs_matching(reagents: list[Reagents], signed: bool, cache: str) -> pd.Series:
    """Mean AP of every target: within one modality, or between two."""
    meta = pd.concat([r.meta for r in reagents], ignore_index=True)
    if len(reagents) == 2:
        genes = set(reagents[1].meta["Metadata_target_list"])
        lists = meta["Metadata_target_list"].str.split("|")
        meta["target"] = lists.map(lambda listed: [t for t in listed if t in genes])
    else:
        meta["target"] = meta["Metadata_target_list"].str.split("|")
    rows = meta["target"].map(len).to_numpy() > 0
    if signed:
        rows &= meta["Metadata_target_list"].duplicated(keep=False).to_numpy()
    across = ["Metadata_modality"] if len(reagents) == 2 else []
    scores = multilabel.average_precision(
        meta[rows],
        np.concatenate([r.unit for r in reagents])[rows],
        pos_sameby=["target"],
        pos_diffby=across,
        neg_sameby=[],
        neg_diffby=["target", *across],
        multilabel_col="target",
        distance="cosine" if signed else "abs_cosine",
        progress_bar=False,
    )
    return copairs_labels(scores, "target", cache)


def copairs_labels(scores: pd.DataFrame, by: str, cache: str) -> pd.Series:
    """Aggregate with a null of the published size."""
    labels = cmap.mean_average_precision(
        scores, [by], NULL_SIZE, threshold=0.05, seed=0, progress_bar=False, cache_dir=cache
    )
    return labels.set_index(by)["mean_average_precision"]


def run_copairs(plates: list[Plates], cache: str) -> list[pd.Series]:
    """Run the published protocol's 36 tasks with copairs, in the order of `run_protocol`."""
    pooled = [p.reagents.keep(p.active) for p in plates]
    results = [copairs_activity(p.wells, cache) for p in tqdm(plates, desc="copairs: activity")]
    tasks = [([r], r.condition.modality != "compound") for r in pooled]
    tasks = [task for task in tasks if task[0][0].condition.modality != "orf"]
    tasks += [
        ([compound, genetic], False)
        for compound in pooled
        if compound.condition.modality == "compound"
        for genetic in pooled
        if genetic.condition.modality != "compound"
        and genetic.condition.cell == compound.condition.cell
    ]
    bar = tqdm(tasks, desc="copairs: matching")
    return results + [copairs_matching(*task, cache) for task in bar]


def largest_difference(ours: list[TaskResult], theirs: list[pd.Series]) -> float:
    """Compare every label's mean AP; the labels have to be the same."""
    worst = 0.0
    for result, expected in zip(ours, theirs, strict=True):
        found = result.labels.set_index("label")["mean_average_precision"]
        assert set(found.index) == set(expected.index), result.condition
        worst = max(worst, float((found - expected).abs().max()))
    return worst


def peak_gb() -> float:
    """Peak memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Measure and print; `--out` keeps the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--skip-copairs", action="store_true", help="time our side alone")
    flags = parser.parse_args()
    numbers: dict[str, float] = {}
    profiles = profiles_from_table(simulate_profiles(), "simulated")
    for protocol in PROTOCOLS:
        start = time.perf_counter()
        results = run_protocol(profiles, protocol)
        numbers[f"{protocol}_seconds"] = time.perf_counter() - start
        if protocol == "published":
            ours = results
    numbers["three_protocols_seconds"] = sum(numbers.values())
    numbers["three_protocols_peak_gb"] = peak_gb()
    start = time.perf_counter()
    wells = profiles.subset(np.arange(len(profiles.meta)) < 9216)
    replicate_matching(wells.meta, wells.features)
    numbers["9216_wells_seconds"] = time.perf_counter() - start
    numbers["9216_wells_peak_gb"] = peak_gb()
    if not flags.skip_copairs:
        plates = prepare(profiles)
        # Both sides once from an empty store of nulls, ours just before theirs.
        null_average_precision.cache_clear()
        start = time.perf_counter()
        ours = run_protocol(profiles)
        numbers["ours_seconds"] = time.perf_counter() - start
        with tempfile.TemporaryDirectory() as cache:
            start = time.perf_counter()
            theirs = run_copairs(plates, cache)
            numbers["copairs_seconds"] = time.perf_counter() - start
        numbers["times_faster"] = numbers["copairs_seconds"] / numbers["ours_seconds"]
        numbers["largest_ap_difference"] = largest_difference(ours, theirs)
        numbers["copairs_peak_gb"] = peak_gb()
    print(json.dumps(numbers, indent=1))
    if flags.out:
        flags.out.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
