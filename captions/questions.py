"""Questions about a well, each with the answer that the measured facts give."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from captions.descriptions import CHANGES, NO_CHANGE, describe_facts, read_claims, subject
from captions.facts import MAX_FACTS, Fact
from captions.slots import FACT_SLOTS, Slot, needed_stains
from data.channels import CHANNELS

DESCRIBE = "What changed in this well?"
"""The question whose answer is the description."""

NUCLEI = "What changed in the nuclei?"

NOTHING_IMAGED = "Nothing was imaged."


class Answer(NamedTuple):
    """An answer with its grounds.

    `kind` is what the answer comes down to ("increased", "Mito", "no change"): questions are dealt
    out so that each kind is as frequent as any other.
    """

    text: str
    evidence: list[Fact]
    kind: str


def describe(facts: Sequence[Fact], style: str = "by_subject") -> Answer:
    """Answer `DESCRIBE`: state the first facts, strongest first."""
    said = list(facts[:MAX_FACTS])
    return Answer(describe_facts(said, style), said, "change" if said else "no change")


def ask_channel(stain: str, facts: Sequence[Fact]) -> Answer:
    """Answer: what changed in this stain."""
    found = [fact for fact in facts if fact.channel == stain][:MAX_FACTS]
    if not found:
        return Answer(f"No significant change in {stain}.", [], "no change")
    return Answer(describe_facts(found), found, "change")


def ask_nuclei(facts: Sequence[Fact]) -> Answer:
    """Answer: what changed in the nuclei, DNA and nuclear RNA included."""
    found = [fact for fact in facts if fact.claim.compartment == "nuclei"][:MAX_FACTS]
    if not found:
        return Answer("No significant change in the nuclei.", [], "no change")
    return Answer(describe_facts(found), found, "change")


def ask_missing_channel(stain: str, facts: Sequence[Fact]) -> Answer:
    """Answer: what changed in this stain, of which there is no image."""
    return Answer(f"{stain} was not imaged.", [], "not imaged")


def ask_blank_well(facts: Sequence[Fact]) -> Answer:
    """Answer: anything about a well of which there is no image."""
    return Answer(NOTHING_IMAGED, [], "not imaged")


def ask_direction(slot: Slot, facts: Sequence[Fact]) -> Answer:
    """Answer: is it larger or smaller (brighter or dimmer, ...)."""
    for fact in facts:
        if fact.claim.slot == slot:
            return Answer(describe_facts([fact]), [fact], fact.direction)
    return Answer("Neither: no significant change.", [], "no change")


def ask_strongest_channel(facts: Sequence[Fact]) -> Answer:
    """Answer: which channel changed most. Geometry and pairs of stains are no channel."""
    single = [fact for fact in facts if fact.channel and "/" not in fact.channel]
    if not single:
        return Answer("No channel changed significantly.", [], "no change")
    strongest = single[0]  # they are by rank
    return Answer(describe_facts([strongest]), [strongest], strongest.channel)


def ask_different(facts: Sequence[Fact]) -> Answer:
    """Answer: is this well different from the controls."""
    if not facts:
        return Answer(f"No. {NO_CHANGE}", [], "no")
    return Answer(f"Yes. {describe_facts(facts[:1])}", list(facts[:1]), "yes")


def questions(
    imaged: Sequence[str], missing: Sequence[str]
) -> dict[str, Callable[[Sequence[Fact]], Answer]]:
    """Return the questions that models learn about a well, each with what answers it.

    Parameters
    ----------
    imaged, missing : sequence of str
        The stains with and without an image.

    Returns
    -------
    dict
        Question to a function of the well's facts (all, by rank).
    """
    if not imaged:
        return dict.fromkeys(questions(missing, []), ask_blank_well)
    asked: dict[str, Callable[[Sequence[Fact]], Answer]] = {
        "What changed in this well? Answer in sentences.": partial(describe, style="sentences"),
        "List what changed in this well.": partial(describe, style="list"),
        "Is this well different from the controls?": ask_different,
        "Which channel changed most?": ask_strongest_channel,
    }
    for stain in imaged:
        asked[f"What changed in {stain}?"] = partial(ask_channel, stain)
    for stain in missing:
        asked[f"What changed in {stain}?"] = partial(ask_missing_channel, stain)
    for slot in FACT_SLOTS:
        lacking = [stain for stain in needed_stains(slot) if stain not in imaged]
        if not lacking:
            asked[direction_question(slot)] = partial(ask_direction, slot)
        elif lacking[0] in missing and lacking[0] in CHANNELS:
            asked[direction_question(slot)] = partial(ask_missing_channel, lacking[0])
    return asked


def answers(imaged: Sequence[str]) -> dict[str, Callable[[Sequence[Fact]], Answer]]:
    """Return the questions that a description answers: what models learn, and about nuclei.

    Parameters
    ----------
    imaged : sequence of str
        The stains with an image, at least one.
    """
    more = {DESCRIBE: describe} | ({NUCLEI: ask_nuclei} if "DNA" in imaged else {})
    return questions(imaged, []) | more


def answer_from(description: str, question: str, imaged: Sequence[str]) -> str:
    """Answer a question from what a description claims.

    Parameters
    ----------
    description : str
        A model's, the strongest changes first.
    question : str
        One of `answers(imaged)`.
    imaged : sequence of str
        The stains with an image.
    """
    claimed = [
        Fact(*said.claim, effect=math.nan, q_value=math.nan, strength=said.strength, feature="")
        for said in read_claims(description)
    ]
    return answers(imaged)[question](claimed).text


def direction_question(slot: Slot, direction: str | None = None) -> str:
    """Ask how a slot changed: "Are the nuclei larger or smaller?"; of one direction: "larger?"."""
    name = subject(slot)
    verb, shown = ("Are", f"the {name.lower()}") if name in ("Nuclei", "Cells") else ("Is", name)
    if slot.property == "count":
        shown = "the cell count"
    directions = [direction] if direction else ["increased", "decreased"]
    changes = " or ".join(CHANGES[slot.property, one] for one in directions)
    return f"{verb} {shown} {changes}?"
