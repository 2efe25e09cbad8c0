"""Questions about wells, answered: a model describes, and rules read the answer out of that.

A small model describes far better than it answers questions (docs/describing.md has the numbers),
and an answer that is read out of the description cannot contradict it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from captions.asking import HOW_SURE, Asked, understand
from captions.descriptions import describe_facts, read_claims
from captions.questions import DESCRIBE, answer_from
from captions.slots import Claim
from captions.verification import (
    Measurement,
    claim_confidences,
    not_said,
    state_confidences,
    verify,
)
from vlm.describe import Spoken, describe
from vlm.lora import Vlm
from vlm.processing import CellPaintingProcessor


@dataclass(frozen=True)
class Reply:
    """An answer about one well, the description that it was read out of, and how sure that was.

    `description` is None, and `confidences` of claims are empty, where the well was not looked at.
    """

    text: str
    asked: Asked
    description: str | None
    confidences: dict[Claim | str, float]

    @property
    def by_rule(self) -> bool:
        """Whether the model was not asked."""
        return self.asked.answer is not None

    def record(self, measured: Measurement | None, verified: bool) -> dict[str, Any]:
        """Everything about the answer as JSON: its claims, and with `verified` their verdicts."""
        claims = [
            said.claim._asdict()
            | {"strength": said.strength, "confidence": self.confidences.get(said.claim)}
            for said in sorted(read_claims(self.text))
        ]
        record: dict[str, Any] = {
            "answer": self.text,
            "answered_by": "rule" if self.by_rule else "model",
            "description": self.description,
            "claims": claims,
            "measured": None if measured is None else [vars(fact) for fact in measured.facts],
        }
        if verified:
            verdicts = verify(self.text, measured, self.confidences)
            record["verified"] = [asdict(verdict) for verdict in verdicts]
            missed = [] if measured is None else not_said(self.text, measured)
            record["not_said"] = [vars(fact) for fact in missed]
        return record


def answer_wells(
    model: Vlm,
    processor: CellPaintingProcessor,
    tokens: torch.Tensor,
    imaged: Sequence[Sequence[str]],
    question: str,
    style: str | None = None,
) -> list[Reply]:
    """Answer one question about each of some wells.

    Parameters
    ----------
    model, processor
        From `vlm.adapters.load_model`.
    tokens : (n_wells, T, D) float Tensor
        From `vlm.instruct.well_tokens`.
    imaged : sequence of n_wells sequences of str
        The stains of each well.
    question : str
    style : str, optional
        One of `captions.descriptions.STYLES`, in which claims are said again; as the model said
        them by default.

    Raises
    ------
    InputError
        When the question cannot be understood (`captions.asking.understand`).
    """
    asked = [understand(question, own) for own in imaged]
    rows = [row for row, one in enumerate(asked) if one.answer is None]
    spoken: dict[int, Spoken] = {}
    if rows:
        spoken |= zip(rows, describe(model, processor, tokens[rows], DESCRIBE), strict=True)
    return [
        _reply(one, own, spoken.get(row), style)
        for row, (one, own) in enumerate(zip(asked, imaged, strict=True))
    ]


def _reply(asked: Asked, imaged: Sequence[str], spoken: Spoken | None, style: str | None) -> Reply:
    if spoken is None:
        return Reply(asked.answer or "", asked, None, {})
    sure = claim_confidences(spoken.text, spoken.ends, spoken.probabilities)
    if asked.question == HOW_SURE:
        return Reply(state_confidences(spoken.text, sure), asked, spoken.text, sure)
    text = spoken.text
    if asked.question != DESCRIBE:
        text = answer_from(text, asked.question, imaged)
    said = read_claims(text)
    text = describe_facts(said, style) if style and said else text
    return Reply(asked.reply(text), asked, spoken.text, sure)
