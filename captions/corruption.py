"""Wrong descriptions made of right ones, to be preferred less."""

from collections.abc import Sequence

import numpy as np

from captions.descriptions import STRENGTHS, Said, describe_facts, read_claims
from captions.facts import MAX_FACTS
from captions.slots import OPPOSITE, Claim, Slot

CORRUPTIONS = ("flip", "swap", "drop", "add")
"""With the same chance: the other direction; a slot that did not change in place of one that did;
one left out; one that did not change said too, slight and last, as a false claim mostly is."""

MAX_WRONG = 2
"""Facts of a description that are corrupted, at most."""


def corrupt(description: str, slots: Sequence[Slot], seed: int | Sequence[int]) -> str:
    """Make one or two facts of a description wrong.

    Parameters
    ----------
    description : str
        A true one, in the style "by_subject". To one without facts a fact is added.
    slots : sequence of Slot
        What a false fact may be about; more than the description states by `MAX_WRONG`.
    seed : int or sequence of int
        Decides what becomes wrong, and how.

    Returns
    -------
    str
        In the same style, at most `MAX_FACTS` facts; its claims are not those of `description`.
    """
    rng = np.random.default_rng(seed)
    true = read_claims(description)
    stated = {said.claim.slot for said in true}
    unchanged = [slot for slot in slots if slot not in stated]
    rng.shuffle(unchanged)

    def false_fact(strength: str) -> Said:
        direction = sorted(OPPOSITE)[int(rng.integers(len(OPPOSITE)))]
        return Said(Claim(*unchanged.pop(), direction), strength)

    if not true:
        return describe_facts([false_fact(STRENGTHS[0])])
    facts: list[Said] = list(true)
    added: list[Said] = []
    count = min(int(rng.integers(1, MAX_WRONG + 1)), len(true))
    # From the back, so that a dropped fact does not move those that are still to be corrupted.
    for place in sorted(rng.choice(len(true), count, replace=False).tolist(), reverse=True):
        claim, strength = facts[place].claim, facts[place].strength
        kind = CORRUPTIONS[int(rng.integers(len(CORRUPTIONS)))]
        if kind == "add" and len(facts) + len(added) < MAX_FACTS:
            added.append(false_fact(STRENGTHS[0]))
        elif kind == "drop":
            del facts[place]
        elif kind == "flip":
            facts[place] = Said(claim._replace(direction=OPPOSITE[claim.direction]), strength)
        else:  # a swap, or a description that is full
            facts[place] = false_fact(strength)
    return describe_facts([*facts, *added])
