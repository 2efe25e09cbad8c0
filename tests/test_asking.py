"""What questions mean, and what is answered or refused without asking a model."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captions.asking import HOW_SURE, MAX_QUESTION, understand
from captions.questions import DESCRIBE, NOTHING_IMAGED, direction_question, questions
from captions.slots import FACT_SLOTS, Claim, Slot
from data.channels import CHANNELS, STAINS
from data.errors import InputError


@pytest.mark.parametrize("question", [DESCRIBE, *questions(CHANNELS, [])])
def test_questions_that_models_learn_are_asked_as_they_are(question):
    for asked in (question, question.lower().rstrip("?."), f"  {question} "):
        found = understand(asked, CHANNELS)
        assert (found.question, found.answer, found.claim) == (question, None, None)


@pytest.mark.parametrize(
    ("asked", "question"),
    [
        ("how sure are you?", HOW_SURE),
        ("Describe this well", DESCRIBE),
        ("Is this well normal?", DESCRIBE),
        ("Which stain changed the most?", "Which channel changed most?"),
        ("Did the golgi scatter?", "What changed in AGP?"),
        ("Is the ER dimmer or brighter?", "Is ER brighter or dimmer?"),
        ("How do ER and RNA overlap?", "Is ER/RNA more overlapping or less overlapping?"),
        ("Is it toxic?", "Is the cell count higher or lower?"),
        ("Was hat sich in Mito ver\u00e4ndert?", "What changed in Mito?"),
    ],
)
def test_other_words_for_a_learned_question(asked, question):
    found = understand(asked, CHANNELS)
    assert (found.question, found.answer, found.claim) == (question, None, None)


UP, DOWN = "increased", "decreased"


@pytest.mark.parametrize(
    ("asked", "claim"),
    [
        ("Is the nucleus larger?", Claim("nuclei", "", "size", UP)),
        ("Does cell number fall?", Claim("cells", "", "count", DOWN)),
        ("Do the cells die?", Claim("cells", "", "count", DOWN)),
        ("Are the mitochondria fragmented?", Claim("cells", "Mito", "texture", UP)),
        ("Is nuclear RNA dimmer?", Claim("nuclei", "RNA", "intensity", DOWN)),
        ("Has Hoechst become brighter?", Claim("nuclei", "DNA", "intensity", UP)),
    ],
)
def test_yes_or_no_is_read_from_what_the_model_says(asked, claim):
    found = understand(asked, CHANNELS)
    assert found.claim == claim
    assert found.question == direction_question(claim.slot)
    assert found.reply("Neither: no significant change.").startswith("No. Neither")
    larger = understand("Is the nucleus larger?", CHANNELS)
    assert larger.reply("Nuclei: larger.") == "Yes. Nuclei: larger."
    assert larger.reply("Nuclei: smaller.") == "No. Nuclei: smaller."


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("What changed in Tubulin?", "Tubulin was not imaged."),
        ("Are the microtubules dimmer?", "Tubulin was not imaged."),
        ("Do Mito and Actin overlap?", "Actin was not imaged."),
        ("Are Tubulin and Actin brighter?", "Tubulin and Actin were not imaged."),
        ("What changed in GFP?", "GFP was not imaged."),
        ("Is lysotracker brighter?", "LysoTracker was not imaged."),
        ("What changed in the Zebra channel?", "Zebra was not imaged."),
    ],
)
def test_a_stain_without_an_image_is_answered_by_rule(asked, answer):
    assert understand(asked, CHANNELS).answer == answer


def test_on_a_well_with_one_channel_only_that_is_asked_about():
    assert understand("What changed in DNA?", ["DNA"]).answer is None
    for stain in set(STAINS) - {"DNA"}:
        assert understand(f"What changed in {stain}?", ["DNA"]).answer == f"{stain} was not imaged."


def test_what_is_about_nuclei_needs_dna():
    assert understand("Are the nuclei larger?", ["Mito"]).answer == "DNA was not imaged."
    assert understand("Are the nuclei larger or smaller?", ["AGP"]).answer == "DNA was not imaged."
    assert understand("Is nuclear RNA brighter?", ["RNA"]).answer == "DNA was not imaged."


def test_of_a_well_without_an_image_nothing_is_said():
    assert understand(DESCRIBE, []).answer == NOTHING_IMAGED


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("x" * 10_000, f"10000 characters, more than {MAX_QUESTION}"),
        ("\u00bfQu\u00e9 cambi\u00f3 en este pozo?", "not understood: ask in English"),
        (
            "\u8fd9\u4e2a\u5b54\u91cc\u53d1\u751f\u4e86\u4ec0\u4e48?",
            "not understood: ask in English",
        ),
        ("Why is the sky blue?", "not understood"),
        ("?!", "not understood"),
    ],
)
def test_what_is_no_question_about_a_well_is_one_clear_line(asked, said):
    with pytest.raises(InputError, match=said) as error:
        understand(asked, CHANNELS)
    assert len(str(error.value)) < 250
    assert "\n" not in str(error.value)


@given(st.text(max_size=80), st.sets(st.sampled_from(STAINS), min_size=1))
def test_anything_is_asked_answered_or_refused(text, imaged):
    try:
        asked = understand(text, sorted(imaged))
    except InputError:
        return
    known = {DESCRIBE, HOW_SURE, *questions(sorted(imaged), [])}
    assert asked.answer is not None or asked.question in known


@pytest.mark.parametrize("slot", FACT_SLOTS)
def test_every_direction_can_be_asked_about_where_its_stains_are(slot: Slot):
    assert understand(direction_question(slot), STAINS).question == direction_question(slot)
