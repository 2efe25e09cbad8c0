"""Claims beside measurements, and how sure a model was of them."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captions.descriptions import NO_CHANGE, STYLES, describe_facts
from captions.effects import EFFECT_COLUMNS
from captions.facts import FACT_COLUMNS, FACT_SLOTS, MAX_FACTS, OPPOSITE, Claim, Fact
from captions.slots import Slot
from captions.verification import (
    Measurement,
    claim_confidences,
    measurements,
    not_said,
    report_verdicts,
    verify,
)


def fact(channel: str, property_: str, effect: float) -> Fact:
    direction = "increased" if effect > 0 else "decreased"
    return Fact("cells", channel, property_, direction, effect, 0.001, "clearly", "a_feature")


DIM, GRANULAR, BRIGHT = (
    fact("Mito", "intensity", -6.0),
    fact("Mito", "texture", 5.5),
    fact("ER", "intensity", 5.2),
)
MEASURED = Measurement(
    {slot: 0.0 for slot in FACT_SLOTS if slot.channel not in ("Actin", "Tubulin")}
    | {one.claim.slot: one.effect for one in (DIM, GRANULAR, BRIGHT)},
    [DIM, GRANULAR, BRIGHT],
)


def verdicts(text: str, measured: Measurement | None = MEASURED) -> dict[str, str]:
    return {one.claim: one.verdict for one in verify(text, measured)}


def test_claims_are_supported_contradicted_or_unmeasured():
    assert verdicts("Mito: clearly dimmer, smoother. AGP: brighter. Actin: dimmer.") == {
        "Mito clearly dimmer": "supported",
        "Mito smoother": "contradicted",  # it is more granular
        "AGP brighter": "contradicted",  # it did not change
        "Actin dimmer": "unmeasured",
    }
    supported, opposite, unchanged, unmeasured = verify(
        "Mito: dimmer, smoother. AGP: brighter. Actin: dimmer.", MEASURED
    )
    assert (supported.effect, supported.q_value, supported.feature) == (-6.0, 0.001, "a_feature")
    assert opposite.measured == "Mito clearly more granular"
    assert (unchanged.measured, unchanged.effect) == ("no significant change", 0.0)
    assert (unmeasured.effect, unmeasured.q_value) == (None, None)
    assert set(verdicts("Mito: dimmer. Actin: dimmer.", None).values()) == {"unmeasured"}


@pytest.mark.parametrize(
    ("text", "of_changed", "of_unchanged", "of_nothing"),
    [
        (NO_CHANGE, "contradicted", "supported", "unmeasured"),
        (f"No. {NO_CHANGE}", "contradicted", "supported", "unmeasured"),
        ("No significant change in Mito.", "contradicted", "supported", "unmeasured"),
        ("No significant change in AGP.", "supported", "supported", "unmeasured"),
        ("No significant change in Actin.", "unmeasured", "unmeasured", "unmeasured"),
    ],
)
def test_no_change_is_a_claim_too(text, of_changed, of_unchanged, of_nothing):
    unchanged = Measurement(dict.fromkeys(MEASURED.effects, 0.0), [])
    measured = (MEASURED, unchanged, Measurement({}, []))
    for one, expected in zip(measured, (of_changed, of_unchanged, of_nothing), strict=True):
        assert list(verdicts(text, one).values()) == [expected]


def test_what_makes_no_claim_gets_no_verdict():
    assert verify("Actin was not imaged.", MEASURED) == []
    assert verify("", MEASURED) == verify("Zebra: dimmer.", None) == []


@given(
    st.lists(
        st.tuples(st.sampled_from(FACT_SLOTS), st.booleans()),
        min_size=1,
        unique_by=lambda one: one[0],
    ),
    st.sampled_from(sorted(STYLES)),
)
def test_the_truth_is_supported_and_its_opposite_contradicted(chosen, style):
    def facts(flip: bool) -> list[Fact]:
        return [
            Fact(*slot, list(OPPOSITE)[up != flip], 4.0, 0.01, "slightly", "f")
            for slot, up in chosen
        ]

    measured = Measurement({slot: 4.0 for slot, _ in chosen}, facts(False))
    right = verify(describe_facts(facts(False), style), measured)
    wrong = verify(describe_facts(facts(True), style), measured)
    told = chosen[:1] if style == "one_line" else chosen
    assert [one.verdict for one in right] == ["supported"] * len(told)
    assert [one.verdict for one in wrong] == ["contradicted"] * len(told)
    left = facts(False)[len(told) : MAX_FACTS]
    assert not_said(describe_facts(facts(False), style), measured) == left


def test_measurements_come_from_the_tables():
    effects = pd.DataFrame(np.nan, index=[0, 1], columns=list(EFFECT_COLUMNS))
    effects.loc[0, "cells Mito intensity"] = -6.0
    effects.insert(0, "Metadata_Plate", "P")
    effects.insert(1, "Metadata_Well", ["A01", "A02"])
    row = ("P", "A01", "cells", "Mito", "intensity", "decreased", -6.0, 0.001, "clearly", "f", 1)
    found = measurements(pd.DataFrame([row], columns=list(FACT_COLUMNS)), effects)
    assert found["P", "A01"].effects == {Slot("cells", "Mito", "intensity"): -6.0}
    assert [one.direction for one in found["P", "A01"].facts] == ["decreased"]
    assert found["P", "A02"] == Measurement({}, [])


def test_confidence_is_the_mean_probability_of_a_claims_tokens():
    tokens = ["M", "ito", ":", " clearly", " dim", "mer", ".", " ER", ":", " brighter", "."]
    given_ = [0.9, 0.7, 0.0, 0.0, 0.5, 0.3, 0.0, 0.8, 0.0, 0.6, 0.0]
    ends = np.cumsum([len(token) for token in tokens]).tolist()
    sure = claim_confidences("".join(tokens), ends, given_)
    assert sure == {
        Claim("cells", "Mito", "intensity", "decreased"): pytest.approx(0.6),
        Claim("cells", "ER", "intensity", "increased"): pytest.approx(0.7),
    }
    assert claim_confidences(NO_CHANGE, [3, len(NO_CHANGE)], [0.5, 0.7]) == {
        NO_CHANGE: pytest.approx(0.6)
    }
    assert claim_confidences("", [], []) == {}
    (one,) = verify("ER: brighter.", MEASURED, claim_confidences("ER: brighter.", [13], [0.25]))
    assert one.confidence == 0.25


def test_the_report_says_what_was_held_against_what():
    text = "Mito: dimmer. Actin: dimmer."
    report = report_verdicts(text, MEASURED, verify(text, MEASURED))
    assert report.splitlines() == [
        "  supported    Mito dimmer; measured: Mito clearly dimmer (-6.0)",
        "  unmeasured   Actin dimmer; not measured",
        "  not said     Mito clearly more granular; measured (+5.5)",
        "  not said     ER clearly brighter; measured (+5.2)",
    ]
    assert "cannot be checked" in report_verdicts(text, None, verify(text, None))
