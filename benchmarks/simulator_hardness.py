"""How hard is the simulated screen? Classical features, and what a trained reader could get.

python benchmarks/simulator_hardness.py --config configs/simulation.yaml

The classical baseline must find it hard to match genes with compounds, while the answer is in the
pixels: a linear model that is trained on other targets, with the simulator's own truth, must find
it. The settings were chosen once to make it so; see the table in docs/simulator.md.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

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
from eval.matching import gene_compound_matching, replicate_matching

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

    config, workspace = TrlParser((SimulationConfig, Workspace)).parse_args_and_config()
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
    active = profiles["Metadata_simulated_active"] | (profiles["Metadata_modality"] == "control")
    replicate = replicate_matching(profiles, features, null_size=100)
    compounds = replicate_matching(
        *_rows(profiles, features, (profiles["Metadata_modality"] == "compound") & active), 100
    )
    visible = _visible_groups(profiles)
    spread = [np.std([c.map for c, _ in others]), np.std([t.map for _, t in others])]
    rows = [
        ("gene-compound mAP, classical", classical.map, classical.chance, "0.22 to 0.32"),
        ("gene-compound mAP, trained on the truth", learned.map, learned.chance, "0.45 or more"),
        (
            f"the same, {RANDOM_SPLITS} random splits: classical",
            np.mean([c.map for c, _ in others]),
            np.mean([c.chance for c, _ in others]),
            f"sd {spread[0]:.3f}",
        ),
        (
            "          trained on the truth",
            np.mean([t.map for _, t in others]),
            np.mean([t.chance for _, t in others]),
            f"sd {spread[1]:.3f}",
        ),
        ("replicate mAP, classical, all reagents", replicate.map, replicate.chance, "0.25 to 0.7"),
        ("replicate mAP, classical, active compounds", compounds.map, compounds.chance, ""),
        (
            f"feature groups with |z| > {STRONG_Z:g}: strong compounds",
            visible["strong"],
            0,
            "3 to 8",
        ),
        ("          medium compounds", visible["medium"], 0, ""),
        ("          weak compounds", visible["weak"], 0, ""),
        ("          guides", visible["crispr"], 0, ""),
        ("          ORFs", visible["orf"], 0, ""),
        ("          inactive", visible["inactive"], 0, "below 1"),
        ("          controls", visible["control"], 0, "below 1"),
        ("classical features, selected", features.shape[1], 0, ""),
    ]
    return pd.DataFrame(rows, columns=["what", "value", "chance", "wanted"]).round(3)


def _match(profiles, features, everything, held_out):
    """Gene-compound matching of held-out targets: classical, and by axes learned elsewhere."""
    genes = set(held_out) | (set(INACTIVE_GENES) & set(profiles["Metadata_gene"]))
    meta = assign_splits(profiles[[c for c in profiles if c.startswith("Metadata_")]], genes)
    classical = gene_compound_matching(meta, features, null_size=100)
    train = (meta["Metadata_split"] == "train").to_numpy()
    truth = np.stack([_true_axes(row) for row in meta.itertuples()])
    model = RidgeCV(alphas=np.logspace(0, 5, 11)).fit(everything[train], truth[train])
    return classical, gene_compound_matching(meta, model.predict(everything), null_size=100)


def _true_axes(well) -> NDArray[np.float64]:
    """The effects of the well's target, without the reagent's strength and off-target effects."""
    for target in TARGETS:
        if target.gene == well.Metadata_target_list:
            opposite = well.Metadata_modality == "orf" and not target.orf_mimics
            return axis_vector(target.effects) * (-1 if opposite else 1)
    return np.zeros(len(AXES))


def _visible_groups(profiles: pd.DataFrame) -> dict[str, float]:
    """Median number of feature groups (compartment, property, stain) that clearly changed."""
    z = profiles[feature_columns(profiles)].abs()
    groups = [_group(name) for name in z]
    count = (z.T.groupby(groups).max() > STRONG_Z).sum()
    rank = {name: i for target in TARGETS for i, name in enumerate(target.compounds)}
    kind = profiles["Metadata_modality"].copy()
    position = profiles["Metadata_pert_iname"].map(rank)
    for i, name in enumerate(("strong", "medium", "weak")):
        kind[(kind == "compound") & (position == i)] = name
    treated = kind != "control"
    kind[treated & ~profiles["Metadata_simulated_active"]] = "inactive"
    return count.groupby(kind).median().to_dict()


def _group(name: str) -> str:
    compartment, kind, *rest = name.split("_")
    stain = "" if kind in ("AreaShape", "Count") else rest[-1]
    return f"{compartment} {kind} {stain}"


def _rows(meta, features, keep):
    return meta[keep].reset_index(drop=True), features[keep.to_numpy()]


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
