"""The losses of phase align, each a pure function; they add up with weights from the YAML.

Features are unit vectors. With several ranks, each rank passes its own rows and the others' are
gathered with their gradients, so that the mean gradient over ranks is that of one process.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from open_clip.loss import ClipLoss, SigLipLoss
from torch.distributed.nn.functional import all_gather


def rank_and_size() -> tuple[int, int]:
    """Return this process's rank and the number of processes."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


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


def gather_rows(x: torch.Tensor) -> torch.Tensor:
    """Rows of all ranks, with gradients: (B, ...) to (world * B, ...)."""
    if rank_and_size()[1] == 1:
        return x
    return torch.cat(all_gather(x.contiguous()), dim=0)


def mean_over_ranks(total: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """Return this rank's share of a mean over the entries of all ranks.

    Ranks may hold different numbers of entries (wells with a partner, measured slots). The mean
    of the shares over ranks, which is what DDP makes of gradients, is the mean over all entries:
    size * sum_r / sum over ranks of count.

    Parameters
    ----------
    total, count : scalars
        Sum and number of this rank's entries.

    Returns
    -------
    Scalar
        0 when no rank has an entry.
    """
    size = rank_and_size()[1]
    if size > 1:
        count = count.clone()
        dist.all_reduce(count)
    return size * total / count.clamp_min(1)


def same_label_loss(wells: torch.Tensor, labels: torch.Tensor, temperature: float) -> torch.Tensor:
    """Pull wells of one label together (supervised contrast, Khosla et al. 2020, "out" form).

    With targets for labels, compounds, guides and ORFs of a target meet, on whatever plate: what
    a plate, a position or a staining did to both cannot help.

    L_i = -1/|P(i)| sum_{p in P(i)} log( exp(s_ip / t) / sum_{a != i} exp(s_ia / t) )

    Parameters
    ----------
    wells : (B, E) float
        Unit vectors.
    labels : (B,) int
        Wells without a partner contribute only as negatives.
    temperature : float

    Returns
    -------
    Scalar
        Mean over the wells that have a partner, of all ranks; 0 when none has.
    """
    everyone, everyones = gather_rows(wells), gather_rows(labels)
    rank, _ = rank_and_size()
    own = torch.arange(len(wells), device=wells.device) + rank * len(wells)
    itself = F.one_hot(own, len(everyone)).bool()  # (B, N)
    logits = (wells @ everyone.T / temperature).masked_fill(itself, float("-inf"))
    log_share = logits - logits.logsumexp(dim=1, keepdim=True)
    partner = (labels[:, None] == everyones[None, :]) & ~itself
    counts = partner.sum(dim=1)
    per_well = -log_share.masked_fill(~partner, 0.0).sum(dim=1) / counts.clamp_min(1)
    return mean_over_ranks(per_well.sum(), (counts > 0).sum())


def effect_loss(predicted: torch.Tensor, effects: torch.Tensor) -> torch.Tensor:
    """Smooth L1 between predicted and measured effects of every fact slot, on asinh(e / 2).

    The measured effects are robust z with long tails. Predicting how much a slot changed, and not
    only whether it passed for a fact, tells the tower far more per well.

    Parameters
    ----------
    predicted : (B, K) float
        asinh(e / 2).
    effects : (B, K) float
        NaN where a slot was not measured.

    Returns
    -------
    Scalar
        Mean over the measured slots, of all ranks; 0 when there are none.
    """
    measured = torch.isfinite(effects)
    target = torch.asinh(effects.nan_to_num(0.0, 0.0, 0.0) / 2)
    each = F.smooth_l1_loss(predicted, target, reduction="none")
    return mean_over_ranks(each.masked_fill(~measured, 0.0).sum(), measured.sum())
