"""Reading lessons: drawn readouts of the tower with what they say, as many as training wants.

Phase align teaches the tower to read out how far every fact slot shifted, as it was measured.
Phase describe then has to put readouts into words. Training wells are few and their facts noisy: a
language model that learns from them alone learns them by heart. A lesson has neither limit: its
readout is put together from those of several training wells, subject by subject, made louder or
quieter, and its answer says just what this readout says. Some lessons lack stains: what needs them
is not read out, and questions about them are answered so.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from captions.descriptions import subject
from captions.facts import FACT_SLOTS, MIN_EFFECT, Fact, read_facts
from captions.questions import DESCRIBE, Answer, ask_blank_well, describe, questions
from captions.slots import needed_stains
from data.channels import STAINS

TOLD_EFFECT = MIN_EFFECT
"""Lessons say an effect from here on, as facts do."""

QUESTION_SHARE = 0.1
"""Share of lessons that ask something else than for a description."""
MAX_DONORS = 3
"""A lesson's readout is put together from at most this many wells."""
LOUDNESS = (0.7, 1.5)
"""What readouts are multiplied by, so that every threshold is seen from both sides."""
JITTER = 0.15
"""Standard deviation of what is added to each readout."""
MISSING_SHARE = 0.15
"""Share of lessons that lack some or all stains."""
TRIES = 6
"""Readouts drawn for one question, of which one is kept so that kinds of answers are balanced."""

_SUBJECTS = [subject(slot) for slot in FACT_SLOTS]
_NAMES = list(dict.fromkeys(_SUBJECTS))
_SUBJECT_OF_SLOT = np.array([_NAMES.index(name) for name in _SUBJECTS])


def draw_lessons(
    readouts: NDArray[np.floating], imaged: Sequence[Sequence[str]], count: int, seed: int
) -> tuple[pd.DataFrame, NDArray[np.float32]]:
    """Draw lessons from the readouts of training wells.

    Parameters
    ----------
    readouts : (n_wells, K) float array
        asinh(shift / 2) of every fact slot, as the tower reads it.
    imaged : sequence of n_wells sequences of str
        The stains that each well was imaged in.
    count : int
        How many lessons.
    seed : int

    Returns
    -------
    lessons : DataFrame
        `well` (row of the training well that gives all but the readout), `imaged` (list of the
        stains that are left), `question`, `answer`.
    readouts : (count, K) float32 array
        The readout of each lesson.
    """
    rng = np.random.default_rng(seed)
    # Most wells look like the controls: changed ones are drawn twice as often.
    weight = 1.0 + np.array([bool(_facts(row)) for row in readouts])
    weight /= weight.sum()
    rows, drawn = [], np.empty((count, readouts.shape[1]), np.float32)
    for number in range(count):
        base = int(rng.choice(len(readouts), p=weight))
        left = _draw_stains(imaged[base], rng)
        asks = rng.random() < QUESTION_SHARE
        candidates = [
            _draw_readout(readouts, weight, base, left, rng) for _ in range(TRIES if asks else 1)
        ]
        question, answers = DESCRIBE, [describe(_facts(candidates[0]))]
        if asks:
            missing = [stain for stain in STAINS if stain not in left]
            asked = questions(left, missing)
            question = list(asked)[rng.integers(len(asked))]
            answers = [asked[question](_facts(readout)) for readout in candidates]
        elif not left:
            answers = [ask_blank_well([])]
        kept = _draw_kind(answers, rng)
        drawn[number] = candidates[kept]
        rows.append((base, left, question, answers[kept].text))
    return pd.DataFrame(rows, columns=["well", "imaged", "question", "answer"]), drawn


def _facts(readout: NDArray[np.floating]) -> list[Fact]:
    return read_facts(2 * np.sinh(readout), TOLD_EFFECT)


def _draw_stains(imaged: Sequence[str], rng: np.random.Generator) -> list[str]:
    """The stains that are left, mostly all; each of the others is lost with the same chance."""
    lost = rng.random() if rng.random() < MISSING_SHARE else 0.0
    return [stain for stain in imaged if rng.random() >= lost]


def _draw_readout(
    readouts: NDArray[np.floating],
    weight: NDArray[np.float64],
    base: int,
    imaged: Sequence[str],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """A readout put together from a well and others."""
    donors = rng.choice(len(readouts), rng.integers(1, MAX_DONORS + 1), p=weight)
    donors[0] = base
    donor_of_subject = donors[rng.integers(len(donors), size=len(_NAMES))]
    own = readouts[donor_of_subject[_SUBJECT_OF_SLOT], np.arange(readouts.shape[1])]
    louder = own * rng.uniform(*LOUDNESS) + rng.normal(scale=JITTER, size=len(own))
    seen = [bool(imaged) and set(needed_stains(slot)) <= set(imaged) for slot in FACT_SLOTS]
    # Where controls are heard what is no fact is silent (`vlm.readouts`), elsewhere it whispers.
    silent = np.abs(louder) < np.arcsinh(rng.uniform(0, TOLD_EFFECT) / 2)
    return np.where(seen & ~silent, louder, 0.0)


def _draw_kind(answers: Sequence[Answer], rng: np.random.Generator) -> int:
    """Place of an answer whose kind is drawn with the same chance as every other kind there."""
    kinds = sorted({answer.kind for answer in answers})
    kind = kinds[rng.integers(len(kinds))]
    return int(rng.choice([i for i, answer in enumerate(answers) if answer.kind == kind]))
