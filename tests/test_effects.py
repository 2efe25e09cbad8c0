"""Shifts and effects: wells against the controls of their plates."""

import numpy as np
import pandas as pd
import pytest

from captions.effects import (
    EFFECT_COLUMNS,
    compare_with_controls,
    measure_effects,
    measure_shifts,
    share_scale,
)
from data.normalize import MEDIAN_WELL, SAME_PLATE_CONTROLS, feature_columns, normalize_profiles

CONTROLS, TREATED = 14, 6
MITO = "cells Mito intensity"
SIZE = "nuclei size"


def plates(count: int = 12, spreads=(1.0,), change: float = 6.0, seed: int = 0) -> pd.DataFrame:
    """Raw profiles: treated wells have brighter mitochondria, by `change` control deviations."""
    rng = np.random.default_rng(seed)
    parts = []
    for number in range(count):
        spread, n = spreads[number % len(spreads)], CONTROLS + TREATED
        treated = np.arange(n) >= CONTROLS
        parts.append(
            pd.DataFrame(
                {
                    "Metadata_Plate": f"P{number}",
                    "Metadata_Well": [f"A{i + 1:02d}" for i in range(n)],
                    "Metadata_control_type": np.where(treated, "", "negcon"),
                    "Cells_Intensity_MeanIntensity_Mito": 100 * number
                    + 7 * (spread * rng.normal(size=n) + change * treated),
                    "Nuclei_AreaShape_Area": 50 + spread * rng.normal(size=n),
                    "Cells_AreaShape_FormFactor": np.nan,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def scaled(profiles: pd.DataFrame) -> pd.DataFrame:
    return share_scale(profiles, normalize_profiles(profiles, SAME_PLATE_CONTROLS))


def shifts_of(profiles: pd.DataFrame) -> pd.DataFrame:
    return measure_shifts(scaled(profiles))


def by_plate(table: pd.DataFrame, profiles: pd.DataFrame) -> pd.Series:
    treated = profiles["Metadata_control_type"] == ""
    return table[MITO][treated].groupby(profiles["Metadata_Plate"][treated]).mean()


def test_a_change_has_the_same_effect_on_every_plate_where_plates_are_alike():
    profiles = plates()
    alone = pd.concat(
        measure_effects(scaled(plate)).set_index(plate.index)
        for _, plate in profiles.groupby("Metadata_Plate")
    ).loc[profiles.index]
    by_itself = by_plate(alone, profiles)
    assert compare_with_controls(scaled(profiles)).prior_freedom > 50
    for table in (shifts_of(profiles), measure_effects(scaled(profiles))):
        found = by_plate(table, profiles)
        assert found.mean() == pytest.approx(6.0, rel=0.15)
        assert found.std() < 0.6 * by_itself.std()


def test_the_effect_of_a_wild_plate_is_smaller_and_its_shift_is_not():
    profiles = plates(count=40, spreads=(0.5, 2.0), change=6.0)
    scale = scaled(profiles)
    assert compare_with_controls(scale).prior_freedom < 10
    effects, shifts = (by_plate(f(scale), profiles) for f in (measure_effects, measure_shifts))
    wild = np.array([int(name[1:]) % 2 == 1 for name in effects.index])
    assert effects[~wild].mean() > 2.5 * effects[wild].mean()
    assert shifts[~wild].mean() == pytest.approx(shifts[wild].mean(), rel=0.15)


def test_controls_of_all_plates_together_have_a_spread_of_one():
    shifts = shifts_of(plates(count=40))
    control = np.tile(np.arange(CONTROLS + TREATED) < CONTROLS, 40)
    assert shifts.loc[control, MITO].std() == pytest.approx(1.0, abs=0.15)
    assert shifts.loc[control, MITO].median() == pytest.approx(0.0, abs=0.05)


def test_a_calm_and_a_wild_plate_keep_their_unlike_spreads():
    shifts = shifts_of(plates(count=40, spreads=(0.5, 2.0)))
    spread = shifts.groupby("Metadata_Plate")[SIZE].std()
    assert spread[["P1", "P3", "P5"]].min() > 2 * spread[["P0", "P2", "P4"]].max()


def test_units_do_not_matter_and_plates_may_come_mixed():
    profiles = plates(count=3)
    order = np.random.default_rng(1).permutation(len(profiles))
    other = profiles.iloc[order].reset_index(drop=True)
    other[feature_columns(other)] *= 250.0
    columns = [MITO, SIZE]
    expected = shifts_of(profiles)[columns].to_numpy()[order]
    np.testing.assert_allclose(shifts_of(other)[columns].to_numpy(), expected, rtol=1e-6)


def test_what_was_not_measured_is_missing():
    shifts = shifts_of(plates(count=2))
    assert list(shifts.columns[2:]) == list(EFFECT_COLUMNS)
    assert shifts["cells shape"].isna().all()
    assert shifts[[MITO, SIZE]].notna().all(axis=None)


@pytest.mark.parametrize("kept", [0, 7])
def test_with_too_few_controls_shifts_are_effects(kept):
    profiles = plates(count=3)
    few = profiles.groupby("Metadata_Plate").cumcount().between(kept, CONTROLS - 1)
    profiles = profiles[~few].reset_index(drop=True)
    reference = SAME_PLATE_CONTROLS if kept else MEDIAN_WELL
    normalized = normalize_profiles(profiles, reference)
    scale = share_scale(profiles, normalized)
    pd.testing.assert_frame_equal(scale, normalized)
    pd.testing.assert_frame_equal(measure_shifts(scale), measure_effects(scale))
