"""Claim scores of descriptions as an `evaluate` metric: `evaluate.load("eval/metrics/claims")`."""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from captions.descriptions import parse_description, read_claims
from eval.claims import (
    score_by,
    score_calibration,
    score_claims,
    score_intervals,
    score_silence,
    score_strength,
)

_DESCRIPTION = """
Reads the claims (which part of the cells changed, in which direction and how strongly) out of each
predicted and each reference description and compares them, pooled over wells.
"""

_INPUTS = """
predictions : list of str, one description a well.
references : list of str, the description written from the well's measured facts.
reagents : list of str, optional, the reagent of each well, for intervals over reagents.
confidences : list of dict, optional, claim to confidence of each well's claims, for calibration.

Returns precision, recall, f1, direction_accuracy (`eval.claims.score_claims`), strength_agreement,
abstention_precision, abstention_recall, claims_an_unchanged_well, and by_channel and by_property
(the first four, by channel and by property). With reagents: intervals. With confidences:
calibration.
"""


class Claims(evaluate.Metric):
    """What descriptions claim, against what was measured."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(
        self,
        predictions: list[str],
        references: list[str],
        reagents: Sequence[str] | None = None,
        confidences: Sequence[dict] | None = None,
    ) -> dict[str, Any]:
        said, true = (
            [parse_description(text) for text in texts] for texts in (predictions, references)
        )
        said_how, true_how = (
            [{one.claim: one.strength for one in read_claims(text)} for text in texts]
            for texts in (predictions, references)
        )
        scores: dict[str, Any] = {
            **score_claims(said, true),
            "strength_agreement": score_strength(said_how, true_how)["strength_agreement"],
            **score_silence(said, true),
            "by_channel": score_by("channel", said, true).to_dict("index"),
            "by_property": score_by("property", said, true).to_dict("index"),
        }
        if reagents is not None:
            scores["intervals"] = score_intervals(said, true, reagents)
        if confidences is not None:
            sure = [
                (own.get(claim, np.nan), claim in facts)
                for own, claims, facts in zip(confidences, said, true, strict=True)
                for claim in claims
            ]
            scores["calibration"] = score_calibration([s for s, _ in sure], [r for _, r in sure])
        return scores
