"""What descriptions of several wells have in common, by rule, from their claims alone."""

from collections.abc import Mapping

import numpy as np

from captions.descriptions import NO_CHANGE, Said, describe_facts, read_claims
from captions.questions import NOTHING_IMAGED

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

    What all show, what only one does or goes in opposite directions, and whether they act alike;
    of more than two also which is least like the others, where one is. A well without an image is
    left out, and said to be.

    Parameters
    ----------
    descriptions : mapping of well to description
        Two or more.
    """
    unseen = [name for name, text in descriptions.items() if text == NOTHING_IMAGED]
    missing = [f"{name}: {NOTHING_IMAGED}" for name in unseen]
    seen = {name: text for name, text in descriptions.items() if name not in unseen}
    if len(seen) < 2:
        return "\n".join([*missing, "There are no two wells to compare."])
    return "\n".join([*missing, *_claims_in_common(seen), *_likeness(seen)])


def _claims_in_common(descriptions: Mapping[str, str]) -> list[str]:
    """What all wells show, and what each does besides."""
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
    if not slots:
        return [f"All: {NO_CHANGE}"]
    lines = [f"All: {describe_facts(shared, 'list')}" if shared else "All: nothing in common."]
    label = "Only {}" if len(names) == 2 else "{} also"  # of three wells, two may share it
    for name in names:
        if not said[name]:
            lines.append(f"{name}: {NO_CHANGE}")
        elif rest[name]:
            lines.append(f"{label.format(name)}: {describe_facts(rest[name], 'list')}")
    return lines


def _likeness(descriptions: Mapping[str, str]) -> list[str]:
    """Whether wells act alike, and which is least like the others."""
    names = list(descriptions)
    alike = np.array([[overlap(descriptions[a], descriptions[b]) for b in names] for a in names])
    if len(names) == 2:
        verdict = "act alike" if alike[0, 1] >= ALIKE else "do not act alike"
        shown = f"{names[0]} and {names[1]} {verdict}: {alike[0, 1]:.0%} of claims are shared."
        return [shown]
    one, other = np.unravel_index(alike.argmin(), alike.shape)
    if alike.min() >= ALIKE:
        verdict = f"All act alike: any two share {alike.min():.0%} of claims or more."
    else:
        shown = f"{names[min(one, other)]} and {names[max(one, other)]}"
        verdict = f"Not all act alike: {shown} share {alike.min():.0%} of claims."
    to_others = (alike.sum(axis=1) - 1) / (len(names) - 1)
    least = np.flatnonzero(to_others == to_others.min())
    if len(least) == 1:
        share = f"{to_others.min():.0%} of claims shared, on average"
        return [verdict, f"Not like the others: {names[least[0]]} ({share})."]
    return [verdict, "None stands out."]
