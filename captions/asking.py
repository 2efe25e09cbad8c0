"""What a question means: rules that stand between a user and a model.

A model learned the questions of `captions.questions` and no others. A question that means one of
them is asked in its words; what needs no model (a stain without an image, "how sure are you?") is
answered by rule; what cannot be understood is refused in one line.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from captions.descriptions import CHANGES, parse_description
from captions.questions import DESCRIBE, NOTHING_IMAGED, direction_question, questions
from captions.slots import FACT_SLOTS, Claim, Slot, needed_stains
from data.channels import STAINS
from data.errors import InputError

MAX_QUESTION = 500
"""Characters of the longest question."""

HOW_SURE = "How sure are you?"
"""The question that is answered from the probabilities of a description's claims."""


@dataclass(frozen=True)
class Asked:
    """A question as it goes to the model.

    Attributes
    ----------
    question : str
        In words that the model learned, where it means one of its questions; else as it was asked.
    answer : str or None
        Given by rule: then the model is not asked.
    claim : Claim or None
        What a yes or no is wanted on ("is the nucleus larger?").
    """

    question: str
    answer: str | None = None
    claim: Claim | None = None

    def reply(self, answer: str) -> str:
        """Turn the model's answer into one to the question: with a yes or a no, where asked for."""
        if self.claim is None:
            return answer
        return f"{'Yes' if self.claim in parse_description(answer) else 'No'}. {answer}"


_DYES = {
    "hoechst": "DNA", "dapi": "DNA", "chromatin": "DNA", "concanavalin": "ER", "endoplasmic": "ER",
    "syto": "RNA", "syto14": "RNA", "nucleoli": "RNA", "nucleolus": "RNA", "phalloidin": "AGP",
    "wga": "AGP", "golgi": "AGP", "mitochondria": "Mito", "mitochondrial": "Mito",
    "mitochondrion": "Mito", "mitotracker": "Mito", "microtubules": "Tubulin",
    "brightfield": "Brightfield",
}  # fmt: skip
"""What stains are also called, by what they show or by their dye."""

_STAIN_OF = {stain.lower(): stain for stain in STAINS} | _DYES
_NAMED = re.compile(r"\b(?:in|[Ii]s)\s+(?:the\s+)?([A-Z][\w-]+)(?=\s+(?:stain|channel)|\?|$)")
_OTHER_STAINS = ("GFP", "YFP", "CFP", "RFP", "mCherry", "LysoTracker", "lysosomes", "BODIPY", "Cy5")

_NUCLEUS, _CELL = {"nucleus", "nuclei", "nuclear"}, {"cell", "cells"}

# Words for changes besides those that descriptions use, by (property, direction).
_SYNONYMS = {
    ("size", "increased"): "bigger large big grow grows grown enlarged swollen",
    ("size", "decreased"): "small shrink shrinks shrunken shrunk",
    ("size", ""): "size area",
    ("shape", "increased"): "round circular",
    ("shape", "decreased"): "irregular elongated lobed",
    ("shape", ""): "shape outline",
    ("intensity", "increased"): "bright stronger",
    ("intensity", "decreased"): "dim weaker darker fainter",
    ("intensity", ""): "intensity brightness",
    ("distribution", "increased"): "peripheral edge",
    ("distribution", "decreased"): "central perinuclear",
    ("distribution", ""): "distribution distributed location",
    ("texture", "increased"): "granular grainy fragmented grainier",
    ("texture", "decreased"): "smooth",
    ("texture", ""): "texture granularity",
    ("correlation", "increased"): "overlapping",
    ("correlation", ""): "overlap colocalise colocalize colocalisation colocalization correlated",
    ("count", "increased"): "rise rises proliferate multiply",
    ("count", "decreased"): "fall falls drop drops fewer die dying died lost loss",
    ("count", ""): "count number many toxic toxicity",
}
_MEANING: dict[str, tuple[str, str]] = {
    word: change for change, words in _SYNONYMS.items() for word in words.split()
} | {words.split()[-1]: change for change, words in CHANGES.items() if " " not in words}

_YES_OR_NO = {"is", "are", "was", "were", "do", "does", "did", "has", "have"}
_UNCERTAIN = {"sure", "certain", "confident", "confidence"}


def understand(question: str, imaged: Sequence[str]) -> Asked:
    """Find out what a question means.

    Parameters
    ----------
    question : str
    imaged : sequence of str
        The stains that the well was imaged in.

    Raises
    ------
    InputError
        When the question is empty, longer than `MAX_QUESTION`, or not English.
    """
    text = " ".join(question.split())
    if not text:
        raise InputError(f"the question is empty: write one, such as {DESCRIBE!r}")
    if len(text) > MAX_QUESTION:
        raise InputError(
            f"the question has {len(text)} characters, more than {MAX_QUESTION}: ask one thing at "
            "a time"
        )
    if not imaged:
        return Asked(text, NOTHING_IMAGED)
    learned = {_plain(known): known for known in [DESCRIBE, *questions(imaged, [])]}
    if _plain(text) in learned:
        return Asked(learned[_plain(text)])
    words = re.findall(r"[^\W\d_]+\d*", text.lower())
    stains = list(dict.fromkeys(_STAIN_OF[word] for word in words if word in _STAIN_OF))
    missing = [stain for stain in stains if stain not in imaged] or _unknown_stains(text)
    if missing:
        return Asked(text, _not_imaged(missing))
    if _UNCERTAIN & set(words):
        return Asked(HOW_SURE)
    asked = _reword(text, words, stains, imaged)
    if asked is None:
        shown = text if len(text) <= 60 else f"{text[:57]}..."
        raise InputError(
            f"the question {shown!r} is not understood: ask in English what changed in the well or "
            f"in a stain, such as {DESCRIBE!r} or 'Are the nuclei larger?'"
        )
    return asked


def _plain(text: str) -> str:
    return text.lower().rstrip("?.! ")


def _unknown_stains(text: str) -> list[str]:
    """Names, written as names are, that stand where a stain would and are none."""
    known = [name for name in _OTHER_STAINS if re.search(rf"\b{name}\b", text, re.IGNORECASE)]
    return known or [match[1] for match in _NAMED.finditer(text)]


def _not_imaged(missing: Sequence[str]) -> str:
    return f"{' and '.join(missing)} {'was' if len(missing) == 1 else 'were'} not imaged."


def _reword(
    text: str, words: Sequence[str], stains: Sequence[str], imaged: Sequence[str]
) -> Asked | None:
    """Ask in the words that the model learned; None where they say nothing of the kind."""
    said = set(words)
    meant = [_MEANING[word] for word in words if word in _MEANING]
    for property_, direction in sorted(meant, key=lambda change: not change[1]):
        slot = _slot_meant(property_, said, stains)
        if slot is not None:
            lacking = [stain for stain in needed_stains(slot) if stain not in imaged]
            if lacking:
                return Asked(text, _not_imaged(lacking))
            wants_yes = direction and words[0] in _YES_OR_NO and "or" not in said
            claim = Claim(*slot, direction) if wants_yes else None
            return Asked(direction_question(slot), claim=claim)
    if len(stains) == 1:
        return Asked(f"What changed in {stains[0]}?")
    if stains:
        return None
    if "which" in said and {"channel", "stain"} & said:
        return Asked("Which channel changed most?")
    if {"different", "differ"} & said:
        return Asked("Is this well different from the controls?")
    if {"describe", "happened", "changed", "changes", "phenotype", "normal"} & said:
        return Asked(DESCRIBE)
    return None


def _slot_meant(property_: str, said: set[str], stains: Sequence[str]) -> Slot | None:
    in_nucleus = bool(said & _NUCLEUS)
    if property_ == "count":
        slot = Slot("cells", "", "count")
        return slot if said & {*_CELL, "toxic", "toxicity"} and not stains else None
    if property_ in ("size", "shape"):
        objects = "nuclei" if in_nucleus else "cells"
        return Slot(objects, "", property_) if in_nucleus or said & _CELL else None
    if property_ == "correlation":
        pair = "/".join(sorted(stains, key=STAINS.index))
        return next((s for s in FACT_SLOTS if s == ("cells", pair, property_)), None)
    if len(stains) != 1:
        return None
    places = ("nuclei", "cells") if in_nucleus or stains[0] == "DNA" else ("cells",)
    slots = (Slot(place, stains[0], property_) for place in places)
    return next((slot for slot in slots if slot in FACT_SLOTS), None)
