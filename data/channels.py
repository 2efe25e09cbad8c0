"""The stains that we know, and the one order in which Cell Painting's five channels are kept."""

from data.errors import InputError

CHANNELS = ("DNA", "ER", "RNA", "AGP", "Mito")
"""Cell Painting's five stains in canonical order: the order of channel planes everywhere."""

STAINS = (*CHANNELS, "Tubulin", "Actin", "Brightfield")
"""Every stain the model has an embedding for; the index is the stain's number."""


def stain_index(name: str) -> int:
    """Return the number of a stain in `STAINS`.

    Raises
    ------
    InputError
        When the stain is not in the vocabulary.
    """
    if name not in STAINS:
        raise InputError(f"unknown stain {name!r}: expected one of {', '.join(STAINS)}")
    return STAINS.index(name)
