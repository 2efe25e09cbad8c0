"""CellCLIP's variant of the protocol, so that its paper's numbers can be set beside ours.

Its evaluation (arXiv 2506.06290, cpjump_matching_eval.py): profiles are projected by a linear
kernel PCA fitted on all plates' negative controls (500 components), standardised plate by plate
over all wells, and only the quarter of well positions that it holds out is scored; genetic
reagents are not gated by activity. Its table reports mAP over the labels with q < 0.05 alone
(`map_retrieved` here). Its list of positions is not published: ours is a seeded draw.
"""

import numpy as np

from eval.profiles import Profiles
from eval.protocols import Condition, Plates

_COMPONENTS = 500
_HELD_OUT = 0.25  # of the well positions


def cellclip_view(profiles: Profiles, seed: int = 0) -> Profiles:
    """Transform profiles as CellCLIP does and keep its share of well positions.

    Parameters
    ----------
    profiles : Profiles
        Wells (sites already averaged), of all conditions.
    seed : int
        Of the draw of positions, which are the same on every plate.
    """
    negcon = (profiles.meta["Metadata_control_type"] == "negcon").to_numpy()
    plate = profiles.meta["Metadata_Plate"].to_numpy()
    position = profiles.meta["Metadata_Well"].to_numpy()
    reference = profiles.features[negcon]
    mean = reference.mean(axis=0)
    # A linear kernel PCA is a PCA; only directions in which controls vary have a scale.
    _, size, axes = np.linalg.svd(reference - mean, full_matrices=False)
    kept = axes[:_COMPONENTS][size[:_COMPONENTS] > size[0] * 1e-6]
    scores = (profiles.features - mean) @ kept.T
    for name in np.unique(plate):
        rows = plate == name
        deviation = scores[rows].std(axis=0)
        scores[rows] = (scores[rows] - scores[rows].mean(axis=0)) / np.where(
            deviation > 0, deviation, 1
        )
    positions = np.unique(position)
    drawn = np.random.default_rng(seed).permutation(positions)[: round(_HELD_OUT * len(positions))]
    view = Profiles(profiles.name, profiles.meta, scores, profiles.notices)
    return view.subset(np.isin(position, drawn))


def cellclip_pool(plates: list[Plates]) -> dict[Condition, set[str]]:
    """Active compounds, and all genetic reagents whether active or not."""
    return {
        p.condition: p.active
        if p.condition.modality == "compound"
        else set(p.reagents.meta["Metadata_broad_sample"])
        for p in plates
    }
