"""Spreads of controls: clipped, pooled over plates, moderated."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from data.spread import (
    CLIP_CONTROLS,
    MAD_TO_SD,
    benjamini_hochberg,
    clipped_variance,
    column_means,
    moderate,
    pool_variances,
    prediction_p_values,
    replicate_spread,
)


def drawn_variances(prior: float, plates: int = 400, freedom: int = 13, seed: int = 0):
    """Variances of plates whose true ones are drawn as Smyth's model has it, around 4."""
    rng = np.random.default_rng(seed)
    true = 4.0 if np.isinf(prior) else 4.0 * prior / rng.chisquare(prior, size=(plates, 3))
    own = true * rng.chisquare(freedom, size=(plates, 3)) / freedom
    return own, np.full((plates, 3), float(freedom)), np.broadcast_to(true, own.shape)


def test_clipping_is_a_plain_variance_of_clipped_values():
    values = np.random.default_rng(3).standard_t(2, size=(15, 4))
    deviations = values - np.median(values, axis=0)
    deviations[0, 1] = np.nan
    for column, found in zip(deviations.T, clipped_variance(deviations, 1), strict=True):
        own = column[np.isfinite(column)]
        limit = CLIP_CONTROLS * MAD_TO_SD * np.median(np.abs(own))
        expected = np.sum(np.clip(own, -limit, limit) ** 2) / (len(own) - 1)
        assert found == pytest.approx(expected)


def test_without_spread_nothing_is_a_change():
    assert clipped_variance(np.zeros((9, 1)), 1)[0] == np.inf


@pytest.mark.parametrize("prior", [6.0, 30.0])
def test_the_prior_is_found_that_variances_were_drawn_with(prior):
    variances, freedom, _ = drawn_variances(prior)
    assert pool_variances(variances, freedom)[1] == pytest.approx(prior, rel=0.25)


def test_plates_that_differ_by_chance_alone_share_one_spread():
    variances, freedom, _ = drawn_variances(np.inf, plates=8)
    pooled, prior = pool_variances(variances, freedom)
    assert prior > 60
    drawn = moderate(variances, freedom, pooled, np.inf)
    np.testing.assert_allclose(drawn, np.broadcast_to(pooled, drawn.shape))


@pytest.mark.parametrize("prior", [4.0, 30.0])
def test_moderated_variances_are_nearer_the_truth_than_either(prior):
    variances, freedom, true = drawn_variances(prior)
    pooled, found = pool_variances(variances, freedom)

    def error(guess):
        return np.mean((np.log(guess) - np.log(true)) ** 2)

    moderated = error(moderate(variances, freedom, pooled, found))
    assert moderated < error(variances)
    assert moderated < error(np.broadcast_to(pooled, true.shape))


def test_one_plate_knows_only_itself_and_gaps_stay_gaps():
    variances = np.array([[2.0, np.inf, np.nan]])
    pooled, prior = pool_variances(variances, np.full((1, 3), 13.0))
    assert prior == 0
    np.testing.assert_array_equal(
        moderate(variances, np.full((1, 3), 13.0), pooled, prior), variances
    )
    two = np.array([[2.0, np.inf, np.nan], [4.0, 3.0, 5.0]])
    pooled, prior = pool_variances(two, np.full((2, 3), 13.0))
    np.testing.assert_array_equal(pooled, [3.0, 3.0, 5.0])
    drawn = moderate(two, np.full((2, 3), 13.0), pooled, prior)
    np.testing.assert_array_equal(np.isfinite(drawn), np.isfinite(two))


def test_q_values_are_scipys_row_by_row_without_what_was_not_tested():
    p = np.array([[0.01, np.nan, 0.04, 0.5], [np.nan] * 4])
    found = benjamini_hochberg(p)
    expected = stats.false_discovery_control([0.01, 0.04, 0.5])
    np.testing.assert_allclose(found[0], [expected[0], np.nan, *expected[1:]])
    assert np.isnan(found[1]).all()


def test_means_leave_out_what_is_not_known():
    values = np.array([[[1.0, np.nan]], [[3.0, np.nan]], [[np.nan, np.nan]]], np.float32)
    found = column_means(values)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[2.0, np.nan]])


def test_p_values_of_drawn_wells_are_even():
    rng = np.random.default_rng(2)
    controls, wells = rng.normal(size=(8, 20_000)), rng.normal(size=20_000)
    effects = (wells - controls.mean(axis=0)) / controls.std(axis=0, ddof=1)
    p = prediction_p_values(effects, 7.0, 0.0)
    assert stats.kstest(p, "uniform").statistic < 0.02


def test_replicates_spread_around_the_mean_of_their_treatment():
    rng = np.random.default_rng(4)
    treatment = np.repeat([0, 1, 2, 3, 4, -1], [7, 7, 7, 7, 1, 9])  # the last two: no replicates
    values = 4 * rng.normal(size=(6, 3))[treatment] + 3 * rng.standard_t(3, size=(38, 3))
    values[:5, 1] = np.nan
    values[:21, 2] = np.nan  # 6 to spare are left: too few
    spread, freedom = replicate_spread(values, treatment)
    table = pd.DataFrame(values[:28])
    residual = (table - table.groupby(treatment[:28]).transform("mean")).to_numpy()
    for column, spare in ((0, 24), (1, 19)):
        own = residual[np.isfinite(residual[:, column]), column]
        limit = CLIP_CONTROLS * MAD_TO_SD * np.median(np.abs(own))
        wanted = np.sqrt((np.clip(own, -limit, limit) ** 2).sum() / spare)
        assert spread[column] == pytest.approx(wanted)
        assert freedom[column] == spare
    assert (spread[2], freedom[2]) == (1, np.inf)
