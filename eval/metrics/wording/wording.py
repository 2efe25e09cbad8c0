"""How alike descriptions are word by word: `evaluate.load("eval/metrics/wording")`.

For the record: a text may share nearly all words with another and say the opposite. Needs
`pip install morphoclip[wording]`.
"""

import datasets
import evaluate
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import CHRF

_DESCRIPTION = """
chrF (Popovic 2015; sacrebleu) and ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004; rouge-score) of
descriptions against references. Neither knows what is claimed: see the metric `claims`.
"""

_INPUTS = """
predictions : list of str, one description a well.
references : list of str, the description written from the well's measured facts.

Returns chrf, rouge1, rouge2 and rougeL, all in [0, 1]; rouge is the mean F of the wells.
"""

_ROUGE = ("rouge1", "rouge2", "rougeL")


class Wording(evaluate.Metric):
    """chrF and ROUGE."""

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
        scorer = RougeScorer(_ROUGE)
        found = [scorer.score(r, p) for p, r in zip(predictions, references, strict=True)]
        scores = {
            name: sum(one[name].fmeasure for one in found) / max(len(found), 1) for name in _ROUGE
        }
        return {"chrf": CHRF().corpus_score(predictions, [references]).score / 100, **scores}
