"""What descriptions of several wells have in common, by rule, from their claims alone."""

from collections.abc import Mapping

import numpy as np

from captions.descriptions import NO_CHANGE, Said, describe_facts, read_claims

ALIKE = 0.5
"""Two wells act alike when at least this share of what is claimed of either is claimed of both."""


def overlap(one: str, other: str) -> float:
    """Share of claims (slot and direction) that two descriptions have in common (Jaccard).

    1 where neither claims anything: both are like the controls.
    """
    first, second = ({said.claim for said in read_claims(text)} for text in (one, other))
    return len(first & second) / len(first | second) if first | second else 1.0


def compare(descriptions: Mapping[str, str]) -> str:
    """Compare wells by what is said of them; the words are those of `describe_facts`.

    Of two wells: what both show, what only one does, what goes in opposite directions, and whether
    they act alike. Of more: also which is least like the others, where one is.

    Parameters
    ----------
    descriptions : mapping of well to description
        Two or more.
    """
    names = list(descriptions)
    said = {
        name: {one.claim.slot: one for one in read_claims(descriptions[name])} for name in names
    }
    slots = dict.fromkeys(slot for own in said.values() for slot in own)
    shared: list[Said] = []
    rest: dict[str, list[Said]] = {name: [] for name in names}
    for slot in slots:
        own = {name: said[name][slot] for name in names if slot in said[name]}
        if len(own) == len(names) and len({one.claim for one in own.values()}) == 1:
            shared.append(next(iter(own.values())))
        else:
            for name, one in own.items():
                rest[name].append(one)
    lines = [f"All: {describe_facts(shared, 'list')}" if shared else "All: nothing in common."]
    for name in names:
        if not said[name]:
            lines.append(f"{name}: {NO_CHANGE}")
        elif rest[name]:
            lines.append(f"Only {name}: {describe_facts(rest[name], 'list')}")
    alike = np.array([[overlap(descriptions[a], descriptions[b]) for b in names] for a in names])
    if len(names) == 2:
        verdict = "act alike" if alike[0, 1] >= ALIKE else "do not act alike"
        lines.append(
            f"{names[0]} and {names[1]} {verdict}: {alike[0, 1]:.0%} of claims are shared."
        )
        return "\n".join(lines)
    to_others = (alike.sum(axis=1) - 1) / (len(names) - 1)
    least = np.flatnonzero(to_others == to_others.min())
    if len(least) == 1:
        shown = f"{to_others.min():.0%} of claims shared, on average"
        lines.append(f"Not like the others: {names[least[0]]} ({shown}).")
    else:
        lines.append("None stands out.")
    return "\n".join(lines)
