"""Talks: each line is understood by what was asked and said before it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_descriptions import any_facts

from captions.answers import Reply, Seen
from captions.descriptions import NO_CHANGE, STYLES, describe_facts, parse_description, read_claims
from captions.follow_ups import COMPARE, Talk, Turn, follow
from data.channels import CHANNELS
from data.errors import InputError


def seen(text: str, imaged=CHANNELS) -> Seen:
    sure = {said.claim: 0.9 for said in read_claims(text)} or {NO_CHANGE: 0.97}
    return Seen(imaged, text, sure)


C05 = seen("Nuclei: strongly larger. RNA: brighter. Mito: dimmer, more granular. ER: smoother.")
WELLS = {"C05": C05, "D07": seen(NO_CHANGE), "E09": seen("Mito: dimmer.", ["DNA", "Mito"])}


def talk_through(lines: list[str], wells: dict[str, Seen]) -> list[Turn | str]:
    """Turns; for a line that is refused, why."""
    talk, turns = Talk(), []
    for line in lines:
        try:
            turn, talk = follow(talk, line, wells)
            turns.append(turn)
        except InputError as error:
            turns.append(str(error))
    return turns


def last_said(lines: list[str]) -> tuple[str, str]:
    """What the last line was understood as, and what was answered about C05."""
    turn = talk_through(lines, {"C05": C05})[-1]
    assert isinstance(turn, Turn), turn
    return turn.question.removesuffix(" (C05)"), turn.replies["C05"].text


ALL = "C05 D07 E09"
MITO, LARGER = "What changed in Mito?", "Are the nuclei larger?"


@pytest.mark.parametrize(
    ("lines", "question", "answer"),
    [
        ([MITO, "And in ER?"], "What changed in ER?", "ER: smoother."),
        ([MITO, "what about AGP?"], "What changed in AGP?", "No significant change in AGP."),
        ([MITO, "nuclei?"], "What changed in the nuclei?", "Nuclei: strongly larger."),
        ([MITO, "and the weather?", "ER?"], "What changed in ER?", "ER: smoother."),
        ([MITO, "And Actin?"], "What changed in Actin?", "Actin was not imaged."),
        ([MITO, "dimmer?"], "Is Mito dimmer?", "Yes. Mito: dimmer."),
        ([MITO, "is it smoother?"], "Is Mito smoother?", "No. Mito: more granular."),
        (["Is Mito dimmer?", "and RNA?"], "Is RNA dimmer?", "No. RNA: brighter."),
        (["Is Mito dimmer?", "and Actin?", "and RNA?"], "Is RNA dimmer?", "No. RNA: brighter."),
        ([MITO, "and texture?"], "Is Mito more granular or smoother?", "Mito: more granular."),
        (
            [LARGER, "and the cells?"],
            "Are the cells larger?",
            "No. Cells: no significant change in size.",
        ),
        (
            [LARGER, "and the cells?", "rounder?"],
            "Are the cells rounder?",
            "No. Cells: no significant change in shape.",
        ),
        ([LARGER, "and Mito?"], "What changed in Mito?", "Mito: dimmer, more granular."),
        (
            [LARGER, "and Mito?", "and the nuclei?"],  # larger is forgotten: a stain has no size
            "What changed in the nuclei?",
            "Nuclei: strongly larger.",
        ),
        (
            ["Do ER and RNA overlap?", "and DNA and RNA?"],
            "Is DNA/RNA more overlapping or less overlapping?",
            "Neither: no significant change.",
        ),
        ([MITO, "so, is ER smoother?"], "Is ER smoother?", "Yes. ER: smoother."),
        ([LARGER, "as a table"], f"Say it again. ({LARGER}) [table]", None),
        ([MITO, "shorter"], f"Say it again. ({MITO}) [one_line]", "Mito dimmer. 1 more change."),
        (
            [MITO, "say it in sentences"],
            f"Say it again. ({MITO}) [sentences]",
            "Mito is dimmer and more granular.",
        ),
    ],
)
def test_a_follow_up_is_a_whole_question(lines, question, answer):
    understood, said = last_said(lines)
    assert understood == question
    assert answer is None or said == answer


def test_how_sure_and_why_are_about_the_last_answer():
    assert last_said([LARGER, "are you sure?"]) == (
        f"How sure are you? ({LARGER})",
        "Nuclei strongly larger: 0.90",
    )
    whole = f"The whole description: {C05.description}"
    assert last_said([LARGER, "why?"]) == (
        f"What is that based on? ({LARGER})",
        f"Nuclei strongly larger: 0.90. {whole}",
    )
    # They change nothing: both are about the answer before them, and so is what comes then.
    assert last_said([LARGER, "are you sure?", "why?", "and the cells?"])[0] == (
        "Are the cells larger?"
    )
    unsaid = "The description claims no such change, and gives that no probability."
    assert last_said(["What changed in AGP?", "how sure are you?"])[1] == unsaid
    assert last_said(["What changed in Actin?", "how sure are you?"])[1].startswith(
        "Actin was not imaged."
    )
    turn = talk_through([LARGER, "why?"], {"C05": C05})[-1]
    (claim,) = turn.record({}, True)["wells"]["C05"]["claims"]  # and not the whole description's
    assert claim["property"] == "size"
    said = talk_through(["Is it changed?", "how sure are you?"], {"D07": WELLS["D07"]})[-1]
    assert said.replies["D07"].text == "No significant change: 0.97"


def test_more_is_what_was_not_yet_said():
    more = "RNA: brighter. ER: smoother."
    assert last_said([MITO, LARGER, "what else?"]) == ("What else changed?", more)
    done = "That is all that the description says."
    assert last_said([MITO, LARGER, "tell me more", "anything else?"])[1] == done
    assert last_said([MITO, LARGER, "what else?", "as a list"])[1] == "RNA brighter; ER smoother."


def test_without_a_question_before_a_follow_up_is_refused():
    lines = ["And in ER?", "why?", "tell me more", "as a table", "rounder?"]
    for refused in talk_through(lines, {"C05": C05}):
        assert "goes on from a question before, and there was none" in refused
    (refused,) = talk_through(["and D07?"], WELLS)
    assert refused.startswith("'and D07?' goes on from a question before")


@pytest.mark.parametrize(
    ("lines", "question", "wells"),
    [
        ([MITO], MITO, ALL),
        ([MITO, "and D07?"], MITO, "D07"),
        ([MITO, "in d7?", "and ER?"], "What changed in ER?", "D07"),
        (["What changed in C05?", "Mito?", "and the others?"], MITO, "D07 E09"),
        (["What changed in C05?", f"{LARGER[:-1]} in all wells?"], LARGER, ALL),
        ([LARGER, "how sure are you about D07?"], f"How sure are you? ({LARGER})", "D07"),
        (["Is Mito dimmer in C05?", "sure?", "E09?"], "How sure are you? (Is Mito dimmer?)", "E09"),
        (["Mito in C05?", "In which wells are nuclei large?"], f"{LARGER[:-1]} or smaller?", ALL),
        (["compare C05 with D07"], COMPARE, "C05 D07"),
        (["compare C05 with D07", "do they act alike?"], COMPARE, "C05 D07"),
        (["compare C05 with D07", "and E09?"], COMPARE, ALL),
        (["Do these wells act alike?"], COMPARE, ALL),
        (["What changed in C05?", "does it act like E09?"], COMPARE, "C05 E09"),
        (["Are C05 and E09 different?"], COMPARE, "C05 E09"),
        (["What changed in C05?", "which is not like the others?"], COMPARE, ALL),
        (["Compare Mito in C05 and E09"], MITO, "C05 E09"),
        (["Is C05 different from controls?"], "Is this well different from the controls?", "C05"),
    ],
)
def test_wells_are_named_kept_and_compared(lines, question, wells):
    turn = talk_through(lines, WELLS)[-1]
    assert isinstance(turn, Turn), turn
    assert turn.question == f"{question} ({', '.join(wells.split())})"
    assert list(turn.replies) == wells.split()
    assert (turn.comparison is not None) == (question == COMPARE)


def test_what_is_answered_of_several_wells():
    alike, sure = talk_through(["Do C05 and E09 act alike?", "how sure are you?"], WELLS)
    assert alike.comparison.splitlines()[0] == "All: Mito dimmer."
    assert alike.comparison.endswith("C05 and E09 do not act alike: 20% of claims are shared.")
    assert sure.replies["E09"].text == "Mito dimmer: 0.90"
    (er,) = talk_through(["What changed in ER?"], WELLS)
    assert er.replies["E09"].text == "ER was not imaged."


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("What changed in F09?", "F09 is not one of the wells asked about: C05, D07, E09"),
        ("Is Mito dimmer in C05 than in D07?", "not understood"),
        ("Does Mito or ER differ between C05 and D07?", "several parts at once"),
    ],
)
def test_what_is_refused_about_several_wells(line, said):
    (refused,) = talk_through([line], WELLS)
    assert said in refused


@pytest.mark.parametrize("line", ["Do these wells act alike?", "Is this well like the others?"])
def test_one_well_is_not_compared(line):
    (refused,) = talk_through([line], {"C05": C05})
    assert "a comparison takes" in refused
    (refused,) = talk_through(["Which is the odd one out?"], {"C05": C05, "D07": C05})
    assert "a comparison takes 3 wells or more, here 2" in refused


def test_wells_of_several_plates_go_by_both_names():
    wells = {"P1 C05": C05, "P2 C05": C05, "P2 D07": C05}
    both, one = talk_through(["What changed in C05?", "and P2 C05?"], wells)
    assert list(both.replies) == ["P1 C05", "P2 C05"]
    assert list(one.replies) == ["P2 C05"]


LINES = """\
What changed in this well?|What changed in Mito?|And in ER?|what about AGP?|how about the nuclei?
Are the nuclei larger?|and the cells?|rounder?|brighter?|is it dimmer?|and texture?|and the count?
how sure are you?|are you sure about ER?|why?|what is that based on?|tell me more|what else?
as a table|shorter|in one line|by channel|by compartment|say it in sentences|and A01?|A02?|in A03?
compare A01 with A02|do they act alike?|which is not like the others?|and the others?|and all?
Actin?|is Tubulin smoother?|Do ER and RNA overlap?|and DNA and RNA?|Which channel changed most?
does it act like A02?|Is this well different from the controls?|and F09?|the weather?|and|?|sure?
What was imaged?|List what changed in this well.|less?|or|Nuclear RNA?|higher?|not dimmer?
""".replace("\n", "|").split("|")

any_well = st.builds(
    lambda facts, style, imaged: seen(describe_facts(facts[:6], style), sorted(imaged)),
    any_facts,
    st.sampled_from(sorted(STYLES)),
    st.sets(st.sampled_from(CHANNELS)),
)


@settings(max_examples=300)
@given(
    st.lists(any_well, min_size=1, max_size=3),
    st.lists(st.one_of(st.sampled_from(LINES), st.text(max_size=20)), max_size=8),
    st.sampled_from([None, *sorted(STYLES)]),
)
def test_no_turn_breaks_or_claims_what_no_description_does(descriptions, lines, style):
    wells = {f"A{number:02d}": well for number, well in enumerate(descriptions, 1)}
    talk = Talk()
    for line in lines:
        try:
            turn, new = follow(talk, line, wells, style)
        except InputError as error:
            assert "\n" not in str(error)
            continue
        assert (turn, new) == follow(talk, line, wells, style)
        talk = new
        assert turn.replies.keys() <= wells.keys()
        assert turn.question
        for well, reply in turn.replies.items():
            assert isinstance(reply, Reply) and reply.text
            known = parse_description(wells[well].description)
            assert parse_description(reply.text) <= known
            assert {claim for where, claim in talk.told if where == well} <= known
            assert reply.by_rule or wells[well].imaged
            reply.record(None, True)
