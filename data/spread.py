"""How far unchanged wells spread: of one plate by itself, and as all plates together know it.

What a change is worth says the spread of control wells, and a plate has few: 14 of them know their
standard deviation to a fifth. Measured facts (`captions.facts`) and the tower's readouts
(`vlm.readouts`) therefore take a moderated one, of the plate and of all plates together (G. K.
Smyth, "Linear models and empirical Bayes methods for assessing differential expression in
microarray experiments", 2004, there over genes).
"""

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

Array = NDArray[np.float64]

MIN_CONTROLS = 8
"""Fewer controls on a plate (or spare replicates) do not give a spread."""
CLIP_CONTROLS = 3.0
"""Values farther out than this many robust standard deviations count as this far."""
CONTROLS_UNCHANGED = 0.95
"""Share of the controls in which nothing changed by construction."""
MAX_Q_VALUE = 0.05
"""What changed has a q-value below."""
MAD_TO_SD = 1.4826
"""Standard deviation over median absolute deviation, of a normal distribution."""


def column_medians(values: Array) -> Array:
    """Median of each column of (n, K), without NaN and numpy's warnings: (K,), NaN of nothing."""
    medians = np.full(values.shape[1], np.nan)
    some = np.isfinite(values).any(axis=0)
    medians[some] = np.nanmedian(values[:, some], axis=0)
    return medians


def column_means(values: NDArray) -> NDArray:
    """Mean over the first axis of (n, ...), without NaN: (...) of its dtype, NaN of nothing."""
    known = np.isfinite(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(values.dtype)


def clipped_variance(deviations: Array, lost: float) -> Array:
    """Variance of each column, far deviations clipped; infinite (nothing is a change) if flat.

    Of few values the median absolute deviation alone is too rough, and without the clipping one
    dead control hides all else.

    Parameters
    ----------
    deviations : (n, K) float
        From their centre; NaN was not measured.
    lost : float
        Values less degrees of freedom: 1 of a plate's controls.

    Returns
    -------
    (K,) float
    """
    count = np.isfinite(deviations).sum(axis=0)
    limit = CLIP_CONTROLS * MAD_TO_SD * column_medians(np.abs(deviations))
    squares = np.nansum(np.clip(deviations, -limit, limit) ** 2, axis=0)
    variance = squares / np.maximum(count - lost, 1)
    variance[variance == 0] = np.inf
    return variance


def pool_variances(variances: Array, freedom: Array) -> tuple[Array, float]:
    """Find what all plates together know of their spreads.

    Parameters
    ----------
    variances : (P, K) float
        Of the same slots on several plates; NaN or infinite where there is none.
    freedom : (P, K) float
        Degrees of freedom of each.

    Returns
    -------
    pooled : (K,) float
        Their mean, weighted by freedom; NaN where no plate has one.
    prior_freedom : float
        How many degrees of freedom it is worth for a single plate, by how unlike the plates are
        (Smyth's d0, from the variance of log variances, over all slots): infinite where they differ
        as chance lets them, 0 where there is one plate.
    """
    known = np.isfinite(variances)
    weight = np.where(known, freedom, 0.0)
    total = weight.sum(axis=0)
    pooled = np.full(variances.shape[1], np.nan)
    some = total > 0
    sums = (weight * np.where(known, variances, 0.0)).sum(axis=0)
    pooled[some] = sums[some] / total[some]

    several = known.sum(axis=0) > 1
    if not several.any():
        return pooled, 0.0
    half = np.where(known, freedom, 1.0) / 2
    logs = np.log(np.where(known, variances, 1.0)) - special.digamma(half) + np.log(half)
    logs = np.where(known, logs, np.nan)[:, several]
    spare = (known.sum(axis=0) - 1)[several].sum()
    by_chance = np.nanmean(np.where(known, special.polygamma(1, half), np.nan)[:, several])
    excess = np.nansum((logs - np.nanmean(logs, axis=0)) ** 2) / spare - by_chance
    if excess <= special.polygamma(1, 1e6):
        return pooled, np.inf
    return pooled, 2 * optimize.brentq(lambda x: special.polygamma(1, x) - excess, 1e-6, 1e6)


def moderate(variances: Array, freedom: Array, pooled: Array, prior_freedom: float) -> Array:
    """Draw variances towards the pooled ones: (d0 s0^2 + d s^2) / (d0 + d), all broadcast.

    What is not finite stays as it is.
    """
    known = np.isfinite(variances)
    share = 1.0 if np.isinf(prior_freedom) else prior_freedom / (prior_freedom + freedom)
    drawn = share * pooled + (1 - share) * np.where(known, variances, 1.0)
    return np.where(known, drawn, variances)


def replicate_spread(values: Array, treatment: NDArray[np.integer]) -> tuple[Array, Array]:
    """Spread of each column among wells of one treatment, pooled over treatments.

    Parameters
    ----------
    values : (n, K) float
        NaN was not measured.
    treatment : (n,) int
        Wells with the same number are replicates; those with -1 have none.

    Returns
    -------
    spread, freedom : (K,) float
        Standard deviation, far deviations clipped, and its degrees of freedom; 1 and infinity (a
        standard normal distribution) where there are fewer than `MIN_CONTROLS` to spare.
    """
    spread, freedom = np.ones(values.shape[1]), np.full(values.shape[1], np.inf)
    groups = [values[treatment == one] for one in np.unique(treatment[treatment >= 0])]
    for column in range(values.shape[1]):
        known = [group[np.isfinite(group[:, column]), column] for group in groups]
        several = [group for group in known if len(group) > 1]
        spare = sum(len(group) - 1 for group in several)
        if spare >= MIN_CONTROLS:
            deviations = np.concatenate([group - group.mean() for group in several])
            spread[column] = np.sqrt(clipped_variance(deviations[:, None], len(several))[0])
            freedom[column] = spare
    return spread, freedom


def prediction_p_values(effects: Array, freedom: Array | float, prior_freedom: float) -> Array:
    """Two-sided p of wells' effects, by how many controls made their unit.

    Student's t of e / sqrt(1 + 1/n) for n = freedom + 1 controls (a prediction interval), with
    freedom + prior_freedom degrees of freedom.
    """
    t = np.abs(effects) / np.sqrt(1 + 1 / (freedom + 1))
    return 2 * stats.t.sf(t, freedom + prior_freedom)


def benjamini_hochberg(p_values: Array) -> Array:
    """q-values over each row; NaN stays NaN and is no test."""
    q_values = np.full_like(p_values, np.nan)
    for row, p in enumerate(p_values):
        tested = np.isfinite(p)
        if tested.any():
            q_values[row, tested] = stats.false_discovery_control(p[tested], method="bh")
    return q_values
