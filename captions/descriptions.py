"""Facts into short sentences, and sentences back into claims.

Both directions use one vocabulary: a subject for each slot ("Mito", "Nuclear RNA", "Cell count")
and a change for each property and direction ("dimmer", "more granular").
"""

import re
from collections.abc import Callable, Sequence
from itertools import groupby

from captions.facts import Fact
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


def subject(slot: Slot) -> str:
    """Return what a description calls the subject of a slot: "Nuclei", "Mito", "ER/RNA"."""
    if slot.property == "count":
        return "Cell count"
    if slot == ("nuclei", "RNA", slot.property):
        return "Nuclear RNA"
    return slot.channel or slot.compartment.capitalize()


def describe_facts(facts: Sequence[Fact], style: str = "by_subject") -> str:
    """State facts in a few words each, in their order; those of one subject in a row stand together.

    Parameters
    ----------
    facts : sequence of Fact
        The first `captions.facts.MAX_FACTS` of a well; none gives `NO_CHANGE`.
    style : str
        One of `STYLES`: "by_subject" (`Mito: clearly dimmer, more granular.`), "sentences"
        (`Mito is clearly dimmer and more granular.`) or "list" (`Mito clearly dimmer;
        ...`, a fact at a time).

    Returns
    -------
    str
        `parse_description` of it gives the facts' claims, in every style.
    """
    return STYLES[style](facts) if facts else NO_CHANGE


def _words(fact: Fact) -> str:
    # Two facts of three are slight: that goes without saying.
    strength = "" if fact.strength == STRENGTHS[0] else f"{fact.strength} "
    return strength + CHANGES[fact.property, fact.direction]


def _by_subject(facts: Sequence[Fact]) -> list[tuple[str, list[str]]]:
    """Subjects in the facts' order, each with what is said of it in a row."""
    grouped = groupby(facts, key=lambda fact: subject(fact.claim.slot))
    return [(name, [_words(fact) for fact in own]) for name, own in grouped]


def _describe_by_subject(facts: Sequence[Fact]) -> str:
    return " ".join(f"{name}: {', '.join(words)}." for name, words in _by_subject(facts))


def _describe_in_sentences(facts: Sequence[Fact]) -> str:
    sentences = []
    for name, words in _by_subject(facts):
        verb = "are" if name in ("Nuclei", "Cells") else "is"
        sentences.append(f"{name} {verb} {' and '.join(words)}.")
    return " ".join(sentences)


def _describe_as_list(facts: Sequence[Fact]) -> str:
    return "; ".join(f"{subject(fact.claim.slot)} {_words(fact)}" for fact in facts) + "."


STYLES: dict[str, Callable[[Sequence[Fact]], str]] = {
    "by_subject": _describe_by_subject,
    "sentences": _describe_in_sentences,
    "list": _describe_as_list,
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
_NEGATION = re.compile(r"\b(?:no|not|neither|nor|unchanged)\b")


def parse_description(text: str) -> set[Claim]:
    """Read the claims out of a description; the inverse of `describe_facts`, in every style.

    Robust to anything a model writes: a clause (up to ".", ";" or a line's end) gives claims when
    it has exactly one subject, no negation, and changes that fit the subject. Words that were cut
    off and everything else give none. Never raises.

    Parameters
    ----------
    text : str
        A description or an answer.
    """
    claims = set()
    for clause in re.split(r"[.;\n]", text.lower()):
        subjects = set(_SUBJECTS.findall(clause))
        if len(subjects) != 1 or _NEGATION.search(clause):
            continue
        name = subjects.pop()
        for words in _CHANGES.findall(clause):
            property_, direction = _CHANGE_OF[words]
            if (name, property_) in _SLOT_OF:
                claims.add(Claim(*_SLOT_OF[name, property_], direction))
    return claims
