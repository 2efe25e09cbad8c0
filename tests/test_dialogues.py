"""Wells and facts into descriptions and balanced questions."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captions.descriptions import NO_CHANGE, describe_facts, parse_description
from captions.dialogues import DIALOGUE_COLUMNS, build_dialogues, guess_without_looking
from captions.facts import (
    FACT_COLUMNS,
    FACT_SLOTS,
    MAX_FACTS,
    Claim,
    Fact,
    facts_by_well,
    read_facts,
)
from captions.questions import DESCRIBE, NOTHING_IMAGED, answer_from, describe, questions
from data.channels import CHANNELS
from data.errors import InputError

N_WELLS = 200


@pytest.fixture(scope="module")
def screen() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Wells of two plates and random facts in half of them."""
    rng = np.random.default_rng(0)
    wells = pd.DataFrame(
        {
            "Metadata_Plate": np.repeat(["P1", "P2"], N_WELLS // 2),
            "Metadata_Well": [f"W{i:03d}" for i in range(N_WELLS)],
            "Metadata_split": rng.choice(["train", "test"], N_WELLS, p=[0.7, 0.3]),
            "Metadata_pert_iname": [f"secretol-{i % 30}" for i in range(N_WELLS)],
            "Metadata_gene": [f"HUSH{i % 30}" for i in range(N_WELLS)],
        }
    )
    five = [i for i, s in enumerate(FACT_SLOTS) if s.channel not in ("Tubulin", "Actin")]
    rows = []
    for plate, well in wells.loc[wells.index % 2 == 0, DIALOGUE_COLUMNS[:2]].to_numpy():
        for rank, i in enumerate(rng.choice(five, rng.integers(1, 12), replace=False), start=1):
            direction = rng.choice(["increased", "decreased"])
            effect = (1 if direction == "increased" else -1) * float(20 - rank)
            rows.append(
                (plate, well, *FACT_SLOTS[i], direction, effect, 0.01, "clearly", "f", rank)
            )
    return wells, pd.DataFrame(rows, columns=list(FACT_COLUMNS))


PRESENT = {"P1": CHANNELS, "P2": CHANNELS}


@pytest.fixture(scope="module")
def dialogues(screen) -> pd.DataFrame:
    return build_dialogues(*screen, PRESENT, seed=0, per_well=3)


def test_every_well_is_described_and_the_changed_ones_twice(dialogues, screen):
    assert tuple(dialogues) == DIALOGUE_COLUMNS
    said = dialogues[dialogues["kind"] == "description"]
    times = said.groupby(["Metadata_Plate", "Metadata_Well"]).size()
    assert len(times) == N_WELLS
    measured = facts_by_well(screen[1])
    assert (times == [2 if well in measured else 1 for well in times.index]).all()
    assert (said["question"] == DESCRIBE).all()
    for row in said.itertuples():
        facts = measured.get((row.Metadata_Plate, row.Metadata_Well), [])[:MAX_FACTS]
        assert row.answer == describe_facts(facts)  # strongest first
        assert parse_description(row.answer) == {fact.claim for fact in facts}
    assert (said["answer"] == NO_CHANGE).sum() == N_WELLS / 2


def test_questions_are_about_as_many_as_asked_for(dialogues, screen):
    asked = (dialogues["kind"] == "question").sum()
    assert 2.0 * N_WELLS <= asked <= 3 * N_WELLS
    fewer = build_dialogues(*screen, PRESENT, seed=0, per_well=1)
    assert (fewer["kind"] == "question").sum() <= N_WELLS
    assert (build_dialogues(*screen, PRESENT, seed=0, per_well=0)["kind"] == "description").all()


def test_answers_say_what_the_evidence_says_and_the_evidence_was_measured(dialogues, screen):
    measured = facts_by_well(screen[1])
    for row in dialogues.itertuples():
        evidence = [Fact(**fact) for fact in json.loads(row.evidence)]
        assert parse_description(row.answer) == {fact.claim for fact in evidence}
        mine = measured.get((row.Metadata_Plate, row.Metadata_Well), [])
        assert all(fact in mine for fact in evidence)


def test_no_perturbation_is_named(dialogues, screen):
    text = " ".join(dialogues[["question", "answer", "evidence"]].to_numpy().ravel()).lower()
    assert not re.search("secretol|hush", text)
    assert "metadata" not in text


def kind_of_answer(row) -> str:
    """What a guesser would have to guess, read from the texts alone."""
    if row.question == "Which channel changed most?":
        evidence = json.loads(row.evidence)
        return evidence[0]["channel"] if evidence else "none"
    if " or " in row.question:
        return next((claim.direction for claim in parse_description(row.answer)), "neither")
    return "something" if parse_description(row.answer) else "nothing"


def test_a_question_tells_nothing_about_its_answer(dialogues):
    asked = dialogues[
        (dialogues["kind"] == "question") & ~dialogues["answer"].str.contains("not imaged")
    ]
    kinds = pd.Series([kind_of_answer(row) for row in asked.itertuples()], asked.index)
    counts = asked.groupby(["Metadata_split", "question", kinds]).size()
    per_question = counts.groupby(level=[0, 1])
    assert (per_question.size() > 1).all()
    assert (per_question.max() == per_question.min()).all()
    assert len(per_question) > 40


def test_no_question_can_be_answered_without_looking(dialogues):
    guessed = guess_without_looking(dialogues)
    about_images = guessed[guessed["kinds"] > 1]
    assert len(about_images) > 30
    assert (about_images["accuracy"] <= about_images["chance"] + 1e-9).all()
    assert not about_images["answerable"].any()
    # What was never imaged can be answered so, and is told apart.
    alike = guessed[guessed["kinds"] == 1]
    assert alike["answerable"].all()
    assert set(dialogues.loc[dialogues["question"].isin(alike.index), "answer_kind"]) <= {
        "not imaged"
    }


def test_a_question_that_tells_its_answer_is_found():
    def rows(split: str, question: str, kinds: dict[str, int]) -> pd.DataFrame:
        answers = [kind for kind, n in kinds.items() for _ in range(n)]
        common = {"Metadata_split": split, "kind": "question", "question": question}
        return pd.DataFrame({**common, "answer_kind": answers})

    table = pd.concat(
        [
            rows("train", "told", {"yes": 9, "no": 3}),
            rows("test", "told", {"yes": 19, "no": 1}),
            rows("train", "asked", {"yes": 9, "no": 3}),
            rows("test", "asked", {"yes": 10, "no": 10}),
        ]
    )
    guessed = guess_without_looking(table)
    assert guessed["answerable"].to_dict() == {"told": True, "asked": False}
    assert guessed.loc["told", "accuracy"] == 0.95
    assert guessed.loc["asked", "chance"] == 0.5


def test_a_missing_stain_was_not_imaged(screen):
    table = build_dialogues(
        *screen, {"P1": CHANNELS, "P2": ("DNA", "RNA", "AGP")}, seed=1, per_well=3
    )
    asked = table[table["question"] == "What changed in Mito?"]
    missing = asked["answer"] == "Mito was not imaged."
    assert set(asked.loc[missing, "Metadata_Plate"]) == {"P2"}
    assert set(asked.loc[~missing, "Metadata_Plate"]) == {"P1"}
    about_tubulin = table[table["question"] == "What changed in Tubulin?"]
    assert len(about_tubulin) > 0
    assert (about_tubulin["answer"] == "Tubulin was not imaged.").all()
    on_p2 = table[(table["Metadata_Plate"] == "P2") & table["question"].str.startswith("Is Mito")]
    assert len(on_p2) > 0
    assert (on_p2["answer"] == "Mito was not imaged.").all()
    assert not table["question"].str.startswith("Is Tubulin").any()


def test_the_same_seed_gives_the_same_table(screen, dialogues):
    pd.testing.assert_frame_equal(build_dialogues(*screen, PRESENT, seed=0, per_well=3), dialogues)
    assert not build_dialogues(*screen, PRESENT, seed=1, per_well=3).equals(dialogues)


def test_answers_by_hand():
    facts = [
        Fact("cells", "AGP/Mito", "correlation", "increased", 12.0, 0.0, "strongly", "f"),
        Fact("cells", "ER", "texture", "decreased", -9.0, 0.0, "strongly", "f"),
        Fact("nuclei", "", "size", "increased", 6.0, 0.0, "clearly", "f"),
    ]
    asked = questions(CHANNELS, ["Actin"])

    def answer(question: str, own: list[Fact]) -> str:
        return asked[question](own).text

    assert answer("Which channel changed most?", facts) == "ER: strongly smoother."
    assert answer("Are the nuclei larger or smaller?", facts) == "Nuclei: clearly larger."
    assert answer("Are the cells larger or smaller?", facts) == "Neither: no significant change."
    assert answer("What changed in Mito?", facts) == "No significant change in Mito."
    assert answer("What changed in Actin?", facts) == "Actin was not imaged."
    assert answer("Is this well different from the controls?", facts) == (
        "Yes. AGP/Mito: strongly more overlapping."
    )
    assert answer("Is this well different from the controls?", []) == f"No. {NO_CHANGE}"
    assert answer("Which channel changed most?", facts[2:]) == "No channel changed significantly."
    assert describe(facts).evidence == facts
    assert {ask([]).text for ask in questions([], CHANNELS).values()} == {NOTHING_IMAGED}
    assert parse_description(describe(facts[2:]).text) == {Claim("nuclei", "", "size", "increased")}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(FACT_SLOTS), st.booleans()), max_size=6))
def test_answers_read_out_of_a_description_are_those_of_its_facts(drawn):
    effects = np.zeros(len(FACT_SLOTS))
    for strength, (slot, up) in enumerate(drawn):
        effects[FACT_SLOTS.index(slot)] = (9.0 - strength) * (1 if up else -1)
    facts = read_facts(effects)
    description = describe(facts).text
    for question, answer in questions(CHANNELS[:5], []).items():
        expected, found = answer(facts), answer_from(description, question, CHANNELS[:5])
        assert parse_description(found) == parse_description(expected.text), question
        if not facts:
            assert found == expected.text


def test_bad_input_is_named(screen):
    wells, facts = screen
    with pytest.raises(InputError, match="plate P2"):
        build_dialogues(wells, facts, {"P1": CHANNELS}, seed=0)
    with pytest.raises(InputError, match="Metadata_split"):
        build_dialogues(wells.drop(columns="Metadata_split"), facts, PRESENT, seed=0)
