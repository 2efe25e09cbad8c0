"""CellProfiler's feature names mapped to slots: what part of a cell a measurement speaks about.

A slot is (compartment, channel, property), for example ("cells", "Mito", "intensity"). Every
morphology feature has one (`feature_slot`). Descriptions speak about the few in `FACT_SLOTS`, each
measured by the features that `feature_vote` lets vote on it.
"""

import builtins
from typing import NamedTuple

from data.channels import CHANNELS, STAINS
from data.errors import InputError


class Slot(NamedTuple):
    """What a measurement speaks about. `channel` is "" for geometry, "ER/RNA" for a pair."""

    compartment: str
    channel: str
    property: str


class Claim(NamedTuple):
    """A slot and the direction in which it is said to have changed."""

    compartment: str
    channel: str
    property: str
    direction: str

    @builtins.property  # a field has the name `property`
    def slot(self) -> Slot:
        """The claim without its direction."""
        return Slot(self.compartment, self.channel, self.property)


OPPOSITE = {"increased": "decreased", "decreased": "increased"}

CORRELATION_PAIRS = ("DNA/RNA", "ER/RNA", "AGP/Mito")
"""Pairs of stains whose overlap descriptions speak about, each in canonical order."""


def _fact_slots() -> tuple[Slot, ...]:
    geometry = [Slot("cells", "", "count")]
    geometry += [Slot(part, "", name) for part in ("nuclei", "cells") for name in ("size", "shape")]
    stains = []
    for stain in (*CHANNELS, "Tubulin", "Actin"):
        # DNA is in the nucleus; what the other stains mark lies mostly around it.
        part = "nuclei" if stain == "DNA" else "cells"
        stains += [Slot(part, stain, name) for name in ("intensity", "distribution", "texture")]
    # RNA also marks nucleoli.
    nucleoli = [Slot("nuclei", "RNA", name) for name in ("intensity", "texture")]
    pairs = [Slot("cells", pair, "correlation") for pair in CORRELATION_PAIRS]
    return (*geometry, *stains, *nucleoli, *pairs)


FACT_SLOTS: tuple[Slot, ...] = _fact_slots()
"""The slots that descriptions speak about, in the fixed order of `measure_effects`' columns."""


def needed_stains(slot: Slot) -> tuple[str, ...]:
    """Return the stains without which a slot cannot be seen: DNA for what is about nuclei."""
    own = tuple(filter(None, slot.channel.split("/")))
    nuclei = slot.compartment == "nuclei" or slot.property == "count"
    return own if not nuclei or "DNA" in own else ("DNA", *own)


_COMPARTMENTS = {"Nuclei": "nuclei", "Cells": "cells", "Cytoplasm": "cytoplasm", "Image": "cells"}
_STAIN_NAMES = {stain: stain for stain in STAINS} | {
    "HighZBF": "Brightfield",
    "LowZBF": "Brightfield",
    "BFHigh": "Brightfield",
    "BFLow": "Brightfield",
}

_SIZE = (
    "Area",
    "BoundingBoxArea",
    "ConvexArea",
    "EquivalentDiameter",
    "FilledArea",
    "MajorAxisLength",
    "MaxFeretDiameter",
    "MaximumRadius",
    "MeanRadius",
    "MedianRadius",
    "MinFeretDiameter",
    "MinorAxisLength",
    "Perimeter",
)
_POSITION_OR_ANGLE = (
    "AngleBetweenNeighbors",
    "BoundingBoxMaximum",
    "BoundingBoxMinimum",
    "Center",
    "FirstClosestObjectNumber",
    "Orientation",
    "SecondClosestObjectNumber",
)
_NOT_MORPHOLOGY = ("Children", "Location", "Number", "ObjectNumber", "Parent")
_STAIN_PROPERTY = {
    "Granularity": "granularity",
    "Intensity": "intensity",
    "RadialDistribution": "distribution",
    "Texture": "texture",
}


def feature_slot(name: str) -> Slot | None:
    """Return the slot of a CellProfiler feature, or None for one that is not morphology.

    None: positions in the field, angles to its axes, object numbers, image-level quality.
    The three brightfield planes share the channel "Brightfield". Neighbourhood features have the
    property "crowding", which no description speaks about.

    Parameters
    ----------
    name : str
        For example "Nuclei_AreaShape_Area" or "Cells_Texture_Contrast_3_00_256_ER" (the stain may
        also come before the numbers, as in JUMP).

    Raises
    ------
    InputError
        When the name is not CellProfiler's or names an unknown stain.
    """
    part, _, rest = name.partition("_")
    group, *details = rest.split("_")
    if part not in _COMPARTMENTS or not details:
        raise InputError(
            f"feature {name!r} is not a CellProfiler feature name: expected"
            f" {'|'.join(_COMPARTMENTS)}_<group>_<measurement>"
        )
    compartment, kind = _COMPARTMENTS[part], details[0]
    if group == "Count":
        return Slot("cells", "", "count")
    if part == "Image" or group in _NOT_MORPHOLOGY or kind in _POSITION_OR_ANGLE:
        return None
    if group == "Neighbors":
        return Slot(compartment, "", "crowding")
    if group == "AreaShape":
        return Slot(compartment, "", "size" if kind in _SIZE else "shape")
    stains = {_STAIN_NAMES[word] for word in details if word in _STAIN_NAMES}
    if not stains:
        raise InputError(f"feature {name!r} names no known stain: expected {', '.join(STAINS)}")
    channel = "/".join(sorted(stains, key=STAINS.index))
    if group == "Correlation":
        return Slot(compartment, channel, "correlation")
    if kind == "MassDisplacement":
        return Slot(compartment, channel, "distribution")
    if group in _STAIN_PROPERTY:
        return Slot(compartment, channel, _STAIN_PROPERTY[group])
    raise InputError(f"feature {name!r} has the unknown group {group!r}")


# The sign with which a measurement votes that its property increased. Only measurements whose
# direction a biologist can name vote; textures that rise merely because a stain got brighter
# (contrast, entropy, variance) do not.
_VOTES: dict[str, dict[str, int]] = {
    "count": {"Nuclei": 1, "Cells": 1},
    "size": dict.fromkeys(_SIZE, 1),
    # Increased: rounder and smoother in outline.
    "shape": {"FormFactor": 1, "Solidity": 1, "Extent": 1, "Eccentricity": -1, "Compactness": -1},
    "intensity": {
        "MeanIntensity": 1,
        "MedianIntensity": 1,
        "LowerQuartileIntensity": 1,
        "UpperQuartileIntensity": 1,
        "IntegratedIntensity": 1,
        "MeanIntensityEdge": 1,
        "IntegratedIntensityEdge": 1,
    },
    # Increased: more of the stain near the edge; the inner rings vote against (see below).
    "distribution": {"FracAtD": 1, "MeanFrac": 1},
    # Increased: more grainy, that is, pixels three and more apart are less alike.
    "texture": {"Correlation": -1, "InfoMeas1": 1, "InfoMeas2": -1},
    "granularity": {"1": 1, "2": 1, "3": 1},
    # Increased: the two stains lie more in the same places.
    "correlation": {"Correlation": 1, "Overlap": 1, "RWC": 1},
}


def feature_vote(name: str) -> tuple[Slot, int] | None:
    """Return the fact slot that a feature votes on and its sign, or None for one without a vote.

    Cytoplasm counts towards cells, and granularity (its three finest steps) towards texture.

    Raises
    ------
    InputError
        As `feature_slot`.
    """
    slot = feature_slot(name)
    if slot is None:
        return None
    words = name.split("_")
    sign = _VOTES.get(slot.property, {}).get(words[2], 0)
    if slot.property == "distribution" and sign:
        ring, rings = next(word for word in words if word[1:3] == "of").split("of")
        sign = 1 if 2 * int(ring) > int(rings) else -1
    spoken = Slot(
        slot.compartment.replace("cytoplasm", "cells"),
        slot.channel,
        slot.property.replace("granularity", "texture"),
    )
    return (spoken, sign) if sign and spoken in FACT_SLOTS else None


REFERENCE_FEATURES = {
    Slot("nuclei", "", "size"): "Nuclei_AreaShape_Area",
    Slot("cells", "", "size"): "Cells_AreaShape_Area",
} | {
    slot: f"{slot.compartment.capitalize()}_Intensity_MeanIntensity_{slot.channel}"
    for slot in FACT_SLOTS
    if slot.property == "intensity"
}
"""The plain measurement that a fact's direction must agree with, where a slot has one."""
