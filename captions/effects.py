"""Wells against the controls of their plates: shifts, and effects with what chance makes of them.

A shift says how far a well lies from its controls in a unit that all plates share, an effect in
that of its own plate. No image of a well shows how far its plate's few controls happen to spread: a
tower learns shifts, and `vlm.readouts` makes effects of them.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from captions.scores import align_features, slot_scores
from captions.slots import FACT_SLOTS, Slot
from data.errors import InputError
from data.normalize import feature_columns
from data.spread import (
    CONTROLS_UNCHANGED,
    MAD_TO_SD,
    MIN_CONTROLS,
    clipped_variance,
    column_medians,
    moderate,
    pool_variances,
    prediction_p_values,
    replicate_spread,
)

TREATMENT_COLUMNS = ("Metadata_broad_sample", "Metadata_concentration")
"""Wells that agree in these are replicates."""

EFFECT_COLUMNS = tuple(" ".join(filter(None, slot)) for slot in FACT_SLOTS)
"""Columns of `measure_effects`: compartment, channel and property of each slot."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """Wells against their controls: arrays (wells, slots), and what they were made of.

    Attributes
    ----------
    effects, shifts, p_values : (N, K) float arrays
        NaN where not measured.
    unlike_controls : (N, 1) bool array
        Whether a well may have facts.
    aligned : dict
        From `captions.scores.align_features`.
    prior_freedom : float
        What all plates' controls know of one plate's spread, in degrees of freedom.
    """

    effects: Array
    shifts: Array
    p_values: Array
    unlike_controls: NDArray[np.bool_]
    aligned: dict[Slot, tuple[list[str], Array]]
    prior_freedom: float


def share_scale(profiles: pd.DataFrame, normalized: pd.DataFrame) -> pd.DataFrame:
    """Put features on a scale that all plates share: what facts are measured on.

    (x - m) / s, m the median of the plate's controls, s 1.4826 x the median absolute deviation of
    the controls of all plates, each from its own plate's m: a plate's few controls know their own
    deviation only roughly, and a z that is divided by it carries that error.

    Parameters
    ----------
    profiles : DataFrame
        One row a well: Metadata_Plate, Metadata_control_type and features as they were measured.
    normalized : DataFrame
        The same wells by `data.normalize.normalize_profiles`. Its features are taken; where some
        plate has fewer than 8 controls it is returned as it is.
    """
    plate = profiles["Metadata_Plate"].to_numpy()
    control = (profiles["Metadata_control_type"] == "negcon").to_numpy()
    if min((control[plate == name].sum() for name in set(plate)), default=0) < MIN_CONTROLS:
        return normalized
    features = feature_columns(normalized)
    values = profiles[features].to_numpy(np.float64, copy=True)
    for name in set(plate):
        rows = plate == name
        values[rows] -= column_medians(values[rows & control])
    spread = MAD_TO_SD * column_medians(np.abs(values[control]))
    scaled = pd.DataFrame(
        values / np.where(spread > 0, spread, np.nan), profiles.index, columns=features
    )
    return pd.concat([profiles.filter(regex="^Metadata_"), scaled], axis=1)


def compare_with_controls(profiles: pd.DataFrame) -> Comparison:
    """Compare each well with the controls of its plate: steps 1 to 4 of `captions.facts`.

    Parameters
    ----------
    profiles : DataFrame
        As for `captions.facts.measure_facts`.

    Raises
    ------
    InputError
        When a column is missing or a feature is not CellProfiler's.
    """
    for column in ("Metadata_Plate", "Metadata_Well", "Metadata_control_type"):
        if column not in profiles:
            raise InputError(f"profiles: column {column!r} is missing")
    profiles = profiles.reset_index(drop=True)
    aligned = align_features(profiles)
    scores = slot_scores(aligned)
    is_control = (profiles["Metadata_control_type"] == "negcon").to_numpy()
    plates = list(profiles.groupby("Metadata_Plate", sort=False).indices.values())
    compared = [rows for rows in plates if is_control[rows].sum() >= MIN_CONTROLS]

    shape = scores.shape
    deviations, variances, freedom = (np.full(shape, np.nan) for _ in range(3))
    of_plates = np.full((2, len(compared), shape[1]), np.nan)  # variances, degrees of freedom
    for number, rows in enumerate(compared):
        own = _spread(scores[rows[is_control[rows]]])
        of_plates[:, number] = own[1:]
        deviations[rows], variances[rows], freedom[rows] = _compare(
            scores[rows], is_control[rows], own
        )
    pooled, prior_freedom = pool_variances(*of_plates)
    effects = deviations / np.sqrt(moderate(variances, freedom, pooled, prior_freedom))
    shifts = deviations / np.sqrt(np.where(np.isinf(variances), np.inf, pooled))
    p_values = prediction_p_values(effects, freedom, prior_freedom)

    largest = np.nan_to_num(np.abs(effects)).max(axis=1, initial=0.0, keepdims=True)
    unlike_controls = np.ones_like(largest, bool)
    alone = np.ones(len(scores), bool)  # on a plate with too few controls
    for rows in compared:
        alone[rows] = False
    if not alone.all():
        of_controls = largest[is_control & ~alone]
        unlike_controls[~alone] = largest[~alone] > np.quantile(
            of_controls, CONTROLS_UNCHANGED, method="lower"
        )
    if alone.any():
        spread, spare = replicate_spread(scores, _treatments(profiles))
        effects[alone] = shifts[alone] = scores[alone] / spread
        p_values[alone] = 2 * stats.t.sf(np.abs(effects[alone]), spare)
    return Comparison(effects, shifts, p_values, unlike_controls, aligned, prior_freedom)


def measure_effects(profiles: pd.DataFrame, compared: Comparison | None = None) -> pd.DataFrame:
    """Return the effect of every slot in every well, also where it is no fact.

    Parameters
    ----------
    profiles : DataFrame
        As for `captions.facts.measure_facts`, which says what an effect is.
    compared : Comparison, optional
        What `compare_with_controls` says of these profiles, where it is at hand.

    Returns
    -------
    DataFrame
        Metadata_Plate, Metadata_Well, and a float column a slot ("cells Mito intensity"), in the
        order of `FACT_SLOTS`; NaN where a slot was not measured.
    """
    compared = compared or compare_with_controls(profiles)
    return _by_slot(profiles, compared.effects)


def measure_shifts(profiles: pd.DataFrame, compared: Comparison | None = None) -> pd.DataFrame:
    """Return how far every slot of every well shifted, in a unit that all plates share.

    (score - m) / s0: as an effect, but s0 is the standard deviation of the controls of all plates.
    Where there are no controls shifts are effects.

    Parameters
    ----------
    profiles, compared
        As for `measure_effects`.

    Returns
    -------
    DataFrame
        As of `measure_effects`.
    """
    compared = compared or compare_with_controls(profiles)
    return _by_slot(profiles, compared.shifts)


def _by_slot(profiles: pd.DataFrame, values: Array) -> pd.DataFrame:
    key = profiles[["Metadata_Plate", "Metadata_Well"]].reset_index(drop=True)
    return pd.concat([key, pd.DataFrame(values, columns=EFFECT_COLUMNS)], axis=1)


def _compare(
    scores: Array, is_control: NDArray[np.bool_], spread: tuple[Array, Array, Array]
) -> tuple[Array, Array, Array]:
    """Hold wells of one plate, (n, K), against its controls; a control against the others.

    `spread` is `_spread` of all its controls.

    Returns
    -------
    deviations, variances, freedom : (n, K) float arrays
        Of the wells from the controls' median; of the controls. NaN for a slot of which fewer than
        8 controls were measured.
    """
    controls = scores[is_control]
    measured = np.isfinite(controls).sum(axis=0) >= MIN_CONTROLS
    centres, variances, freedom = (np.tile(row, (len(scores), 1)) for row in spread)
    for number, row in enumerate(np.flatnonzero(is_control)):
        centres[row], variances[row], freedom[row] = _spread(np.delete(controls, number, axis=0))
    for values in (centres, variances, freedom):
        values[:, ~measured] = np.nan
    return scores - centres, variances, freedom


def _spread(controls: Array) -> tuple[Array, Array, Array]:
    """Centre, variance and degrees of freedom of each slot of (n, K) controls: (K,) each."""
    centre = column_medians(controls)
    return centre, clipped_variance(controls - centre, 1), np.isfinite(controls).sum(axis=0) - 1.0


def _treatments(profiles: pd.DataFrame) -> NDArray[np.integer]:
    """Number each well's treatment; -1 where it is not known."""
    columns = [name for name in TREATMENT_COLUMNS if name in profiles]
    if not columns:
        return np.full(len(profiles), -1)
    return profiles.groupby(columns).ngroup().fillna(-1).to_numpy(int)
