"""What phase align minimises: its losses on what the model made of a batch, added up."""

from dataclasses import dataclass
from itertools import product

import torch

from contrastive.align_model import Encoded
from contrastive.losses import (
    clip_loss,
    cwcl_loss,
    label_overlap,
    replicate_loss,
    same_label_loss,
    shift_loss,
    siglip_loss,
    soft_label_loss,
)
from contrastive.ranks import gather_rows

LOSSES = ("clip", "siglip", "cwcl", "soft_label", "same_label", "replicate", "shift")
"""All that can have a weight."""

PROMPT_LOSSES = LOSSES[:4]
"""Those between wells and prompts: only in steps in which prompts are read."""


@dataclass
class Truth:
    """What is known about the wells of a batch.

    Attributes
    ----------
    labels : (N, T) float
        1 / (length of its list) at each label; zeros for wells without.
    reagents, plates : (N,) int
    shifts : (N, K) float
        Measured shifts of the fact slots (`captions.shifts`), NaN where not measured.
    reagents_per_label : int
        The wells come label by label, so many reagents each, two wells a reagent; then others.
    """

    labels: torch.Tensor
    reagents: torch.Tensor
    plates: torch.Tensor
    shifts: torch.Tensor
    reagents_per_label: int


def align_losses(
    encoded: Encoded, truth: Truth, weights: dict[str, float], temperature: float
) -> dict[str, torch.Tensor]:
    """Compute the losses of one batch.

    Parameters
    ----------
    encoded : dict of Tensor
        From `AlignModel`; prompt i is of the reagent of wells 2i and 2i + 1.
    truth : Truth
    weights : dict
        Name, of `LOSSES`, to a weight > 0.
    temperature : float
        Of the losses between wells.

    Returns
    -------
    dict of scalars
        `loss`, the weighted sum, and its parts.
    """
    parts = {}
    for name in weights:
        if name in PROMPT_LOSSES:
            if "prompts" in encoded:
                parts[name] = _prompt_loss(name, encoded, truth)
        elif name == "same_label":
            parts[name] = same_label_loss(encoded["wells"], truth.labels, temperature)
        elif name == "replicate":
            known = truth.reagents, truth.plates, truth.labels
            parts[name] = replicate_loss(encoded["wells"], *known, temperature)
        else:
            parts[name] = shift_loss(encoded["readout"], truth.shifts)
    total = torch.stack([weights[name] * part for name, part in parts.items()]).sum()
    return {"loss": total, **{name: part.detach() for name, part in parts.items()}}


def _prompt_loss(name: str, encoded: Encoded, truth: Truth) -> torch.Tensor:
    prompts = encoded["prompts"]
    count = 2 * len(prompts)
    if name == "soft_label":
        scales = encoded["sigmoid_scale"], encoded["sigmoid_bias"]
        weights = _true_pairs(truth, count)
        return soft_label_loss(encoded["wells"][:count], prompts, weights, *scales)
    # Reagents at one place share no label: by themselves, no true pair counts as a false one.
    wells = encoded["wells"][:count].unflatten(0, (-1, 2))  # (R, 2 wells, E)
    losses = []
    for place, replicate in product(range(truth.reagents_per_label), range(2)):
        rows = slice(place, None, truth.reagents_per_label)
        pair = wells[rows, replicate], prompts[rows]
        if name == "clip":
            losses.append(clip_loss(*pair, encoded["logit_scale"]))
        elif name == "cwcl":
            looks = encoded["looks"][:count].unflatten(0, (-1, 2))[rows, replicate]
            losses.append(cwcl_loss(*pair, looks, encoded["logit_scale"]))
        else:
            scales = encoded["sigmoid_scale"], encoded["sigmoid_bias"]
            losses.append(siglip_loss(*pair, *scales))
    return torch.stack(losses).mean()


def _true_pairs(truth: Truth, count: int) -> torch.Tensor:
    """How true it is that a prompt is a well's, (2R, ranks * R): its own 1, else shared labels."""
    labels, reagents = truth.labels[:count], truth.reagents[:count]
    shared = label_overlap(labels, gather_rows(labels[::2]))
    own = reagents[:, None] == gather_rows(reagents[::2])
    return torch.where(own, 1.0, shared)
