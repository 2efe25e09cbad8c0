"""What questions mean, and what is answered or refused without asking a model."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captions.asking import MAX_QUESTION, understand
from captions.questions import (
    DESCRIBE,
    NOTHING_IMAGED,
    NUCLEI,
    answers,
    direction_question,
    questions,
)
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
        ("Describe this well", DESCRIBE),
        ("Is this well normal?", DESCRIBE),
        ("Which stain changed the most?", "Which channel changed most?"),
        ("Did the golgi scatter?", "What changed in AGP?"),
        ("Is the ER dimmer or brighter?", "Is ER brighter or dimmer?"),
        ("How do ER and RNA overlap?", "Is ER/RNA more overlapping or less overlapping?"),
        ("Is it toxic?", "Is the cell count higher or lower?"),
        ("What changed in Nuclei?", NUCLEI),
        ("What changed in Golgi?", "What changed in AGP?"),
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
    assert found.reply("Neither: no significant change.").startswith("No. ")
    larger = understand("Is the nucleus larger?", CHANNELS)
    assert larger.reply("Nuclei: larger.") == "Yes. Nuclei: larger."
    assert larger.reply("Nuclei: smaller.") == "No. Nuclei: smaller."
    unchanged = larger.reply("Neither: no significant change.")
    assert unchanged == "No. Nuclei: no significant change in size."
    assert larger.reply("| Nuclei | larger |\n").startswith("Yes.\n| Nuclei")


PHRASINGS = {
    # what a biologist types: what it is understood as
    "What changed?": DESCRIBE,
    "What do you see?": DESCRIBE,
    "Describe the phenotype.": DESCRIBE,
    "What's wrong with this well?": DESCRIBE,
    "Is this well inactive?": DESCRIBE,
    "Does it look like DMSO, is it similar to the controls?": DESCRIBE,
    "What does the drug do?": DESCRIBE,
    "Are the cells brighter?": DESCRIBE,  # in which stain is not said: all of it
    "What is the strongest change?": f"{DESCRIBE} [one_line]",
    "Describe this well in a paragraph": f"{DESCRIBE} [sentences]",
    "Describe this well by compartment": f"{DESCRIBE} [by_compartment]",
    "Give me a table of all changes": f"{DESCRIBE} [table]",
    "Which channels changed?": f"{DESCRIBE} [by_channel]",
    "Which channels are brighter?": f"{DESCRIBE} [by_channel]",
    "Is this well a hit?": "Is this well different from the controls?",
    "Which organelle is most affected?": "Which channel changed most?",
    "Any effect on mitochondria?": "What changed in Mito?",
    "What changed in ER, in one line?": "What changed in ER? [one_line]",
    "Is Mito dimmer and more granular?": "What changed in Mito?",
    "Is chromatin condensed?": "What changed in DNA?",
    "Are nuclei larger and rounder?": NUCLEI,
    "Are the nuclei brighter?": NUCLEI,
    "Are the nuclei fragmented?": NUCLEI,
    "Are nuclei bigger than in controls?": "Are the nuclei larger?",
    "Do the cells have larger nuclei?": "Are the nuclei larger?",
    "Does the treatment shrink the nuclei?": "Are the nuclei smaller?",
    "Is the cell area lower?": "Are the cells smaller?",
    "Are the cells rounding up?": "Are the cells rounder?",
    "Are there fewer cells?": "Is the cell count lower?",
    "Are there more cells?": "Is the cell count higher?",
    "Is the compound toxic?": "Is the cell count higher or lower?",
    "Is Mito less granular?": "Is Mito smoother?",
    "Is the Mito signal increased?": "Is Mito brighter?",
    "Is there less ER signal?": "Is ER dimmer?",
    "Is ER dimmer, yes or no?": "Is ER dimmer?",
    "Are the nucleoli brighter?": "Is Nuclear RNA brighter?",
    "Is Mito not dimmer?": "Is Mito brighter or dimmer?",  # yes or no to that would mislead
    "How much dimmer is Mito?": "Is Mito brighter or dimmer?",
    "How confident are you?": f"How sure are you? ({DESCRIBE})",
    "How sure are you that Mito is dimmer?": "How sure are you? (Is Mito brighter or dimmer?)",
    "Why do you say the nuclei are larger?": (
        "What is that based on? (Are the nuclei larger or smaller?)"
    ),
}


@pytest.mark.parametrize(("asked", "full"), PHRASINGS.items())
def test_what_biologists_type(asked, full):
    found = understand(asked, CHANNELS)
    assert (found.full, found.answer) == (full, None)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("Are the nuclei larger than the cells?", "several parts at once"),
        ("Are the nuclei and the cells larger?", "several parts at once"),
        ("Are the nuclei larger and Mito dimmer?", "several parts at once"),
        ("Is Mito brighter than ER?", "several parts at once"),
        ("Do Mito and DNA overlap?", "overlap of one of DNA/RNA"),
        ("Is Mito brighter than in the next well?", "not understood"),
        ("Does Mito overlap more?", "overlap of one of DNA/RNA"),
        ("How many cells are there?", "not understood"),
        ("Which channel changed least?", "not understood"),
        ("Which channel did not change?", "not understood"),
        ("What changed in the cytoplasm?", "not understood"),
        ("What changed in Cytoplasm?", "not understood"),
        ("Are cells multinucleated?", "not understood"),
        ("What compound is this?", "not why; --hypotheses"),
        ("What is the mechanism of action?", "not why; --hypotheses"),
        ("Why is Mito dimmer?", "not why; --hypotheses"),
        ("And in ER?", "a question before"),
        ("what about AGP?", "a question before"),
        ("rounder?", "a question before"),
        ("Is it rounder?", "a question before"),
        ("why?", "a question before"),
        ("tell me more", "a question before"),
        ("as a table", "a question before"),
    ],
)
def test_what_would_be_misunderstood_is_refused(asked, said):
    with pytest.raises(InputError, match=said) as error:
        understand(asked, CHANNELS)
    assert len(str(error.value)) < 250


def test_what_was_imaged():
    assert understand("Which channels were imaged?", ["DNA", "ER"]).answer == "Imaged: DNA, ER."


@given(st.sampled_from(FACT_SLOTS), st.sampled_from([UP, DOWN]))
def test_a_whole_question_is_understood_as_itself(slot, direction):
    asked = understand(direction_question(slot, direction), STAINS)
    assert asked.claim == Claim(*slot, direction)
    assert asked.whole == direction_question(slot, direction)


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
    assert understand("What changed in the nuclei?", ["RNA"]).answer == "DNA was not imaged."


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
    assert asked.answer is not None or asked.question in answers(sorted(imaged))


@pytest.mark.parametrize("slot", FACT_SLOTS)
def test_every_direction_can_be_asked_about_where_its_stains_are(slot: Slot):
    assert understand(direction_question(slot), STAINS).question == direction_question(slot)
