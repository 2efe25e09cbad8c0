"""Corrupted descriptions: still readable, always wrong, decided by the seed."""

from hypothesis import given
from hypothesis import strategies as st

from captions.corruption import MAX_WRONG, corrupt
from captions.descriptions import NO_CHANGE, STRENGTHS, Said, describe_facts, read_claims
from captions.facts import MAX_FACTS
from captions.slots import FACT_SLOTS, OPPOSITE, Claim

SEEDS = st.integers(0, 2**32 - 1)


@st.composite
def descriptions(draw) -> str:
    slots = draw(st.lists(st.sampled_from(FACT_SLOTS), max_size=MAX_FACTS, unique=True))
    facts = [
        Said(
            Claim(*slot, draw(st.sampled_from(sorted(OPPOSITE)))), draw(st.sampled_from(STRENGTHS))
        )
        for slot in slots
    ]
    return describe_facts(facts)


@given(descriptions(), SEEDS)
def test_it_is_a_description_of_something_else(description, seed):
    wrong = corrupt(description, FACT_SLOTS, seed)
    said, true = read_claims(wrong), read_claims(description)
    assert wrong == describe_facts(said)  # it parses, and nothing in it is not read
    assert {one.claim for one in said} != {one.claim for one in true}
    assert len({one.claim.slot for one in said}) == len(said) <= MAX_FACTS
    kept = {one.claim for one in said} & {one.claim for one in true}
    assert len(kept) >= len(true) - MAX_WRONG
    assert corrupt(description, FACT_SLOTS, seed) == wrong


def test_facts_are_flipped_swapped_dropped_and_added():
    description = "Mito: strongly dimmer, smoother. Nuclei: larger."
    true = {one.claim for one in read_claims(description)}
    seen = set()
    for seed in range(100):
        said = {one.claim for one in read_claims(corrupt(description, FACT_SLOTS, seed))}
        missing, false = true - said, said - true
        if len(missing) < 2 and len(false) < 2:
            same_slot = {claim.slot for claim in missing} == {claim.slot for claim in false}
            seen.add((len(missing), len(false), same_slot))
    assert seen == {(1, 1, True), (1, 1, False), (1, 0, False), (0, 1, False)}


@given(SEEDS)
def test_of_a_quiet_well_something_is_said(seed):
    slots = FACT_SLOTS[3:5]
    (said,) = read_claims(corrupt(NO_CHANGE, slots, seed))
    assert said.claim.slot in slots
    assert said.strength == STRENGTHS[0]


def test_seeds_differ():
    true = "Mito: strongly dimmer. Nuclei: larger."
    assert len({corrupt(true, FACT_SLOTS, (seed, 1)) for seed in range(30)}) > 15
