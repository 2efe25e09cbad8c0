"""Claim scores, checked against counting by hand."""

import math

import evaluate
import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from captions.descriptions import describe_facts
from captions.facts import FACT_SLOTS, Claim, Fact, Slot
from eval.claims import (
    SCORES,
    majority_claims,
    score_abstention,
    score_by,
    score_calibration,
    score_claims,
    score_false_claims,
    score_intervals,
    score_silence,
    score_strength,
)

UP, DOWN = "increased", "decreased"


def claim(channel: str, direction: str, property_: str = "intensity") -> Claim:
    return Claim("cells", channel, property_, direction)


any_claims = st.sets(
    st.builds(
        lambda s, d: Claim(*s, d), st.sampled_from(FACT_SLOTS[5:14]), st.sampled_from([UP, DOWN])
    )
)
any_truth = any_claims.map(lambda claims: set({c.slot: c for c in claims}.values()))


def test_scores_counted_by_hand():
    predicted = [{claim("Mito", UP), claim("ER", DOWN)}, {claim("RNA", UP)}, set()]
    measured = [{claim("Mito", UP), claim("ER", UP), claim("AGP", UP)}, set(), {claim("RNA", UP)}]
    scores = score_claims(predicted, measured)
    assert scores == pytest.approx(
        {"precision": 1 / 3, "recall": 1 / 4, "f1": 2 / 7, "direction_accuracy": 1 / 2}
    )


def test_both_directions_of_a_slot_are_one_wrong_claim():
    scores = score_claims([{claim("Mito", UP), claim("Mito", DOWN)}], [{claim("Mito", UP)}])
    assert scores == dict.fromkeys(SCORES, 0.0)
    both = [{claim("Mito", UP), claim("Mito", DOWN), claim("ER", UP)}]
    assert score_claims(both, [{claim("Mito", UP), claim("ER", UP)}])["precision"] == 0.5


def test_recall_counts_what_was_to_be_said():
    measured = [{claim("Mito", UP), claim("ER", UP)}]
    scores = score_claims([{claim("Mito", UP)}], measured, to_say=[{claim("Mito", UP)}])
    assert scores["recall"] == scores["precision"] == 1.0
    scores = score_claims([{claim("ER", UP)}], measured, to_say=[{claim("Mito", UP)}])
    assert (scores["precision"], scores["recall"]) == (1.0, 0.0)


def test_saying_nothing_earns_nothing():
    assert score_claims([set()], [{claim("Mito", UP)}]) == dict.fromkeys(SCORES, 0.0)
    assert score_claims([], []) == dict.fromkeys(SCORES, 0.0)


@given(st.lists(any_truth, min_size=1))
def test_the_truth_scores_one_and_its_opposite_zero(measured):
    flip = {UP: DOWN, DOWN: UP}
    flipped = [{Claim(*c.slot, flip[c.direction]) for c in claims} for claims in measured]
    full = float(any(measured))
    assert score_claims(measured, measured) == dict.fromkeys(SCORES, full)
    assert score_claims(flipped, measured) == dict.fromkeys(SCORES, 0.0)


@given(st.lists(st.tuples(any_claims, any_truth), min_size=1))
def test_scores_agree_with_a_plain_loop_and_ignore_the_order(pairs):
    right = said = true = changed = 0
    for claims, truth in pairs:
        for slot in {c.slot for c in claims}:
            mine = {c for c in claims if c.slot == slot}
            said += 1
            right += len(mine) == 1 and mine <= truth
            changed += any(c.slot == slot for c in truth)
        true += len(truth)
    scores = score_claims([p for p, _ in pairs], [t for _, t in pairs])
    assert scores["precision"] == pytest.approx(right / said if said else 0)
    assert scores["recall"] == pytest.approx(right / true if true else 0)
    assert scores["f1"] == pytest.approx(2 * right / (said + true) if right else 0)
    assert scores["direction_accuracy"] == pytest.approx(right / changed if changed else 0)
    assert score_claims([p for p, _ in pairs[::-1]], [t for _, t in pairs[::-1]]) == scores


def test_abstention():
    said = [set(), {claim("ER", UP)}, set(), {claim("ER", UP)}]
    assert score_abstention(said, [False, False, False, True]) == {
        "inactive_unchanged": pytest.approx(2 / 3),
        "active_changed": 1.0,
    }
    assert math.isnan(score_abstention(said, np.ones(4, bool))["inactive_unchanged"])


def test_intervals_hold_the_score_and_follow_reagents():
    rng = np.random.default_rng(0)
    truth = [{claim("Mito", UP)}] * 60
    said = [{claim("Mito", UP if rng.random() < 0.7 else DOWN)} for _ in truth]
    score = score_claims(said, truth)["precision"]
    alone = score_intervals(said, truth, [str(i) for i in range(60)])
    low, high = alone["precision"]
    assert low < score < high
    order = sorted(
        range(60), key=lambda i: str(said[i])
    )  # alike wells in one reagent: less is known
    grouped = score_intervals([said[i] for i in order], truth, [str(i // 10) for i in range(60)])[
        "precision"
    ]
    assert grouped[1] - grouped[0] > high - low
    assert score_intervals(said, truth, ["one"] * 60)["precision"] == (score, score)
    assert alone == score_intervals(said, truth, [str(i) for i in range(60)])


def test_breakdown_by_channel_and_property():
    predicted = [{claim("Mito", UP), claim("Mito", UP, "texture"), claim("ER", DOWN)}]
    measured = [{claim("Mito", UP), claim("ER", UP), claim("AGP", UP, "texture")}]
    by_channel = score_by("channel", predicted, measured)
    assert list(by_channel.index) == ["AGP", "ER", "Mito"]
    assert by_channel.loc["Mito", "precision"] == 0.5
    assert by_channel.loc["ER", "direction_accuracy"] == 0.0
    assert by_channel["n_predicted"].tolist() == [0, 1, 2]
    assert by_channel["n_measured"].tolist() == [1, 1, 1]
    by_property = score_by("property", predicted, measured)
    assert by_property["recall"].to_dict() == {"intensity": 0.5, "texture": 0.0}
    assert score_by("channel", [set()], [set()]).empty


def test_majority_says_what_pays_on_training_wells():
    a, b, c = claim("Mito", UP), claim("ER", DOWN), claim("AGP", UP)
    training = [{a, b}, {a, b}, {a}, {c}, {claim("Mito", DOWN)}]
    assert majority_claims(training) == {a, b}
    assert majority_claims([set(), set()]) == set()


@given(st.lists(any_truth, min_size=1, max_size=12))
def test_majority_is_never_beaten_by_its_most_frequent_claim_alone(training):
    said = majority_claims(training)
    best = score_claims([said] * len(training), training)["f1"]
    for one in {c for claims in training for c in claims}:
        assert best >= score_claims([{one}] * len(training), training)["f1"] - 1e-12


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="predicted 1, measured 2"):
        score_claims([set()], [set(), set()])
    with pytest.raises(ValueError, match="predicted 1, active 2"):
        score_abstention([set()], [True, False])


def test_the_metric_module_loads_offline_and_agrees(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_EVALUATE_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    metric = evaluate.load(str(ROOT / "eval" / "metrics" / "claims"))
    facts = [
        Fact("cells", "Mito", "intensity", UP, 9.0, 0.0, "strongly", "f"),
        Fact("nuclei", "", "size", UP, 5.0, 0.0, "clearly", "f"),
    ]
    references = [describe_facts(facts), describe_facts([])]
    assert metric.compute(predictions=references, references=references)["f1"] == 1.0
    said = ["Mito: dimmer. Nuclei: clearly larger.", "garbage"]
    sure = [{claim("Mito", DOWN): 0.9, Claim("nuclei", "", "size", UP): 0.8}, {}]
    scores = metric.compute(
        predictions=said, references=references, reagents=["a", "b"], confidences=sure
    )
    assert {name: scores[name] for name in SCORES} == pytest.approx(dict.fromkeys(SCORES, 0.5))
    assert scores["strength_agreement"] == scores["abstention_recall"] == 1.0
    assert scores["by_channel"]["Mito"]["precision"] == 0.0
    assert scores["by_property"]["size"]["recall"] == 1.0
    assert set(scores["intervals"]) == set(SCORES)
    # Two claims in two bins, .9 sure and wrong, .8 sure and right.
    assert scores["calibration"]["expected_calibration_error"] == pytest.approx(0.55)


def test_the_wording_metric_loads_offline(monkeypatch, tmp_path):
    pytest.importorskip("sacrebleu")
    pytest.importorskip("rouge_score")
    monkeypatch.setenv("HF_EVALUATE_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    metric = evaluate.load(str(ROOT / "eval" / "metrics" / "wording"))
    texts = ["Mito: clearly dimmer.", "Nuclei: larger."]
    same = metric.compute(predictions=texts, references=texts)
    assert same == pytest.approx({"chrf": 1.0, "rouge1": 1.0, "rouge2": 1.0, "rougeL": 1.0})
    # The opposite, in nearly the same words: what these scores are blind for.
    other = metric.compute(
        predictions=["Mito: clearly brighter.", "Nuclei: smaller."], references=texts
    )
    assert 0.3 < other["rouge1"] < 1
    assert 0.3 < other["chrf"] < 1


def test_strength_counts_right_claims_only():
    said = [{claim("Mito", UP): "clearly", claim("ER", UP): "strongly"}, {claim("RNA", UP): "x"}]
    true = [{claim("Mito", UP): "clearly", claim("ER", UP): "slightly"}, {}]
    assert score_strength(said, true) == {"strength_agreement": 0.5}
    low, high = score_strength(said * 9, true * 9, [str(i) for i in range(18)])["interval"]
    assert low == high == 0.5
    assert score_strength([{}], [{}]) == {"strength_agreement": 0.0}


def test_silence_is_scored_against_the_measurement():
    a = {claim("ER", UP)}
    assert score_silence([set(), set(), a, a], [set(), a, set(), a]) == {
        "abstention_precision": 0.5,
        "abstention_recall": 0.5,
        "claims_an_unchanged_well": 0.5,
    }
    assert math.isnan(score_silence([a], [a])["abstention_precision"])


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1))
def test_calibration_agrees_with_a_plain_loop(claims):
    found = score_calibration([c for c, _ in claims], [r for _, r in claims], bins=4)
    error = 0.0
    for b in range(4):
        own = [(c, r) for c, r in claims if min(int(c * 4), 3) == b]
        if own:
            sure = sum(c for c, _ in own) / len(own)
            error += len(own) / len(claims) * abs(sum(r for _, r in own) / len(own) - sure)
    assert found["expected_calibration_error"] == pytest.approx(error)
    assert sum(b["n"] for b in found["reliability"]) == found["n"] == len(claims)


def test_calibration_without_claims():
    assert math.isnan(score_calibration([], [])["expected_calibration_error"])
    assert score_calibration([float("nan")], [True])["n"] == 0


def test_false_claims_are_invented_weak_or_the_wrong_way_round():
    slot = Slot("cells", "Mito", "intensity")
    up, down = Claim(*slot, "increased"), Claim(*slot, "decreased")
    predicted = [{up}, {up}, {down}, {up}, {up}, {down}]
    measured = [{up}, set(), set(), set(), set(), {up}]
    effects = [{slot: e} for e in (6.0, 2.9, -2.0, 0.5, float("nan"), 4.0)]
    found = score_false_claims(predicted, measured, effects)
    assert found["n"] == 4  # one was right, one was never measured
    assert found["same_direction"] == 3 / 4
    assert found["weak"] == 2 / 4
    assert found["median_effect"] == (0.5 + 2.0) / 2
    nothing = score_false_claims([{up}], [{up}], [{slot: 5.0}])
    assert nothing["n"] == 0
    assert np.isnan(nothing["weak"])
