"""Simulated profiles with the layout of JUMP-Target plates, for the evaluation's tests.

Everything made here is simulated; only the layout is the real experiment's.
"""

import numpy as np
import pandas as pd

# (modality, cell, time, plates) of the 40 CPJUMP1 benchmark plates
CPJUMP1_LAYOUT = [
    (modality, cell, time, plates)
    for cell in ("A549", "U2OS")
    for modality, times, plates in (
        ("compound", (24, 48), 4),
        ("crispr", (96, 144), 4),
        ("orf", (48, 96), 2),
    )
    for time in times
]


def simulate_profiles(
    layout: list[tuple[str, str, int, int]] = CPJUMP1_LAYOUT,
    n_targets: int = 160,
    wells: int = 384,
    n_features: int = 512,
    effect: float = 0.6,
    seed: int = 0,
) -> pd.DataFrame:
    """Profiles of whole plates: a target's direction, a reagent's own, the plate's, and noise.

    A sixth of a plate are negative controls. Two compounds and two guides a target and one ORF,
    as far as the plate has room; a third of the reagents do nothing. Compounds have further
    targets without guides ("SIDE..."), shared within families of eight targets, so that target
    lists overlap as much as the real ones (758 targets of 306 compounds).

    Returns
    -------
    DataFrame
        One row a well: Metadata_ columns and embedding_000, embedding_001, ... (float64).
    """
    rng = np.random.default_rng(seed)
    columns = 24 if wells == 384 else 12 if wells == 96 else 8
    positions = [f"{chr(65 + i // columns)}{i % columns + 1:02d}" for i in range(wells)]
    n_controls = wells // 6
    of_target = rng.normal(size=(n_targets, n_features))
    reagents = {m: _reagents(m, n_targets, rng) for m in ("compound", "crispr", "orf")}
    tables, number = [], 0
    for modality, cell, time, n_plates in layout:
        listed = reagents[modality]
        shared = of_target[listed["hit"]]
        own = rng.normal(size=shared.shape)
        signal = (shared + own) * listed["active"].to_numpy()[:, None] * effect / 2
        row = np.arange(wells - n_controls) % len(listed)
        for _ in range(n_plates):
            number += 1
            treated = listed.iloc[row]
            plate = pd.DataFrame(
                {
                    "Metadata_Plate": f"SIM{number:05d}",
                    "Metadata_Well": positions,
                    "Metadata_broad_sample": [*treated["name"], *["DMSO"] * n_controls],
                    "Metadata_control_type": [""] * len(row) + ["negcon"] * n_controls,
                    "Metadata_pert_type": ["trt"] * len(row) + ["control"] * n_controls,
                    "Metadata_target_list": [*treated["targets"], *[""] * n_controls],
                    "Metadata_modality": modality,
                    "Metadata_Cell_type": cell,
                    "Metadata_Time": time,
                    "Metadata_simulated": True,
                }
            )
            features = rng.normal(size=(wells, n_features)) + 0.3 * rng.normal(size=n_features)
            features[: len(row)] += signal[row]
            names = [f"embedding_{i:03d}" for i in range(n_features)]
            tables.append(pd.concat([plate, pd.DataFrame(features, columns=names)], axis=1))
    return pd.concat(tables, ignore_index=True)


def _reagents(modality: str, n_targets: int, rng: np.random.Generator) -> pd.DataFrame:
    copies = {"compound": 2, "crispr": 2, "orf": 1}[modality]
    rows = []
    for number in range(copies * n_targets):
        hit = number // copies
        targets = [f"GENE{hit:03d}"]
        if modality == "compound":
            sides = 30 * (hit // 8) + rng.choice(30, size=min(int(rng.geometric(0.2)), 30) - 1)
            targets += [f"SIDE{side:03d}" for side in np.unique(sides)]
        rows.append((f"{modality}-{number:03d}", hit, "|".join(targets), rng.random() > 1 / 3))
    return pd.DataFrame(rows, columns=["name", "hit", "targets", "active"])
