"""What the processes that train together tell each other: rows, and how many there are."""

import torch
import torch.distributed as dist
from torch.distributed.nn.functional import all_gather


def rank_and_size() -> tuple[int, int]:
    """Return this process's rank and the number of processes."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def gather_rows(x: torch.Tensor) -> torch.Tensor:
    """Rows of all ranks, with gradients: (B, ...) to (world * B, ...)."""
    if rank_and_size()[1] == 1:
        return x
    return torch.cat(all_gather(x.contiguous()), dim=0)


def own_rows(x: torch.Tensor) -> torch.Tensor:
    """Where this rank's rows are among those of all ranks: (B,) int."""
    return torch.arange(len(x), device=x.device) + rank_and_size()[0] * len(x)


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
