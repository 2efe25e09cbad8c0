"""The losses of phase align, each a pure function; they add up with weights from the YAML.

Features are unit vectors. With several ranks, each rank passes its own rows and the others' are
gathered with their gradients, so that the mean gradient over ranks is that of one process.
"""

import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss, SigLipLoss

from contrastive.ranks import gather_rows, mean_over_ranks, own_rows, rank_and_size


def clip_loss(
    wells: torch.Tensor, prompts: torch.Tensor, logit_scale: torch.Tensor
) -> torch.Tensor:
    """Symmetric InfoNCE between wells and prompts (CLIP, Radford et al. 2021; open_clip's).

    Parameters
    ----------
    wells, prompts : (B, E) float
        Row i of one belongs to row i of the other and to no other row.
    logit_scale : scalar
        Inverse temperature (already exponentiated).

    Returns
    -------
    Scalar
    """
    rank, size = rank_and_size()
    loss = ClipLoss(local_loss=True, gather_with_grad=True, rank=rank, world_size=size)
    return loss(wells, prompts, logit_scale)


def siglip_loss(
    wells: torch.Tensor, prompts: torch.Tensor, logit_scale: torch.Tensor, logit_bias: torch.Tensor
) -> torch.Tensor:
    """Pairwise sigmoid loss (SigLIP, Zhai et al. 2023; open_clip's).

    Parameters
    ----------
    wells, prompts : (B, E) float
    logit_scale, logit_bias : scalars

    Returns
    -------
    Scalar
    """
    rank, size = rank_and_size()
    loss = SigLipLoss(rank=rank, world_size=size, dist_impl="bidir")
    # Ranks pass prompts around as they lie in memory: a slice with gaps is refused.
    return loss(wells, prompts.contiguous(), logit_scale, logit_bias)


def cwcl_loss(
    wells: torch.Tensor, prompts: torch.Tensor, looks: torch.Tensor, logit_scale: torch.Tensor
) -> torch.Tensor:
    """Continuously weighted contrast (CWCL, Srinivasa et al. 2023; weights of Lu et al. 2025).

    A well is also drawn, a little, to the prompts of wells that look like it to the frozen
    backbone; prompts find their wells as in CLIP:

    L_i = -1/(sum_j w_ij) sum_j w_ij log softmax_j(s <well_i, prompt_j>)
    w_ij = 1/2 + 1/(2C) sum_c <look_ic, look_jc>

    Parameters
    ----------
    wells, prompts : (B, E) float
        Row i of one belongs to row i of the other.
    looks : (B, C, F) float
        What the frozen backbone sees in each channel of the wells, as unit vectors. Gets no
        gradient.
    logit_scale : scalar
        Inverse temperature (already exponentiated).

    Returns
    -------
    Scalar
    """
    own = own_rows(wells)
    C = looks.shape[1]
    looks = looks.detach().flatten(1)
    weights = 0.5 + looks @ gather_rows(looks).T / (2 * C)  # (B, N)
    logits = logit_scale * wells @ gather_rows(prompts).T
    back = logit_scale * prompts @ gather_rows(wells).T
    to_prompt = _pull(logits, weights, torch.ones_like(logits, dtype=torch.bool))
    return (to_prompt + F.cross_entropy(back, own)) / 2


def soft_label_loss(
    wells: torch.Tensor,
    prompts: torch.Tensor,
    weights: torch.Tensor,
    logit_scale: torch.Tensor,
    logit_bias: torch.Tensor,
) -> torch.Tensor:
    """Pairwise sigmoid loss with soft labels (S2L, Fradkin et al. 2024, MolPhenix).

    A prompt of another reagent of the same target is no false pair, but one that is partly true:

    L_i = -sum_j w_ij log sigmoid(s <well_i, prompt_j> + b)
          + (1 - w_ij) log sigmoid(-(s <well_i, prompt_j> + b))

    MolPhenix takes w from how alike the images are; here it comes from target lists
    (`label_overlap`).

    Parameters
    ----------
    wells : (B, E) float
    prompts : (R, E) float
        Of this rank.
    weights : (B, ranks * R) float in [0, 1]
        Of every well of this rank with every prompt of all ranks.
    logit_scale, logit_bias : scalars

    Returns
    -------
    Scalar
        Mean over wells of the sum over prompts.
    """
    logits = logit_scale * wells @ gather_rows(prompts).T + logit_bias
    each = F.binary_cross_entropy_with_logits(logits, weights, reduction="none")
    return each.sum(dim=1).mean()


def label_overlap(labels: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """How much of their labels pairs share: |A and B| / (|A| |B|), 1 for the same single label.

    Parameters
    ----------
    labels, others : (B, T), (N, T) float
        1 / (length of its list) at each label of a row; a row without labels is zero.

    Returns
    -------
    (B, N) float
    """
    return labels @ others.T


def same_label_loss(wells: torch.Tensor, labels: torch.Tensor, temperature: float) -> torch.Tensor:
    """Pull wells of one label together (supervised contrast, Khosla et al. 2020, "out" form).

    With targets for labels, compounds, guides and ORFs of a target meet, on whatever plate: what
    a plate, a position or a staining did to both cannot help. A compound of several targets is
    drawn to each less than to another of the same single target:

    L_i = -1/(sum_p w_ip) sum_p w_ip log( exp(s_ip / t) / sum_{a != i} exp(s_ia / t) )

    with w of `label_overlap`.

    Parameters
    ----------
    wells : (B, E) float
        Unit vectors.
    labels : (B, T) float
        As `label_overlap` takes them. Wells without a partner contribute only as negatives.
    temperature : float

    Returns
    -------
    Scalar
        Mean over the wells that have a partner, of all ranks; 0 when none has.
    """
    everyone, itself = gather_rows(wells), _itself(wells)
    weights = label_overlap(labels, gather_rows(labels)).masked_fill(itself, 0.0)
    return _pull(wells @ everyone.T / temperature, weights, ~itself)


def replicate_loss(
    wells: torch.Tensor,
    reagents: torch.Tensor,
    plates: torch.Tensor,
    labels: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    """Pull replicates of a reagent on different plates together (cross-well alignment).

    After Huang et al. 2025 (CWA-MSN), here as InfoNCE: what two plates did differently is
    unlearned, with no labels. Neither pulled nor pushed are replicates on the same plate, which
    share the plate's faults, and other reagents of a shared label, which the loss of labels pulls.

    L_i = -1/|P(i)| sum_{p in P(i)} log( exp(s_ip / t) / sum_{a in P(i) + N(i)} exp(s_ia / t) )

    Parameters
    ----------
    wells : (B, E) float
        Unit vectors.
    reagents, plates : (B,) int
    labels : (B, T) float
        As `label_overlap` takes them.
    temperature : float

    Returns
    -------
    Scalar
        Mean over the wells with a replicate on another plate, of all ranks; 0 when none has.
    """
    same = reagents[:, None] == gather_rows(reagents)
    replicate = same & (plates[:, None] != gather_rows(plates))
    stranger = ~same & (label_overlap(labels, gather_rows(labels)) == 0)
    logits = wells @ gather_rows(wells).T / temperature
    return _pull(logits, replicate.to(logits.dtype), replicate | stranger)


def shift_loss(predicted: torch.Tensor, shifts: torch.Tensor) -> torch.Tensor:
    """Smooth L1 between predicted and measured shifts of every fact slot, on asinh(s / 2).

    Shifts are robust z with long tails. Predicting how far a slot moved, and not only whether it
    passed for a fact, tells the tower far more per well.

    Parameters
    ----------
    predicted : (B, K) float
        asinh(s / 2).
    shifts : (B, K) float
        NaN where a slot was not measured.

    Returns
    -------
    Scalar
        Mean over the measured slots, of all ranks; 0 when there are none.
    """
    measured = torch.isfinite(shifts)
    target = torch.asinh(shifts.nan_to_num(0.0, 0.0, 0.0) / 2)
    each = F.smooth_l1_loss(predicted, target, reduction="none")
    return mean_over_ranks(each.masked_fill(~measured, 0.0).sum(), measured.sum())


def _pull(logits: torch.Tensor, weights: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of weights (B, N) >= 0, row by row, among candidates (B, N) bool."""
    total = weights.sum(dim=1)
    has_partner = total > 0
    candidates = candidates | ~has_partner[:, None]  # a row of nothing but -inf has no gradient
    logits = logits.masked_fill(~candidates, float("-inf"))
    log_share = (logits - logits.logsumexp(dim=1, keepdim=True)).masked_fill(weights == 0, 0.0)
    per_row = -(weights * log_share).sum(dim=1) / total.masked_fill(~has_partner, 1.0)
    return mean_over_ranks(per_row.sum(), has_partner.sum())


def _itself(x: torch.Tensor) -> torch.Tensor:
    """True where a row of this rank meets itself: (B, world * B) bool."""
    return F.one_hot(own_rows(x), len(x) * rank_and_size()[1]).bool()
