"""What the words of a question name: stains, nuclei or cells, a property and its direction."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from captions.descriptions import CHANGES
from captions.slots import FACT_SLOTS, OPPOSITE, Slot
from data.channels import STAINS


class Topic(NamedTuple):
    """What a question is about.

    Attributes
    ----------
    stains : tuple of str
    place : str
        "nuclei", "cells" or "".
    properties : tuple of str
        Of `captions.slots.Slot`, each once.
    direction : str
        "increased" or "decreased" where one is meant, else "".
    """

    stains: tuple[str, ...] = ()
    place: str = ""
    properties: tuple[str, ...] = ()
    direction: str = ""


NO_TOPIC = Topic()
"""Of a question about the whole well."""

_DYES = {
    "hoechst": "DNA", "dapi": "DNA", "chromatin": "DNA", "concanavalin": "ER", "endoplasmic": "ER",
    "reticulum": "ER", "syto": "RNA", "syto14": "RNA", "nucleoli": "RNA", "nucleolus": "RNA",
    "nucleolar": "RNA", "phalloidin": "AGP", "wga": "AGP", "golgi": "AGP", "membrane": "AGP",
    "membranes": "AGP", "mitochondria": "Mito", "mitochondrial": "Mito", "mitochondrion": "Mito",
    "mitotracker": "Mito", "microtubules": "Tubulin", "brightfield": "Brightfield",
}  # fmt: skip
"""What stains are also called, by what they show or by their dye."""

STAIN_OF = {stain.lower(): stain for stain in STAINS} | _DYES
_NUCLEOLI = {"nucleoli", "nucleolus", "nucleolar"}
_NUCLEI = {"nucleus", "nuclei", "nuclear"}
_CELLS = {"cell", "cells"}
# Nuclei are meant, and cells only say whose.
_NUCLEI_OF_CELLS = re.compile(
    r"\bcells? nucle|\bnucle\w+ (?:of|in) (?:\w+ )?cells?\b"
    r"|\bcells? (?:have|has|show|with)\b.*nucle"
)

# Words for changes besides those that descriptions use, by (property, direction).
_SYNONYMS = {
    ("size", "increased"): "bigger large big grow grows grown growing enlarged swollen",
    ("size", "decreased"): "small shrink shrinks shrunken shrunk shrinking",
    ("size", ""): "size sizes area",
    ("shape", "increased"): "round circular rounding rounded",
    ("shape", "decreased"): "irregular elongated lobed",
    ("shape", ""): "shape shapes outline",
    ("intensity", "increased"): "bright stronger",
    ("intensity", "decreased"): "dim weak weaker dark darker fainter",
    ("intensity", ""): "intensity intensities brightness signal fluorescence staining",
    ("distribution", "increased"): "peripheral edge",
    ("distribution", "decreased"): "central perinuclear",
    ("distribution", ""): "distribution distributed location localisation localization",
    ("texture", "increased"): "granular grainy fragmented grainier",
    ("texture", "decreased"): "smooth",
    ("texture", ""): "texture granularity",
    ("correlation", "increased"): "overlapping",
    ("correlation", ""): "overlap colocalise colocalize colocalisation colocalization correlated",
    ("count", "increased"): "proliferate proliferating multiply",
    ("count", "decreased"): "fewer die dying died death lost loss",
    ("count", ""): "count counts number numbers many toxic toxicity cytotoxic",
}
_GENERAL = {
    "increased": "higher increase increases increased increasing rise rises rising elevated up",
    "decreased": "lower decrease decreases decreased decreasing reduced reduction fall falls "
    "drop drops drop dropped down",
}
_DIRECTION_OF = {word: way for way, words in _GENERAL.items() for word in words.split()}
_CHANGE_OF: dict[str, tuple[str, str]] = {
    word: change for change, words in _SYNONYMS.items() for word in words.split()
} | {
    words.split()[-1]: change
    for change, words in CHANGES.items()
    if not words.startswith("less") and words not in _DIRECTION_OF
}
# The words of "more granular" say no direction of their own; those of "more signal" do.
_COMPARED = {"more": "increased", "less": "decreased", "fewer": "decreased"}
_TOXIC = {"toxic", "toxicity", "cytotoxic"}
_JOINED = {"and", "or"}

FILLERS = {
    "the", "a", "an", "in", "of", "for", "with", "at", "on", "its", "their", "it", "they", "them",
    "channel", "channels", "stain", "stains", "well", "wells", "too", "as", "please", "there",
    "then", "also",
}  # fmt: skip
"""Words that name nothing: all that may stand beside a topic in a question without a verb."""

NAMING = {*STAIN_OF, *_NUCLEI, *_CELLS, *_CHANGE_OF, *_DIRECTION_OF, *_COMPARED, *_JOINED}
"""Words that say what a question is about."""


WELL = re.compile(r"\b(A[A-F]|[A-P])0?([1-9]|[1-3]\d|4[0-8])\b(?:'s)?", re.IGNORECASE)
"""The name of a well: its row, its column."""


def words_of(text: str) -> list[str]:
    """Split a text into its words, in lower case; numbers stay with their word ("syto14")."""
    return re.findall(r"[^\W\d_]+\d*", text.lower())


def read_topic(text: str) -> Topic | None:
    """Read what a question is about; None where it is about several things at once.

    "Are the nuclei larger or smaller?" is about one thing, "Are the nuclei and the ER larger?"
    is not; two stains are the pair whose overlap is meant.

    Parameters
    ----------
    text : str
    """
    words = words_of(text)
    said = set(words)
    stains = tuple(dict.fromkeys(STAIN_OF[word] for word in words if word in STAIN_OF))
    in_nuclei, in_cells = bool(said & (_NUCLEI | _NUCLEOLI)), bool(said & _CELLS)
    properties, directions = _changes(words)
    if in_nuclei and in_cells and not _NUCLEI_OF_CELLS.search(text.lower()):
        return None
    place = "nuclei" if in_nuclei else "cells" if in_cells or said & _TOXIC else ""
    if stains and place and (_names_two(words) or len(properties) > 1):
        return None
    direction = next(iter(directions)) if len(directions) == 1 else ""
    return Topic(stains, place, properties, direction)


def _changes(words: Sequence[str]) -> tuple[tuple[str, ...], set[str]]:
    """The properties that words name, and the directions that they give."""
    changes, directions = [], set()
    for before, word, after in zip(["", *words], words, [*words[1:], ""], strict=False):
        if word in _CHANGE_OF:
            property_, direction = _CHANGE_OF[word]
            changes.append(property_)
            if direction:
                directions.add(OPPOSITE[direction] if before == "less" else direction)
        elif word in _DIRECTION_OF:
            directions.add(_DIRECTION_OF[word])
        elif word in _COMPARED and after in _CELLS:  # "more cells"
            changes.append("count")
            directions.add(_COMPARED[word])
        elif word in _COMPARED and not _CHANGE_OF.get(after, ("", ""))[1]:
            directions.add(_COMPARED[word])
    return tuple(dict.fromkeys(changes)), directions


def _names_two(words: Iterable[str]) -> bool:
    """Whether "and" or "or" stands between two parts of a cell."""
    kept = [word for word in words if word not in FILLERS]
    parts = {*STAIN_OF, *_NUCLEI, *_CELLS}
    triples = zip(kept, kept[1:], kept[2:], strict=False)
    return any(one in parts and by in _JOINED and two in parts for one, by, two in triples)


def slot_of(topic: Topic) -> Slot | None:
    """Return the one slot that a topic names; None where it names none, or more than one."""
    stains, place = topic.stains, topic.place
    if len(topic.properties) != 1:
        return None
    (property_,) = topic.properties
    if property_ == "count":
        return Slot("cells", "", "count") if place and not stains else None
    if property_ in ("size", "shape"):
        return Slot(place, "", property_) if place else None
    if property_ == "correlation":
        pair = "/".join(sorted(stains, key=STAINS.index))
        return next((s for s in FACT_SLOTS if s == ("cells", pair, property_)), None)
    if len(stains) != 1:
        return None
    places = ("nuclei", "cells") if place == "nuclei" or stains[0] == "DNA" else ("cells",)
    slots = (Slot(where, stains[0], property_) for where in places)
    return next((slot for slot in slots if slot in FACT_SLOTS), None)


def continued(before: Topic, new: Topic) -> Topic:
    """Return the topic of a question that says only what is different from the one before.

    A new part keeps the property ("Is Mito dimmer?" - "And ER?"), a new property keeps the part
    ("Are the nuclei larger?" - "Rounder?"). Where the new part has no such property, all that
    changed in it is meant.
    """
    names_part = bool(new.stains or new.place)
    if names_part and not new.properties:
        direction = new.direction or before.direction
        topic = new._replace(properties=before.properties, direction=direction)
        fits = slot_of(topic) is not None or "correlation" in topic.properties
        return topic if fits else new
    if not names_part:
        properties = new.properties or before.properties
        kept = new.direction or ("" if new.properties else before.direction)
        return before._replace(properties=properties, direction=kept)
    return new
