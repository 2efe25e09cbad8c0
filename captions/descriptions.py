"""Facts into short sentences, and sentences back into claims.

Both directions use one vocabulary: a subject for each slot ("Mito", "Nuclear RNA", "Cell count")
and a change for each property and direction ("dimmer", "more granular").
"""

import re
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NamedTuple, Protocol

from captions.slots import FACT_SLOTS, Claim, Slot
from data.channels import STAINS

NO_CHANGE = "No significant change from controls."

STRENGTHS = ("slightly", "clearly", "strongly")

CHANGES = {
    ("count", "increased"): "higher",
    ("count", "decreased"): "lower",
    ("size", "increased"): "larger",
    ("size", "decreased"): "smaller",
    ("shape", "increased"): "rounder",
    ("shape", "decreased"): "more irregular",
    ("intensity", "increased"): "brighter",
    ("intensity", "decreased"): "dimmer",
    ("distribution", "increased"): "more peripheral",
    ("distribution", "decreased"): "more central",
    ("texture", "increased"): "more granular",
    ("texture", "decreased"): "smoother",
    ("correlation", "increased"): "more overlapping",
    ("correlation", "decreased"): "less overlapping",
}
"""The words for a change of a property, by (property, direction)."""


class Said(NamedTuple):
    """A claim as a text states it.

    `strength` is one of `STRENGTHS`; `spans` are the places in the text (start, end) of its
    subject and of its change.
    """

    claim: Claim
    strength: str
    spans: tuple[tuple[int, int], ...] = ()


class Stateable(Protocol):
    """What can be put into words: a measured `captions.facts.Fact`, or a `Said`."""

    @property
    def claim(self) -> Claim:
        """What changed, and in which direction."""

    @property
    def strength(self) -> str:
        """One of `STRENGTHS`."""


def subject(slot: Slot) -> str:
    """Return what a description calls the subject of a slot: "Nuclei", "Mito", "ER/RNA"."""
    if slot.property == "count":
        return "Cell count"
    if slot == ("nuclei", "RNA", slot.property):
        return "Nuclear RNA"
    return slot.channel or slot.compartment.capitalize()


def describe_facts(facts: Sequence[Stateable], style: str = "by_subject") -> str:
    """State facts in a few words each, in their order; one subject's in a row stand together.

    Parameters
    ----------
    facts : sequence of Fact or Said
        The first `captions.facts.MAX_FACTS` of a well; none gives `NO_CHANGE`.
    style : str
        One of `STYLES`. In one line: "by_subject" (`Mito: clearly dimmer, more granular.`, facts
        of one subject together), "sentences" (a paragraph: `Mito is clearly dimmer and more
        granular.`), "list" (`Mito clearly dimmer; ...`, a fact at a time), "one_line" (the first
        fact, and how many more there are). In lines under headings: "by_channel",
        "by_compartment". "table": Markdown, a row a fact.

    Returns
    -------
    str
        `read_claims` of it gives the facts' claims and strengths, in every style; of "one_line"
        those of the first.
    """
    return STYLES[style](facts) if facts else NO_CHANGE


def _words(fact: Stateable) -> str:
    # Two facts of three are slight: that goes without saying.
    strength = "" if fact.strength == STRENGTHS[0] else f"{fact.strength} "
    return strength + CHANGES[fact.claim.property, fact.claim.direction]


def statement(fact: Stateable) -> str:
    """Name a change in a few words: "Mito clearly dimmer"."""
    return f"{subject(fact.claim.slot)} {_words(fact)}"


def _by_subject(facts: Sequence[Stateable]) -> list[tuple[str, list[str]]]:
    """Subjects in the facts' order, each with what is said of it in a row."""
    grouped = groupby(facts, key=lambda fact: subject(fact.claim.slot))
    return [(name, [_words(fact) for fact in own]) for name, own in grouped]


def _describe_by_subject(facts: Sequence[Stateable]) -> str:
    return " ".join(f"{name}: {', '.join(words)}." for name, words in _by_subject(facts))


def _describe_in_sentences(facts: Sequence[Stateable]) -> str:
    sentences = []
    for name, words in _by_subject(facts):
        verb = "are" if name in ("Nuclei", "Cells") else "is"
        sentences.append(f"{name} {verb} {' and '.join(words)}.")
    return " ".join(sentences)


def _describe_as_list(facts: Sequence[Stateable]) -> str:
    return "; ".join(map(statement, facts)) + "."


def _describe_in_one_line(facts: Sequence[Stateable]) -> str:
    more = len(facts) - 1
    count = f" {more} more change{'s' if more > 1 else ''}." if more else ""
    return f"{statement(facts[0])}.{count}"


def _channel_heading(fact: Stateable) -> str:
    channel = fact.claim.channel
    if not channel:
        return "Numbers and outlines"
    return "Pairs of channels" if "/" in channel else f"{channel} channel"


def _compartment_heading(fact: Stateable) -> str:
    return {"nuclei": "Nucleus", "cells": "Whole cell"}[fact.claim.compartment]


def _under_headings(
    heading: Callable[[Stateable], str],
) -> Callable[[Sequence[Stateable]], str]:
    # A heading is a line of its own: it is no part of the claims below it.
    def describe(facts: Sequence[Stateable]) -> str:
        groups: dict[str, list[str]] = {}
        for fact in facts:
            groups.setdefault(heading(fact), []).append(statement(fact))
        return "\n".join(f"{name}\n  {'; '.join(said)}." for name, said in groups.items())

    return describe


def _describe_as_table(facts: Sequence[Stateable]) -> str:
    rows = [f"| {subject(fact.claim.slot)} | {_words(fact)} |" for fact in facts]
    return "\n".join(["| part | change |", "|---|---|", *rows])


STYLES: dict[str, Callable[[Sequence[Stateable]], str]] = {
    "by_subject": _describe_by_subject,
    "sentences": _describe_in_sentences,
    "list": _describe_as_list,
    "one_line": _describe_in_one_line,
    "by_channel": _under_headings(_channel_heading),
    "by_compartment": _under_headings(_compartment_heading),
    "table": _describe_as_table,
}
"""The ways in which a description can be written."""

_SLOT_OF = {(subject(slot).lower(), slot.property): slot for slot in FACT_SLOTS}
_CHANGE_OF = {words: change for change, words in CHANGES.items()}


def _any_of(phrases: Sequence[str]) -> re.Pattern[str]:
    longest_first = sorted(set(phrases), key=len, reverse=True)
    # A slash joins the names of a pair, so "RNA" alone is not read out of an unknown "RNA/Mito".
    return re.compile(rf"(?<![\w/])(?:{'|'.join(map(re.escape, longest_first))})(?![\w/])")


# Stains without a fact slot are subjects too, so that their changes are not given to another one.
_SUBJECTS = _any_of([name for name, _ in _SLOT_OF] + [stain.lower() for stain in STAINS])
_CHANGES = _any_of(list(_CHANGE_OF))
_STRENGTH_BEFORE = re.compile(rf"({'|'.join(STRENGTHS)})\s+$")
_NEGATION = re.compile(r"\b(?:no|not|neither|nor|unchanged)\b")


def parse_description(text: str) -> set[Claim]:
    """Read the claims out of a description; the inverse of `describe_facts`, in every style.

    Parameters
    ----------
    text : str
        A description or an answer, of which anything may be expected (see `read_claims`).
    """
    return {said.claim for said in read_claims(text)}


def read_claims(text: str) -> list[Said]:
    """Read claims with their strengths and places out of a description, in order.

    Robust to anything a model writes: a clause (up to ".", ";" or a line's end) gives claims when
    it has exactly one subject, no negation, and changes that fit the subject. Words that were cut
    off and everything else give none. A claim that is made twice is read once. Never raises.

    Parameters
    ----------
    text : str
        A description or an answer.
    """
    found: dict[Claim, Said] = {}
    # Lower case, a character for each character: places in it are places in the text.
    lower = "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
    for clause in re.finditer(r"[^.;\n]+", lower):
        subjects = {match.group(): match for match in _SUBJECTS.finditer(clause.group())}
        if len(subjects) != 1 or _NEGATION.search(clause.group()):
            continue
        ((name, place),) = subjects.items()
        for match in _CHANGES.finditer(clause.group()):
            property_, direction = _CHANGE_OF[match.group()]
            if (name, property_) not in _SLOT_OF:
                continue
            claim = Claim(*_SLOT_OF[name, property_], direction)
            before = _STRENGTH_BEFORE.search(clause.group()[: match.start()])
            start = clause.start()
            spans = tuple((start + m.start(), start + m.end()) for m in (place, match))
            found.setdefault(claim, Said(claim, before[1] if before else STRENGTHS[0], spans))
    return list(found.values())
