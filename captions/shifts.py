"""Shifts: how far wells lie from their controls, in a unit that all plates share.

A plate's few controls know their own spread only roughly (14 of them to a fifth), and an effect,
which is divided by it, carries that error: one and the same change has other effects on other
plates. No image of a well shows that error. A tower therefore learns shifts, and `vlm.readouts`
makes effects of them with the controls of the plate that it looks at.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from captions.facts import EFFECT_COLUMNS, MIN_CONTROLS, Comparison, measure_effects
from captions.scores import MAD_TO_SD, align_features, clipped_sd, slot_scores


def measure_shifts(
    profiles: pd.DataFrame, normalized: pd.DataFrame, compared: Comparison | None = None
) -> pd.DataFrame:
    """Measure the shift of every slot in every well.

    1. Of each feature x: (x - m) / s, m the median of its plate's controls and s 1.4826 x the
       median absolute deviation of the controls of all plates, each from its own plate's m.
    2. Score of a slot: as of effects, the median over its voting features of sign x that.
    3. Shift: (score - m) / s, m the median of the plate's controls' scores and s the clipped
       standard deviation of the controls of all plates, likewise.

    Parameters
    ----------
    profiles : DataFrame
        One row a well: Metadata_Plate, Metadata_Well, Metadata_control_type and features as they
        were measured.
    normalized : DataFrame
        The same wells as `captions.facts.measure_facts` takes them. Where some plate has fewer than
        8 controls shifts are effects.
    compared : Comparison, optional
        What `captions.facts.compare_with_controls` says of `normalized`, where it is at hand.

    Returns
    -------
    DataFrame
        Metadata_Plate, Metadata_Well and a float column a slot, as of `measure_effects`; NaN where
        a slot was not measured.
    """
    plate = profiles["Metadata_Plate"].to_numpy()
    control = (profiles["Metadata_control_type"] == "negcon").to_numpy()
    if min(control[plate == name].sum() for name in set(plate)) < MIN_CONTROLS:
        return measure_effects(normalized, compared)
    features = [name for name in map(str, normalized) if not name.startswith("Metadata_")]
    values = profiles[features].to_numpy(np.float64)
    centred = _centre(values, plate, control)
    spread = MAD_TO_SD * pd.DataFrame(np.abs(centred[control])).median().to_numpy()
    z = pd.DataFrame(centred / np.where(spread > 0, spread, np.nan), columns=features)
    scores = _centre(slot_scores(align_features(z)), plate, control)
    shifts = np.full_like(scores, np.nan)
    for column, score in enumerate(scores.T):
        usable = score[control & np.isfinite(score)]
        if len(usable) >= MIN_CONTROLS:
            shifts[:, column] = score / clipped_sd(usable, len(usable) - len(set(plate)))
    key = profiles[["Metadata_Plate", "Metadata_Well"]].reset_index(drop=True)
    return pd.concat([key, pd.DataFrame(shifts, columns=EFFECT_COLUMNS)], axis=1)


def _centre(
    values: NDArray[np.float64], plate: NDArray, control: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Subtract the median of each plate's controls, column by column."""
    medians = pd.DataFrame(values[control]).groupby(plate[control]).median()
    return values - medians.loc[plate].to_numpy()
