"""Facts into words and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captions.descriptions import (
    CHANGES,
    NO_CHANGE,
    STYLES,
    describe_facts,
    parse_description,
    read_claims,
    subject,
)
from captions.facts import FACT_SLOTS, MAX_FACTS, Claim, Fact, claims_of

DIRECTIONS = ("increased", "decreased")

any_fact = st.builds(
    lambda slot, direction, strength: Fact(*slot, direction, 4.0, 0.01, strength, "feature"),
    st.sampled_from(FACT_SLOTS),
    st.sampled_from(DIRECTIONS),
    st.sampled_from(["slightly", "clearly", "strongly"]),
)
# A well has at most one fact a slot.
any_facts = st.lists(any_fact, max_size=len(FACT_SLOTS), unique_by=lambda fact: fact.claim.slot)


def fact(*claim: str, strength: str = "clearly") -> Fact:
    return Fact(*claim, effect=5.5, q_value=0.001, strength=strength, feature="f")


@given(any_facts, st.sampled_from(sorted(STYLES)))
def test_every_style_parses_back(facts, style):
    text = describe_facts(facts, style)
    facts = facts[:1] if style == "one_line" else facts
    assert parse_description(text) == claims_of(facts)
    said = read_claims(text)
    assert {one.claim: one.strength for one in said} == {f.claim: f.strength for f in facts}
    for one in said:
        name, words = (text[start:end] for start, end in one.spans)
        assert name == subject(one.claim.slot)
        assert words == CHANGES[one.claim.property, one.claim.direction]
    # What was read can be said again, in any style.
    assert parse_description(describe_facts(said, "table")) == claims_of(facts)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("slot", FACT_SLOTS)
def test_every_single_fact_parses_back(slot, direction, style):
    one = fact(*slot, direction)
    assert parse_description(describe_facts([one], style)) == {one.claim}


@given(any_facts, st.sampled_from(sorted(STYLES)), st.data())
def test_a_truncated_description_claims_nothing_new(facts, style, data):
    text = describe_facts(facts, style)
    cut = text[: data.draw(st.integers(0, len(text)))]
    assert parse_description(cut) <= claims_of(facts)


VOCABULARY = st.sampled_from(
    [
        *CHANGES.values(),
        "Mito",
        "Nuclear RNA",
        "RNA",
        "/",
        ".",
        ";",
        ",",
        " ",
        "not",
        "AGP/Mito",
        "\n",
    ]
)


@given(st.one_of(st.text(), st.lists(VOCABULARY).map(" ".join)))
def test_garbage_never_raises_and_gives_known_claims_only(text):
    for claim in parse_description(text):
        assert claim.slot in FACT_SLOTS
        assert claim.direction in DIRECTIONS


def test_the_words_are_these():
    facts = [
        fact("cells", "", "count", "decreased", strength="strongly"),
        fact("cells", "Mito", "intensity", "decreased"),
        fact("nuclei", "", "size", "increased"),
        fact("cells", "Mito", "texture", "increased", strength="slightly"),
        fact("nuclei", "RNA", "texture", "decreased"),
    ]
    assert describe_facts(facts) == (
        "Cell count: strongly lower. Mito: clearly dimmer. Nuclei: clearly larger."
        " Mito: more granular. Nuclear RNA: clearly smoother."
    )
    assert describe_facts(facts, "sentences") == (
        "Cell count is strongly lower. Mito is clearly dimmer. Nuclei are clearly larger."
        " Mito is more granular. Nuclear RNA is clearly smoother."
    )
    assert describe_facts(facts, "list") == (
        "Cell count strongly lower; Mito clearly dimmer; Nuclei clearly larger;"
        " Mito more granular; Nuclear RNA clearly smoother."
    )
    assert describe_facts(facts, "one_line") == "Cell count strongly lower. 4 more changes."
    assert describe_facts(facts[3:], "one_line") == "Mito more granular. 1 more change."
    assert describe_facts([]) == NO_CHANGE
    assert describe_facts(facts[1:], "by_channel") == (
        "Mito channel\n  Mito clearly dimmer; Mito more granular.\n"
        "Numbers and outlines\n  Nuclei clearly larger.\n"
        "RNA channel\n  Nuclear RNA clearly smoother."
    )
    assert describe_facts(facts[1:3], "by_compartment") == (
        "Whole cell\n  Mito clearly dimmer.\nNucleus\n  Nuclei clearly larger."
    )
    assert describe_facts(facts[1:2], "table") == (
        "| part | change |\n|---|---|\n| Mito | clearly dimmer |"
    )


MITO_DIM = Claim("cells", "Mito", "intensity", "decreased")


@pytest.mark.parametrize(
    ("text", "claims"),
    [
        (NO_CHANGE, set()),
        ("", set()),
        ("mito: DIMMER", {MITO_DIM}),
        ("Yes. Mito: clearly dimmer.", {MITO_DIM}),
        ("Mito: dimmer, dimmer, dimmer", {MITO_DIM}),
        ("Mito: larger.", set()),  # a stain has no size
        ("Mito and ER are dimmer.", set()),  # which of the two?
        ("Mito is not dimmer.", set()),
        ("RNA/Mito: dimmer.", set()),  # no such pair
        ("dimmer.", set()),
        ("Mito: dimmermost.", set()),
        ("Mito: dimmer, brighter.", {MITO_DIM, Claim("cells", "Mito", "intensity", "increased")}),
        ("Brightfield: dimmer. Mito: dimmer.", {MITO_DIM}),
    ],
)
def test_parsing_what_models_write(text, claims):
    assert parse_description(text) == claims


def test_words_for_opposite_directions_differ_and_are_unique():
    assert len(set(CHANGES.values())) == len(CHANGES) == 14


@given(st.lists(any_fact, min_size=MAX_FACTS, max_size=MAX_FACTS, unique_by=lambda f: f.claim.slot))
def test_six_facts_stay_short(facts):
    for style in ("by_subject", "sentences", "list"):  # those that models learn
        assert len(describe_facts(facts, style).split()) <= 34


def test_an_unknown_style_is_an_error():
    with pytest.raises(KeyError):
        describe_facts([fact("cells", "", "size", "increased")], "haiku")
