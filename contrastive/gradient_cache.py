"""Gradient caching: batches of thousands of wells in the memory of one chunk.

Gao et al. 2021 ("Scaling deep contrastive learning batch size under memory limited setup"): a
contrastive loss needs the vectors of the whole batch, but their gradients, once known, can be sent
back through the model chunk by chunk. Wells are encoded once more for that.
"""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from itertools import pairwise

import torch
from accelerate import Accelerator
from torch import nn

from contrastive.align_model import Encoded

Losses = dict[str, torch.Tensor]


def backward_in_chunks(
    model: nn.Module,
    chunks: Callable[[], Iterable[tuple]],
    count: int,
    losses_of: Callable[[Encoded], Losses],
    accelerator: Accelerator,
) -> Losses:
    """Add the gradients of a loss over all chunks, as if they were one batch.

    Parameters
    ----------
    model : Module
        An `AlignModel`, as accelerate prepared it.
    chunks : callable
        Gives the model's arguments chunk by chunk, the same each time that it is called. What is
        in any chunk must be in the last one: processes share gradients there.
    count : int
        How many there are. One is encoded once only, which is the plain way.
    losses_of : callable
        From what all chunks were encoded to, to `loss` and its parts.
    accelerator : Accelerator

    Returns
    -------
    dict of scalars
        What `losses_of` gave.
    """

    def encode(inputs: tuple) -> Encoded:
        with accelerator.autocast():  # accelerate's prepared models do so themselves, but FSDP2's
            return model(*inputs)

    if count == 1:
        (inputs,) = chunks()
        losses = losses_of(encode(inputs))
        accelerator.backward(losses["loss"])
        return losses
    device = accelerator.device
    # The second reading must drop out what the first one did: it begins with the same random state.
    with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        encoded = [encode(inputs) for inputs in chunks()]
    leaves = {name: value.requires_grad_() for name, value in _join(encoded).items()}
    losses = losses_of(leaves)
    losses["loss"].backward()
    done = dict.fromkeys(leaves, 0)  # rows
    for number, inputs in enumerate(chunks(), start=1):
        last = number == count
        with nullcontext() if last else accelerator.no_sync(model):  # ranks meet once
            pulls = []
            for name, value in encode(inputs).items():
                gradient = leaves[name].grad
                if gradient is None:
                    continue
                if value.dim() == 0:  # every chunk has it, and its gradient counts once
                    pulls += [value * gradient] if last else []
                    continue
                rows = slice(done[name], done[name] + len(value))
                pulls.append((value * gradient[rows]).sum())
                done[name] = rows.stop
            accelerator.backward(torch.stack(pulls).sum())
    return losses


def split_rows(total: int, count: int) -> list[slice]:
    """Split rows into `count` parts of nearly equal length, of which the last is the longest."""
    ends = [total * i // count for i in range(count + 1)]
    return [slice(start, end) for start, end in pairwise(ends)]


def _join(parts: list[Encoded]) -> Encoded:
    names = dict.fromkeys(name for part in parts for name in part)
    found = {name: [part[name] for part in parts if name in part] for name in names}
    return {
        name: torch.cat(values) if values[0].dim() else values[0] for name, values in found.items()
    }
