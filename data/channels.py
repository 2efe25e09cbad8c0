"""The stains that we know, and the one order in which Cell Painting's five channels are kept."""

from collections.abc import Iterable, Mapping

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


def order_channels(stains: Iterable[str]) -> tuple[str, ...]:
    """Return the planes of a plate with these stains: Cell Painting's five, imaged or not, first.

    The five always have the same place; others follow in the order of `STAINS`.
    """
    given = set(stains)
    return (*CHANNELS, *(stain for stain in STAINS[len(CHANNELS) :] if stain in given))


def match_channels(
    found: Mapping[str, str | None], stains: Mapping[str, str] | None, where: str
) -> dict[str, str]:
    """Say which channel of a plate's images shows which stain.

    Parameters
    ----------
    found : mapping
        Each channel's key ("ch5") to the microscope's name for it ("HOECHST 33342") or None.
    stains : mapping or None
        Channel, by key or name, to stain. None takes the channels that are called by their stain.
    where : str
        The images, for error messages.

    Returns
    -------
    dict
        Stain to key.

    Raises
    ------
    InputError
        When a channel is not there, is there twice or shows two stains; without `stains`, when no
        channel is called by its stain.
    """
    called = ", ".join(f"{key} ({name})" if name else key for key, name in found.items())
    if stains is None:
        stains = {stain: stain for stain in STAINS if {stain} & {*found, *found.values()}}
        if not stains:
            raise InputError(
                f"{where}: no channel is called by its stain; found {called}: say which stain each "
                "shows in channels.tsv (columns channel and stain)"
            )
    keys: dict[str, str] = {}
    for channel, stain in stains.items():
        fitting = [key for key, name in found.items() if channel in (key, name)]
        if len(fitting) != 1:
            what = "is there twice" if fitting else "is not there"
            raise InputError(f"{where}: channel {channel!r} ({stain}) {what}; found {called}")
        if fitting[0] in keys.values():
            raise InputError(f"{where}: channel {fitting[0]} is given two stains; found {called}")
        keys[stain] = fitting[0]
    return keys
