"""Reading lessons: answers say their own readout, and nothing else decides them."""

import numpy as np
import pytest

import captions.lessons
from captions.descriptions import NO_CHANGE, parse_description
from captions.facts import FACT_SLOTS, MAX_FACTS, claims_of, read_facts
from captions.lessons import TOLD_EFFECT, draw_lessons
from captions.questions import DESCRIBE, NOTHING_IMAGED
from captions.slots import needed_stains
from data.channels import CHANNELS

IMAGED_SLOTS = [set(slot.channel.split("/")) <= {"", *CHANNELS} for slot in FACT_SLOTS]


@pytest.fixture(scope="module")
def readouts():
    rng = np.random.default_rng(0)
    changes = rng.normal(size=(40, len(FACT_SLOTS))) * (rng.random((40, 1)) < 0.3)
    return np.where(IMAGED_SLOTS, changes, 0.0)


@pytest.fixture(scope="module")
def lessons(readouts):
    return draw_lessons(readouts, [CHANNELS] * len(readouts), count=400, seed=0)


def test_a_description_says_the_readout_beside_it(lessons):
    table, drawn = lessons
    for row in np.flatnonzero(table["question"] == DESCRIBE):
        facts = read_facts(2 * np.sinh(drawn[row]), TOLD_EFFECT)
        assert parse_description(table["answer"][row]) == claims_of(facts[:MAX_FACTS])


def test_what_was_never_measured_stays_silent(lessons):
    _, drawn = lessons
    assert (drawn[:, ~np.array(IMAGED_SLOTS)] == 0).all()


def test_without_a_stain_nothing_is_said_of_it(lessons):
    table, drawn = lessons
    for row in np.flatnonzero(table["imaged"].map(len) < len(CHANNELS)):
        imaged = set(table["imaged"][row])
        for i, slot in enumerate(FACT_SLOTS):
            if not imaged or not set(needed_stains(slot)) <= imaged:
                assert drawn[row, i] == 0
        for claim in parse_description(table["answer"][row]):
            assert set(filter(None, claim.channel.split("/"))) <= imaged
        if not imaged:
            assert table["answer"][row] == NOTHING_IMAGED
    assert 0.05 < (table["imaged"].map(len) < len(CHANNELS)).mean() < 0.2
    assert table["answer"].str.contains("was not imaged").any()


def test_wells_are_put_together_anew(readouts, lessons):
    table, drawn = lessons
    own = np.sign(readouts[table["well"]]) == np.sign(drawn)
    assert not own.all(axis=1).all()
    assert table["answer"].nunique() > len(readouts)


def test_most_lessons_describe_and_some_ask(lessons):
    share = (lessons[0]["question"] == DESCRIBE).mean()
    assert 0.8 < share < 0.97


def test_silence_is_no_change_where_there_is_an_image(lessons):
    table, drawn = lessons
    silent = (drawn == 0).all(axis=1) & (table["question"] == DESCRIBE)
    imaged = table["imaged"].map(len) > 0
    assert (silent & imaged).mean() > 0.1
    assert (table["answer"][silent & imaged] == NO_CHANGE).all()
    assert (table["answer"][silent & ~imaged] == NOTHING_IMAGED).all()
    # Whispers, too, are no change: not all controls silence them.
    quiet = (np.abs(2 * np.sinh(drawn)) < TOLD_EFFECT).all(axis=1) & ~silent
    assert quiet.mean() > 0.05


def test_kinds_of_answers_to_a_question_are_balanced(readouts, monkeypatch):
    monkeypatch.setattr(captions.lessons, "QUESTION_SHARE", 0.7)
    table, _ = draw_lessons(readouts, [CHANNELS] * len(readouts), count=1200, seed=1)
    asked = table[table["question"] == "Is this well different from the controls?"]
    assert len(asked) > 10
    assert 0.2 < asked["answer"].str.startswith("Yes").mean() < 0.8


def test_the_seed_decides(readouts, lessons):
    again, drawn = draw_lessons(readouts, [CHANNELS] * len(readouts), count=400, seed=0)
    assert again.equals(lessons[0])
    assert (drawn == lessons[1]).all()
    assert not draw_lessons(readouts, [CHANNELS] * 40, count=400, seed=1)[0].equals(again)


def test_effects_are_read_as_facts_from_three_on():
    effects = np.full(len(FACT_SLOTS), np.nan)
    effects[:4] = (-3.2, 2.9, 9.0, -5.5)
    facts = read_facts(effects)
    assert [fact.claim.slot for fact in facts] == [FACT_SLOTS[i] for i in (0, 2, 3)]  # count first
    assert [fact.direction for fact in facts] == ["decreased", "increased", "decreased"]
    assert [fact.strength for fact in facts] == ["slightly", "strongly", "clearly"]
