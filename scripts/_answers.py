"""Questions about wells, answered: a model describes, and rules read the answer out of that.

A small model describes far better than it answers questions (docs/describing.md has the numbers),
and an answer that is read out of the description cannot contradict it.
"""

from collections.abc import Sequence

import torch

from captions.answers import Reply, Seen, reply_to
from captions.asking import Asked
from captions.questions import DESCRIBE
from captions.verification import claim_confidences
from vlm.describe import describe
from vlm.lora import Vlm
from vlm.processing import CellPaintingProcessor


def see_wells(
    model: Vlm,
    processor: CellPaintingProcessor,
    tokens: torch.Tensor,
    imaged: Sequence[Sequence[str]],
) -> list[Seen]:
    """Describe wells, as sure as the model is.

    Parameters
    ----------
    model, processor
        From `vlm.adapters.load_model`.
    tokens : (n_wells, T, D) float Tensor
        From `vlm.instruct.well_tokens`.
    imaged : sequence of n_wells sequences of str
        The stains of each well.
    """
    return [
        Seen(own, said.text, claim_confidences(said.text, said.ends, said.probabilities))
        for own, said in zip(
            imaged, describe(model, processor, tokens, DESCRIBE) if len(tokens) else [], strict=True
        )
    ]


def answer_wells(
    model: Vlm,
    processor: CellPaintingProcessor,
    tokens: torch.Tensor,
    imaged: Sequence[Sequence[str]],
    asked: Sequence[Asked],
    style: str | None = None,
) -> list[Reply]:
    """Answer a question about each of some wells, and look only at those that it takes.

    Parameters
    ----------
    model, processor, tokens, imaged
        As `see_wells`.
    asked : sequence of n_wells Asked
        From `captions.asking.understand` or `captions.follow_ups.resolve`.
    style : str, optional
        One of `captions.descriptions.STYLES`, in which claims are said again; as the model said
        them by default.
    """
    rows = [row for row, one in enumerate(asked) if one.answer is None]
    seen = see_wells(model, processor, tokens[rows], [imaged[row] for row in rows])
    seen_of = dict(zip(rows, seen, strict=True))
    return [reply_to(one, seen_of.get(row), style) for row, one in enumerate(asked)]
