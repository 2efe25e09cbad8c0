"""Corrupted descriptions: still readable, always wrong, decided by the seed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captions.corruption import CORRUPTIONS, MAX_WRONG, corrupt
from captions.descriptions import NO_CHANGE, STRENGTHS, Said, describe_facts, read_claims
from captions.facts import MAX_FACTS
from captions.slots import FACT_SLOTS, OPPOSITE, Claim

SEEDS = st.integers(0, 2**32 - 1)


@st.composite
def descriptions(draw, least: int = 0) -> str:
    slots = draw(
        st.lists(st.sampled_from(FACT_SLOTS), min_size=least, max_size=MAX_FACTS, unique=True)
    )
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


@pytest.mark.parametrize("kind", CORRUPTIONS)
@given(description=descriptions(least=2), seed=SEEDS)
def test_each_kind_does_what_it_is_called(kind, description, seed):
    true = {one.claim for one in read_claims(description)}
    said = {one.claim for one in read_claims(corrupt(description, FACT_SLOTS, seed, [kind]))}
    missing, false = true - said, said - true
    if kind == "flip":
        assert {claim.slot for claim in false} == {claim.slot for claim in missing}
    elif kind == "drop":
        assert missing and not false
    elif kind == "swap":
        assert len(false) == len(missing)
    else:
        assert len(false) > len(missing) or len(true) == MAX_FACTS  # then it is a swap
    if kind != "flip":
        assert not {claim.slot for claim in false} & {claim.slot for claim in true}


@given(SEEDS)
def test_of_a_quiet_well_something_is_said(seed):
    slots = FACT_SLOTS[3:5]
    (said,) = read_claims(corrupt(NO_CHANGE, slots, seed))
    assert said.claim.slot in slots
    assert said.strength == STRENGTHS[0]


def test_seeds_differ():
    true = "Mito: strongly dimmer. Nuclei: larger."
    assert len({corrupt(true, FACT_SLOTS, (seed, 1)) for seed in range(30)}) > 15
