"""Claim scores of descriptions as an `evaluate` metric: `evaluate.load("eval/metrics/claims")`."""

import datasets
import evaluate

from captions.descriptions import parse_description
from eval.claims import score_claims

_DESCRIPTION = """
Reads the claims (which part of the cells changed, and in which direction) out of each predicted and
each reference description and compares them, pooled over wells.
"""

_INPUTS = """
predictions : list of str, one description a well.
references : list of str, the description written from the well's measured facts.

Returns precision, recall, f1 and direction_accuracy, see `eval.claims.score_claims`.
"""


class Claims(evaluate.Metric):
    """Precision, recall, F1 and direction accuracy of the claims in descriptions."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return score_claims(
            [parse_description(text) for text in predictions],
            [parse_description(text) for text in references],
        )
