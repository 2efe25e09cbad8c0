"""How hard is the simulated screen? Classical features, and what a trained reader could get.

python benchmarks/simulator_hardness.py --config configs/simulation.yaml

The classical baseline must find it hard to match genes with compounds, while the answer is in the
pixels: a linear model that is trained on other targets, with the simulator's own truth, must find
it. The settings were chosen once to make it so; the table
is in configs/simulation.yaml.
"""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV

from data.errors import InputError
from data.library import axis_vector
from data.normalize import feature_columns, select_features
from data.phenotypes import AXES, HELD_OUT_TARGETS, INACTIVE_GENES, TARGETS
from data.plates import read_plates
from data.prepare import PrepareSettings, prepare
from data.simulator import SimulationConfig, simulate_plates
from data.splits import assign_splits
from data.store import load_profiles
from eval.matching import MatchingScore, gene_compound_matching, replicate_matching

CLIP = 10.0
"""Robust z beyond this says no more."""

STRONG_Z = 4.0

RANDOM_SPLITS = 20


@dataclass
class Workspace:
    """Where to keep the plates.

    Attributes
    ----------
    work : str
        A folder to keep raw plates and prepared store in, to be used again; "" for a temporary.
    """

    work: str = ""


def main() -> None:
    """Simulate, prepare, score, print."""
    from trl import TrlParser  # here, so that worker processes do not import torch

    config, workspace = TrlParser((SimulationConfig, Workspace)).parse_args_and_config()  # type: ignore[arg-type]
    with _folder(workspace.work) as folder:
        raw, store = folder / "raw", folder / "prepared"
        if not raw.exists():
            simulate_plates(raw, config)
        held_out = tuple(gene for gene in HELD_OUT_TARGETS if gene in _genes(config))
        settings = PrepareSettings(processes=config.processes, held_out_targets=held_out)
        prepare(read_plates(raw), store, settings, source="plates")
        profiles = load_profiles(store, normalized=True)
    print(hardness_table(profiles, config).to_string(index=False))


def hardness_table(profiles: pd.DataFrame, config: SimulationConfig) -> pd.DataFrame:
    """Compute every number of the hardness table from normalized profiles.

    Parameters
    ----------
    profiles : DataFrame
        One row a well: Metadata_ columns and robust z of the classical features.
    config : SimulationConfig
        That made the plates.

    Returns
    -------
    DataFrame
        Columns what, value, chance, wanted.
    """
    names = feature_columns(profiles)
    clipped = profiles.assign(**profiles[names].clip(-CLIP, CLIP))
    selected = select_features(clipped)
    features = selected[feature_columns(selected)].to_numpy(float)
    everything = clipped[names].to_numpy(float)
    classical, learned = _match(profiles, features, everything, HELD_OUT_TARGETS)
    rng = np.random.default_rng(0)
    others = [
        _match(
            profiles, features, everything, rng.choice(_genes(config), len(HELD_OUT_TARGETS), False)
        )
        for _ in range(RANDOM_SPLITS)
    ]
    replicate = replicate_matching(profiles, features, null_size=100)
    active = profiles["Metadata_simulated_active"].to_numpy()
    active_replicate = replicate_matching(
        profiles[active].reset_index(drop=True), features[active], null_size=100
    )
    rows = [
        ("gene-compound mAP, classical", classical.map, classical.chance, "0.22 to 0.32"),
        ("gene-compound mAP, trained", learned.map, learned.chance, "0.45 or more"),
    ]
    for kind, scores in zip(("classical", "trained"), zip(*others, strict=True), strict=True):
        found = [score.map for score in scores]
        chance = float(np.mean([score.chance for score in scores]))
        name = f"  {kind}, mean of {RANDOM_SPLITS} random splits"
        rows.append((name, float(np.mean(found)), chance, f"sd {np.std(found):.3f}"))
    rows += [
        ("replicate mAP, classical", replicate.map, replicate.chance, "0.25 to 0.7"),
        ("  active reagents", active_replicate.map, active_replicate.chance, ""),
    ]
    wanted = {"strong": "3 to 8", "inactive": "below 1.5", "control": "below 1.5"}
    for kind, groups in _visible_groups(profiles).items():
        rows.append((f"groups with |z| > {STRONG_Z:g}: {kind}", groups, 0.0, wanted.get(kind, "")))
    rows.append(("classical features, selected", features.shape[1], 0.0, ""))
    return pd.DataFrame(rows, columns=["what", "value", "chance", "wanted"]).round(3)


def _match(
    profiles: pd.DataFrame,
    features: NDArray[np.float64],
    everything: NDArray[np.float64],
    held_out: Iterable[str],
) -> tuple[MatchingScore, MatchingScore]:
    """Gene-compound matching of held-out targets: classical, and by axes learned elsewhere."""
    genes = set(held_out) | (set(INACTIVE_GENES) & set(profiles["Metadata_gene"]))
    meta = assign_splits(profiles[[c for c in profiles if str(c).startswith("Metadata_")]], genes)
    classical = gene_compound_matching(meta, features, null_size=100)
    train = (meta["Metadata_split"] == "train").to_numpy()
    truth = np.stack([_true_axes(row) for row in meta.itertuples()])
    model = RidgeCV(alphas=np.logspace(0, 5, 11)).fit(everything[train], truth[train])
    return classical, gene_compound_matching(meta, model.predict(everything), null_size=100)


def _true_axes(well: Any) -> NDArray[np.float64]:
    """The effects of the well's target, without the reagent's strength and off-target effects."""
    for target in TARGETS:
        if target.gene == well.Metadata_target_list:
            opposite = well.Metadata_modality == "orf" and not target.orf_mimics
            return axis_vector(target.effects) * (-1 if opposite else 1)
    return np.zeros(len(AXES))


def _visible_groups(profiles: pd.DataFrame) -> dict[str, float]:
    """Median number of feature groups (property and stain) that clearly changed."""
    z = profiles[feature_columns(profiles)].abs()
    groups = [_group(name) for name in feature_columns(profiles)]
    count = (z.T.groupby(groups).max() > STRONG_Z).sum()
    rank = {name: i for target in TARGETS for i, name in enumerate(target.compounds)}
    kind = profiles["Metadata_modality"].copy()
    position = profiles["Metadata_pert_iname"].map(rank)
    for i, name in enumerate(("strong", "medium", "weak")):
        kind[(kind == "compound") & (position == i)] = name
    treated = kind != "control"
    kind[treated & ~profiles["Metadata_simulated_active"]] = "inactive"
    return {str(k): float(v) for k, v in count.groupby(kind).median().items()}


def _group(name: str) -> str:
    """Return what was measured of which stain (of which compartment, for size and shape)."""
    compartment, kind, *rest = name.split("_")
    if kind in ("AreaShape", "Count"):
        return f"{compartment} {kind}"
    return f"{kind} {' '.join(rest[-2:] if kind == 'Correlation' else rest[-1:])}"


def _genes(config: SimulationConfig) -> list[str]:
    return [target.gene for target in TARGETS[: config.n_targets]]


@contextmanager
def _folder(work: str) -> Iterator[Path]:
    if work:
        yield Path(work)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
