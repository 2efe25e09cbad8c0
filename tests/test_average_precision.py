"""AP, chance, p and q against plain definitions and against copairs."""

import itertools

import copairs.map as cmap
import numpy as np
import pandas as pd
import pytest
from copairs.map.normalization import expected_ap
from helpers_eval import simulate_profiles
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import InputError
from eval.average_precision import (
    average_precision,
    correct_p_values,
    expected_average_precision,
    null_average_precision,
    p_values,
    score_labels,
    score_pairs,
    unit_rows,
)


def plain_average_precision(similarity: np.ndarray, positive: np.ndarray) -> float:
    """AP by its definition: sort (positives first among equals), average precision at hits."""
    ranked = sorted(zip(-similarity, ~positive, strict=True))
    hits = [not is_negative for _, is_negative in ranked]
    precisions = [sum(hits[: k + 1]) / (k + 1) for k in range(len(hits)) if hits[k]]
    return float(np.mean(precisions))


@st.composite
def rankings(draw):
    n = draw(st.integers(2, 40))
    n_pos = draw(st.integers(1, n - 1))
    # few different values, so that ties between positives and negatives are common
    levels = draw(st.lists(st.integers(0, 6), min_size=n, max_size=n))
    order = draw(st.permutations(range(n)))
    positive = np.zeros(n, dtype=bool)
    positive[list(order[:n_pos])] = True
    return np.array(levels) / 8, positive


@given(st.lists(rankings(), min_size=1, max_size=4))
@settings(max_examples=150, deadline=None)
def test_ap_is_that_of_the_sorted_list(cases):
    width = max(len(similarity) for similarity, _ in cases)
    similarity = np.zeros((len(cases), width))
    positive, negative = np.zeros((2, len(cases), width), dtype=bool)
    for row, (values, hits) in enumerate(cases):
        similarity[row, : len(values)] = values
        positive[row, : len(values)] = hits
        negative[row, : len(values)] = ~hits
    query, item = np.nonzero(positive)
    scores = score_pairs(similarity, negative, query, item, np.zeros(len(query), dtype=int))
    expected = [plain_average_precision(*case) for case in cases]
    np.testing.assert_allclose(scores["average_precision"], expected, atol=1e-12)
    assert scores["n_pos"].tolist() == [hits.sum() for _, hits in cases]
    assert scores["n_total"].tolist() == [len(hits) for _, hits in cases]


def test_a_single_positive_scores_one_over_its_rank():
    similarity = np.array([[0.9, 0.5, 0.1]])
    for item, ap in enumerate([1, 1 / 2, 1 / 3]):
        negative = np.ones((1, 3), dtype=bool)
        negative[0, item] = False
        scores = score_pairs(similarity, negative, np.array([0]), np.array([item]), np.array(["x"]))
        assert scores["average_precision"].item() == pytest.approx(ap)


def test_queries_without_negatives_are_no_rankings():
    scores = score_pairs(
        np.ones((1, 2)), np.zeros((1, 2), bool), np.array([0]), np.array([1]), np.array(["x"])
    )
    assert scores.empty


@pytest.mark.parametrize("distance", ["cosine", "abs_cosine"])
def test_ap_equals_copairs_to_1e9(distance):
    wells = simulate_profiles([("compound", "U2OS", 48, 3)], n_targets=20, wells=96, n_features=24)
    meta = wells.filter(like="Metadata_")
    features = wells.filter(like="embedding_").to_numpy()
    theirs = cmap.average_precision(
        meta,
        features,
        pos_sameby=["Metadata_broad_sample"],
        pos_diffby=[],
        neg_sameby=["Metadata_Plate"],
        neg_diffby=["Metadata_broad_sample"],
        distance=distance,
        progress_bar=False,
    )
    unit = unit_rows(features)
    similarity = unit @ unit.T if distance == "cosine" else np.abs(unit @ unit.T)
    reagent, plate = (meta[c].to_numpy() for c in ("Metadata_broad_sample", "Metadata_Plate"))
    same = reagent[:, None] == reagent
    query, item = np.nonzero(same & ~np.eye(len(meta), dtype=bool))
    negative = ~same & (plate[:, None] == plate)
    ours = score_pairs(similarity, negative, query, item, reagent[query])
    for mine, their in (
        ("average_precision", "average_precision"),
        ("normalized_average_precision", "normalized_average_precision"),
        ("n_pos", "n_pos_pairs"),
        ("n_total", "n_total_pairs"),
    ):
        np.testing.assert_allclose(ours[mine], theirs[their], atol=1e-9)


@given(st.integers(1, 60), st.integers(0, 200))
@settings(max_examples=60, deadline=None)
def test_chance_equals_copairs(n_pos, n_neg):
    ours = expected_average_precision(np.array([n_pos]), np.array([n_pos + n_neg]))
    assert ours[0] == pytest.approx(expected_ap(n_pos, n_neg), abs=1e-12)


@pytest.mark.parametrize(("n_pos", "n_total"), [(1, 5), (2, 6), (3, 7), (5, 8)])
def test_the_null_has_the_exact_distribution(n_pos, n_total):
    # one case for each way to draw: single, with repetition, by keys
    subsets = [
        np.mean(np.arange(1, n_pos + 1) / np.array(ranks))
        for ranks in itertools.combinations(range(1, n_total + 1), n_pos)
    ]
    values, counts = np.unique(np.round(subsets, 6), return_counts=True)
    size = 40_000
    null = null_average_precision(n_pos, n_total, size, seed=3)
    drawn, times = np.unique(np.round(null.astype(float), 6), return_counts=True)
    np.testing.assert_allclose(drawn, values, atol=2e-6)
    share = counts / counts.sum()
    spread = np.sqrt(share * (1 - share) / size)
    assert (np.abs(times / size - share) < 5 * spread + 1e-12).all()


def test_p_values_count_strictly_better_rankings():
    size = 999
    best = p_values(np.array([1.0]), np.array([1]), np.array([4]), size, seed=0)
    assert best[0] == 1 / (1 + size)  # nothing beats a perfect ranking, however common
    worst = p_values(np.array([1 / 4]), np.array([1]), np.array([4]), size, seed=0)
    assert worst[0] == pytest.approx(3 / 4, abs=0.05)


@given(st.integers(1, 4), st.integers(1, 6), st.data())
@settings(max_examples=40, deadline=None)
def test_p_values_are_the_share_of_all_rankings_that_do_better(n_pos, n_neg, data):
    every = [
        np.mean(np.arange(1, n_pos + 1) / np.array(ranks))
        for ranks in itertools.combinations(range(1, n_pos + n_neg + 1), n_pos)
    ]
    ap = data.draw(st.sampled_from(every))
    exact = np.mean([other > ap + 1e-9 for other in every])
    size = 4000
    total = np.array([n_pos + n_neg])
    p = p_values(np.array([ap]), np.array([n_pos]), total, size, seed=1)[0]
    assert p == pytest.approx(exact, abs=5 * np.sqrt(exact * (1 - exact) / size) + 2 / size)


def test_p_values_do_not_depend_on_company_or_order():
    ap, n_pos, n_total = np.array([0.4, 0.2, 0.9]), np.array([2, 3, 2]), np.array([9, 30, 9])
    together = p_values(ap, n_pos, n_total, 500, seed=7)
    null_average_precision.cache_clear()
    alone = [
        p_values(ap[i : i + 1], n_pos[i : i + 1], n_total[i : i + 1], 500, seed=7)[0]
        for i in (2, 0, 1)
    ]
    assert together[[2, 0, 1]].tolist() == alone


def test_q_values_are_benjamini_hochberg():
    p = np.array([0.01, 0.04, 0.03, 0.5])
    order = np.argsort(p)
    q = p[order] * len(p) / np.arange(1, len(p) + 1)
    expected = np.empty(4)
    expected[order] = np.minimum.accumulate(q[::-1])[::-1]
    labels = correct_p_values(pd.DataFrame({"p_value": p}))
    np.testing.assert_allclose(labels["q_value"], expected)
    assert labels["retrieved"].tolist() == (expected < 0.05).tolist()


def test_labels_average_ap_and_log_p():
    queries = pd.DataFrame(
        {
            "query": [0, 1, 2],
            "label": ["b", "b", "a"],
            "average_precision": [1.0, 0.25, 0.5],
            "normalized_average_precision": [1.0, 0.0, 0.3],
            "chance": [0.4, 0.4, 0.3],
            "n_pos": [1, 1, 1],
            "n_total": [4, 4, 8],
        }
    )
    labels = score_labels(queries, null_size=1000, seed=0).set_index("label")
    p = p_values(np.array([1.0, 0.25]), np.array([1, 1]), np.array([4, 4]), 1000, 0)
    assert labels.loc["b", "p_value"] == pytest.approx(np.sqrt(p.prod()))
    assert labels.loc["b", "mean_average_precision"] == 0.625
    assert labels.loc["b", "n_queries"] == 2
    assert score_labels(queries.iloc[:0]).empty


def test_profiles_without_direction_are_refused():
    with pytest.raises(InputError, match=r"2 profiles are zero or not finite \(first: row 1\)"):
        unit_rows(np.array([[1.0, 0], [0, 0], [np.nan, 1]]))


def test_average_precision_of_no_positives_is_nan():
    assert np.isnan(average_precision(np.array([0]), np.array([0]), 2)[1])
