"""The dictionary of facts: what each slot means, in a sentence, with the features behind it."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from captions.descriptions import CHANGES, subject
from captions.slots import FACT_SLOTS, OPPOSITE, Slot, feature_slot, feature_vote

COMMAND = "python scripts/write_dictionary.py --profiles CSV"

STRUCTURES = {
    "DNA": "chromatin",
    "ER": "endoplasmic reticulum",
    "RNA": "cytoplasm and nucleoli",
    "AGP": "actin, Golgi and plasma membrane",
    "Mito": "mitochondria",
    "Tubulin": "microtubules",
    "Actin": "actin filaments",
    "Brightfield": "unstained",
}
"""What each stain shows."""

_WHERE = {
    "nuclei": "in the nucleus",
    "cells": "in the whole cell",
    "cytoplasm": "in the cytoplasm",
}
_GEOMETRY = {
    "count": "How many cells a field holds.",
    "size": "How much area the {objects} cover.",
    "shape": "How round and smooth the outline of the {objects} is.",
    "crowding": "How close the neighbours of the {objects} are, and how many touch.",
}
_STAIN = {
    "intensity": "How bright {stain} is {where}.",
    "distribution": "Whether {stain} lies towards the edge or around the middle {where}.",
    "texture": "Whether {stain} looks grainy or smooth {where}, whatever its brightness.",
    "granularity": "How much of {stain} comes in grains of one size {where}.",
}
_READINGS = {
    Slot("cells", "", "count"): "Fewer: cells died, came off or stopped dividing.",
    Slot("nuclei", "", "size"): (
        "Larger: more DNA (blocked division, polyploidy) or flatter cells; smaller: shrinking, as "
        "in dying cells."
    ),
    Slot("nuclei", "", "shape"): (
        "More irregular: lobed, in pieces or dividing; rounder: even, or rounded up."
    ),
    Slot("cells", "", "size"): "Larger: spread out; smaller: shrunken, crowded or rounded up.",
    Slot("cells", "", "shape"): "More irregular: stretched or with arms; rounder: pulled in.",
    Slot("nuclei", "DNA", "intensity"): "Brighter: condensed, or more DNA; dimmer: loosened.",
    Slot("nuclei", "DNA", "distribution"): (
        "More peripheral: at the nucleus' rim; more central: gathered in the middle."
    ),
    Slot("nuclei", "DNA", "texture"): "More granular: clumped chromatin; smoother: evened out.",
    Slot("cells", "ER", "intensity"): "Brighter: a larger or swollen ER, as under ER stress.",
    Slot("cells", "ER", "distribution"): (
        "More central: drawn back around the nucleus; more peripheral: spread to the edge."
    ),
    Slot("cells", "ER", "texture"): "More granular: in vesicles or pieces; smoother: even.",
    Slot("cells", "RNA", "intensity"): "Dimmer: less transcription or fewer ribosomes.",
    Slot("cells", "RNA", "distribution"): (
        "More central: mostly in and around the nucleus; more peripheral: out in the cytoplasm."
    ),
    Slot("cells", "RNA", "texture"): "More granular: in spots; smoother: evenly spread.",
    Slot("cells", "AGP", "intensity"): "Brighter: more filaments, membrane ruffles or Golgi.",
    Slot("cells", "AGP", "distribution"): (
        "More central: drawn together, as a collapsed Golgi; more peripheral: at the cell's edge."
    ),
    Slot("cells", "AGP", "texture"): (
        "More granular: broken fibres or a scattered Golgi; smoother: fibres are lost."
    ),
    Slot("cells", "Mito", "intensity"): (
        "Dimmer: membrane potential or mass is lost; brighter: more of either."
    ),
    Slot("cells", "Mito", "distribution"): (
        "More central: clustered at the nucleus; more peripheral: spread through the cell."
    ),
    Slot("cells", "Mito", "texture"): "More granular: broken into pieces; smoother: a blur.",
    Slot("cells", "Tubulin", "intensity"): "Dimmer: taken apart; brighter: stabilised, bundled.",
    Slot("cells", "Tubulin", "distribution"): (
        "More central: drawn in, as round a spindle; more peripheral: reaching to the edge."
    ),
    Slot("cells", "Tubulin", "texture"): "More granular: in pieces or asters; smoother: diffuse.",
    Slot("cells", "Actin", "intensity"): "Dimmer: filaments are lost; brighter: more of them.",
    Slot("cells", "Actin", "distribution"): (
        "More peripheral: a rim under the membrane; more central: drawn in."
    ),
    Slot("cells", "Actin", "texture"): "More granular: clumps and spots; smoother: fibres lost.",
    Slot("nuclei", "RNA", "intensity"): "Dimmer: nucleoli make less ribosomal RNA.",
    Slot("nuclei", "RNA", "texture"): "Smoother: nucleoli are gone; more granular: they stand out.",
    Slot("cells", "DNA/RNA", "correlation"): "More: RNA gathers in the nucleus.",
    Slot("cells", "ER/RNA", "correlation"): "Less: ribosomes and ER part from each other.",
    Slot("cells", "AGP/Mito", "correlation"): "More: drawn together, as in a shrinking cell.",
}
"""What a change of a fact's slot often means; a reading, never proof of a mechanism."""


def explain(slot: Slot) -> str:
    """Say what a slot measures and, for slots of facts, how a biologist may read it."""
    stains = slot.channel.split("/")
    where = _WHERE[slot.compartment]
    if not slot.channel:
        what = _GEOMETRY[slot.property].format(objects=slot.compartment)
    elif slot.property == "correlation" and len(stains) == 1:
        what = f"Whether the planes of {_named(stains[0])} are alike {where}."
    elif slot.property == "correlation":
        what = f"Whether {' and '.join(map(_named, stains))} lie in the same places {where}."
    else:
        what = _STAIN[slot.property].format(stain=_named(slot.channel), where=where)
    return f"{what} {_READINGS[slot]}" if slot in _READINGS else what


def _named(stain: str) -> str:
    return f"{stain} ({STRUCTURES[stain]})"


def dictionary_page(names: Sequence[str]) -> str:
    """Write the dictionary as Markdown: docs/fact_dictionary.md.

    Parameters
    ----------
    names : sequence of str
        CellProfiler's feature names, CPJUMP1's for the page; counted under their slots.

    Raises
    ------
    InputError
        When a name is not CellProfiler's: then the page would not be whole.
    """
    features: dict[Slot, list[str]] = defaultdict(list)
    others = []
    for name in names:
        slot = feature_slot(name)
        if slot is None:
            others.append(name)
        else:
            features[slot].append(name)
    votes = Counter(vote[0] for vote in map(feature_vote, names) if vote)
    silent = [slot for slot in sorted(features) if slot not in FACT_SLOTS]
    in_facts = sum(len(features[slot]) for slot in FACT_SLOTS)
    return "\n".join(
        [
            "# Every slot in a sentence",
            "",
            f"Written by `{COMMAND}`; do not edit.",
            "[facts.md](facts.md) says how features become facts. Counted are the",
            f"{len(names)} features of CPJUMP1's published profiles: {in_facts} in slots of facts,",
            f"{len(names) - in_facts - len(others)} in other slots, {len(others)} no morphology;",
            f"{votes.total()} have a direction that can be named, and vote.",
            "",
            "## Facts: what descriptions say",
            "",
            "`features` lie in the slot; `votes` decide the fact (those of the cytoplasm count",
            "towards cells, granularity towards texture). A change is a reading, not a proof.",
            "",
            *_table(
                ["compartment", "channel", "property", "said as", "meaning", "features", "votes"],
                (
                    [*slot, _said_as(slot), explain(slot), len(features[slot]), votes[slot]]
                    for slot in FACT_SLOTS
                ),
            ),
            "",
            "## Measured, but not said by themselves",
            "",
            *_table(
                ["compartment", "channel", "property", "meaning", "features", "votes for"],
                (
                    [*slot, explain(slot), len(features[slot]), _votes_for(features[slot])]
                    for slot in silent
                ),
            ),
            "",
            "## Not morphology",
            "",
            "Positions in the field, angles to its axes and object numbers:",
            ", ".join(f"`{name}`" for name in sorted(others)) + ".",
            "",
        ]
    )


def _said_as(slot: Slot) -> str:
    up, down = (CHANGES[slot.property, direction] for direction in OPPOSITE)
    return f"{subject(slot)}: {up} / {down}"


def _votes_for(names: Iterable[str]) -> str:
    spoken = {vote[0] for vote in map(feature_vote, names) if vote}
    return ", ".join(" ".join(filter(None, slot)) for slot in sorted(spoken)) or "nothing"


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(map(str, line))} |" for line in lines]
