"""Facts with the spread that all plates know together, against each plate by itself.

python benchmarks/moderated_facts.py --data runs/quickstart/prepared
python benchmarks/moderated_facts.py --profiles ../shared/data/cpjump1_profiles --controls 14

Prints how many facts there are, how far two replicates on different plates agree on them (Dice:
shared facts over the mean of both), and how many facts are found where there is nothing to find:
in control wells, each held against the others, and in wells of simulated reagents that do nothing.
"""

import argparse
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from captions.effects import compare_with_controls, share_scale
from captions.facts import claims_of, facts_by_well, measure_facts
from captions.slots import Claim
from data.store import load_profiles

KEY = ["Metadata_Plate", "Metadata_Well"]


def main() -> None:
    """Measure both ways, print both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="prepared store")
    parser.add_argument("--profiles", help="or: folder of normalised profiles, *.csv.gz")
    parser.add_argument("--controls", type=int, help="keep so many a plate, drawn at random")
    options = parser.parse_args()
    if options.data:
        normalized = load_profiles(options.data, normalized=True)
        shared = share_scale(load_profiles(options.data, normalized=False), normalized)
    else:
        files = sorted(Path(options.profiles).glob("*.csv.gz"))
        normalized = shared = pd.concat(map(pd.read_csv, files), ignore_index=True)
    if options.controls:
        kept = keep_controls(normalized, options.controls)
        normalized, shared = normalized[kept], shared[kept]
    alone = pd.concat([measure_facts(plate) for _, plate in normalized.groupby("Metadata_Plate")])
    together = compare_with_controls(shared)
    print(f"prior degrees of freedom: {together.prior_freedom:.0f}")
    rows = {
        "each plate by itself": alone,
        "plates together": measure_facts(shared, together),
    }
    table = pd.DataFrame({name: score(facts, normalized) for name, facts in rows.items()}).T
    print(table.to_string(float_format="{:.3f}".format))


def keep_controls(profiles: pd.DataFrame, count: int) -> np.ndarray:
    """Say which wells are left when each plate keeps some of its controls."""
    rng = np.random.default_rng(0)
    kept = (profiles["Metadata_control_type"] != "negcon").to_numpy()
    for rows in profiles[~kept].groupby("Metadata_Plate").indices.values():
        controls = np.flatnonzero(profiles["Metadata_control_type"] == "negcon")[rows]
        kept[rng.permutation(controls)[:count]] = True
    return kept


def score(facts: pd.DataFrame, wells: pd.DataFrame) -> dict[str, float]:
    """Count facts, and how far replicates agree on them."""
    by_well = facts_by_well(facts)
    keys = wells[KEY].itertuples(index=False, name=None)
    found = [claims_of(by_well.get(key, [])) for key in keys]
    count = np.array([len(claims) for claims in found])
    control = (wells["Metadata_control_type"] == "negcon").to_numpy()
    scores = {
        "facts": count[~control].sum(),
        "wells changed": (count[~control] > 0).mean(),
        "replicates agree": agreement(found, wells.reset_index(drop=True), ~control),
        "facts a control": count[control].mean(),
    }
    if "Metadata_simulated_active" in wells:
        active = wells["Metadata_simulated_active"].astype(str).str.lower() == "true"
        scores["facts an inactive well"] = count[~control & ~active.to_numpy()].mean()
    return scores


def agreement(found: list[set[Claim]], wells: pd.DataFrame, treated: np.ndarray) -> float:
    """Dice of the facts of a reagent's wells on different plates, pooled over pairs."""
    plate = wells["Metadata_Plate"].tolist()
    shared = size = 0.0
    for _, rows in wells[treated].groupby("Metadata_broad_sample"):
        for one, other in combinations(rows.index, 2):
            if plate[one] != plate[other]:
                shared += len(found[one] & found[other])
                size += (len(found[one]) + len(found[other])) / 2
    return shared / size


if __name__ == "__main__":
    main()
