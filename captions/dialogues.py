"""Dialogues: for each well a description and questions, with answers from its measured facts only.

No perturbation is named anywhere. Questions are dealt out so that the question alone tells nothing
about its answer.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd
from scipy import stats

from captions.facts import facts_by_well
from captions.questions import DESCRIBE, Answer, describe, questions
from data.channels import STAINS
from data.errors import InputError

DIALOGUE_COLUMNS = (
    "Metadata_Plate",
    "Metadata_Well",
    "Metadata_split",
    "kind",
    "question",
    "answer",
    "answer_kind",
    "evidence",
)

QUESTIONS_PER_WELL = 0.5
DESCRIPTIONS_OF_CHANGED = 2
"""How often the description of a changed well is in the table."""


def build_dialogues(
    wells: pd.DataFrame,
    facts: pd.DataFrame,
    channels_present: Mapping[str, Sequence[str]],
    seed: int,
    per_well: float = QUESTIONS_PER_WELL,
) -> pd.DataFrame:
    """Write the description of each well and, on average, `per_well` questions with answers.

    Within a split each question has the same number of wells for each kind of answer (increased,
    decreased, neither; yes, no; ...). A question to which all wells have the same answer is left
    out, except those about stains that were not imaged.

    Parameters
    ----------
    wells : DataFrame
        Metadata_Plate, Metadata_Well, Metadata_split; one row a well.
    facts : DataFrame
        From `captions.facts.measure_facts`.
    channels_present : mapping of plate to stains
        The stains that were imaged on each plate.
    seed : int
        Decides which wells are asked what.
    per_well : float
        Questions a well, on average; fewer where there are not enough different answers.

    Returns
    -------
    DataFrame
        `DIALOGUE_COLUMNS`; kind is "description" or "question", answer_kind what the answer comes
        down to ("increased", "no change"), evidence a JSON list of the facts that it states.

    Raises
    ------
    InputError
        When a plate is not in `channels_present` or a column is missing.
    """
    for column in DIALOGUE_COLUMNS[:3]:
        if column not in wells:
            raise InputError(f"wells: column {column!r} is missing")
    for plate in wells["Metadata_Plate"].unique():
        if plate not in channels_present:
            raise InputError(f"plate {plate}: the stains that were imaged are not known")
    measured = facts_by_well(facts)
    rng = np.random.default_rng(seed)
    rows = []
    for split, part in wells.groupby("Metadata_split", sort=True):
        # Question -> kind of answer -> the wells that have it.
        asked: dict[str, dict[str, list[tuple[str, str, Answer]]]] = defaultdict(
            lambda: defaultdict(list)
        )
        for plate, well in zip(part["Metadata_Plate"], part["Metadata_Well"], strict=True):
            own = measured.get((plate, well), [])
            description = _row(plate, well, str(split), "description", DESCRIBE, describe(own))
            # Most wells of a screen look like the controls: said once each, "no change" would be
            # all that a model learns.
            rows.extend([description] * (DESCRIPTIONS_OF_CHANGED if own else 1))
            imaged = channels_present[plate]
            missing = [stain for stain in STAINS if stain not in imaged]
            for question, answer_with in questions(imaged, missing).items():
                answer = answer_with(own)
                asked[question][answer.kind].append((plate, well, answer))
        for question, plate, well, answer in _deal_out(asked, round(per_well * len(part)), rng):
            rows.append(_row(plate, well, str(split), "question", question, answer))
    table = pd.DataFrame(rows, columns=list(DIALOGUE_COLUMNS))
    return table.sort_values(list(DIALOGUE_COLUMNS[:4]), kind="stable", ignore_index=True)


def guess_without_looking(dialogues: pd.DataFrame) -> pd.DataFrame:
    """Answer every question with its most frequent kind of answer, never looking at a well.

    Parameters
    ----------
    dialogues : DataFrame
        From `build_dialogues`. Guesses are learnt on the split "train", and scored on the others;
        on "train" itself where there is no other.

    Returns
    -------
    DataFrame
        Indexed by question: n, kinds (of answers), accuracy of the guess, chance (1 / kinds), and
        answerable: whether it is right more often than chance (one-sided binomial test, p < 0.01),
        or there is but one answer. A score over questions leaves the answerable ones out.
    """
    asked = dialogues[dialogues["kind"] == "question"]
    learnt = asked[asked["Metadata_split"] == "train"]
    scored = asked[asked["Metadata_split"] != "train"]
    scored = learnt if scored.empty else scored
    guesses = learnt.groupby("question")["answer_kind"].agg(lambda kinds: kinds.mode()[0])
    rows = {}
    for question, kinds in scored.groupby("question")["answer_kind"]:
        right = int((kinds == guesses.get(question)).sum())
        n, different = len(kinds), kinds.nunique()
        surprise = stats.binomtest(right, n, 1 / different, alternative="greater").pvalue
        answerable = different == 1 or surprise < 0.01
        rows[question] = (n, different, right / n, 1 / different, answerable)
    columns = ["n", "kinds", "accuracy", "chance", "answerable"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def _deal_out(
    asked: Mapping[str, Mapping[str, list[tuple[str, str, Answer]]]],
    wanted: int,
    rng: np.random.Generator,
) -> list[tuple[str, str, str, Answer]]:
    """Choose about `wanted` (question, plate, well, answer), each kind of answer equally often."""
    usable = {
        question: kinds
        for question, kinds in asked.items()
        if len(kinds) > 1 or "not imaged" in kinds
    }
    left = wanted
    dealt = []
    # Rare questions first: what they cannot use goes to the others.
    by_supply = sorted(usable.items(), key=lambda item: _supply(item[1]))
    for place, (question, kinds) in enumerate(by_supply):
        share = left / (len(by_supply) - place)
        each = min(int(share / len(kinds)), min(map(len, kinds.values())))
        for kind in sorted(kinds):
            for i in rng.choice(len(kinds[kind]), size=each, replace=False):
                dealt.append((question, *kinds[kind][i]))
        left -= each * len(kinds)
    return dealt


def _supply(kinds: Mapping[str, list]) -> int:
    return len(kinds) * min(map(len, kinds.values()))


def _row(
    plate: str, well: str, split: str, kind: str, question: str, answer: Answer
) -> tuple[str, ...]:
    evidence = json.dumps([asdict(fact) for fact in answer.evidence])
    return (plate, well, split, kind, question, answer.text, answer.kind, evidence)
