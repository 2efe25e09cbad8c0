"""Normalizing profiles: robust z against the right wells, and honest about missing values."""

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from pycytominer import normalize as pycytominer_normalize

from data.errors import InputError
from data.normalize import (
    MEDIAN_TILE,
    MEDIAN_WELL,
    NO_REFERENCE,
    SAME_PLATE_CONTROLS,
    count_missing,
    feature_columns,
    normalize_profiles,
    select_features,
)


def make_profiles(seed: int = 0, plates: int = 2, wells: int = 24, n: int = 6) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    parts = []
    for plate in range(plates):
        values = rng.normal(plate * 5, 1 + plate, (wells, n))
        part = pd.DataFrame(values, columns=[f"Cells_AreaShape_F{i}" for i in range(n)])
        part.insert(0, "Metadata_Plate", f"P{plate}")
        part.insert(1, "Metadata_control_type", ["negcon"] * 10 + [""] * (wells - 10))
        parts.append(part)
    return pd.concat(parts).sample(frac=1, random_state=seed, ignore_index=True)


def test_equals_pycytominer_on_each_plate() -> None:
    profiles = make_profiles()
    profiles.loc[3, "Cells_AreaShape_F2"] = np.nan
    features = feature_columns(profiles)
    found = normalize_profiles(profiles, SAME_PLATE_CONTROLS)
    assert found.columns.tolist() == profiles.columns.tolist()
    for plate, rows in profiles.groupby("Metadata_Plate"):
        expected = pycytominer_normalize(
            rows,
            features=features,
            samples="Metadata_control_type == 'negcon'",
            method="mad_robustize",
        )
        np.testing.assert_allclose(
            found.loc[rows.index, features], expected[features].fillna(0), rtol=1e-9, err_msg=plate
        )


@settings(max_examples=25, deadline=None)
@given(st.floats(0.01, 100), st.floats(-100, 100), st.integers(0, 9))
def test_scale_and_offset_of_a_plate_do_not_matter(scale: float, offset: float, seed: int) -> None:
    profiles = make_profiles(seed)
    features = feature_columns(profiles)
    moved = profiles.copy()
    moved.loc[moved["Metadata_Plate"] == "P1", features] *= scale
    moved.loc[moved["Metadata_Plate"] == "P1", features] += offset
    np.testing.assert_allclose(
        normalize_profiles(moved, SAME_PLATE_CONTROLS)[features],
        normalize_profiles(profiles, SAME_PLATE_CONTROLS)[features],
        rtol=1e-6,
        atol=1e-6,
    )


def test_controls_have_median_0_and_mad_1() -> None:
    found = normalize_profiles(make_profiles(), SAME_PLATE_CONTROLS)
    controls = found[found["Metadata_control_type"] == "negcon"]
    values = controls.groupby("Metadata_Plate")[feature_columns(found)]
    np.testing.assert_allclose(values.median(), 0, atol=1e-9)
    np.testing.assert_allclose(values.agg(lambda x: 1.4826 * x.abs().median()), 1)


def test_the_median_well_keeps_differences_between_plates() -> None:
    profiles = make_profiles()
    found = normalize_profiles(profiles, MEDIAN_WELL)
    features = feature_columns(found)
    np.testing.assert_allclose(found[features].median(), 0, atol=1e-9)
    means = found.groupby("Metadata_Plate")[features].mean()
    assert (means.loc["P1"] - means.loc["P0"] > 0.5).all()


def test_tiles_are_compared_with_the_median_tile_and_what_they_lack_stays_missing() -> None:
    profiles = make_profiles()
    features = feature_columns(profiles)
    expected = normalize_profiles(profiles, MEDIAN_WELL)
    pd.testing.assert_frame_equal(normalize_profiles(profiles, MEDIAN_TILE), expected)
    unstained = profiles["Metadata_Plate"] == "P0"
    profiles.loc[unstained, features[0]] = np.nan
    profiles.loc[4, features[1]] = np.nan  # a tile without cells
    found = normalize_profiles(profiles, MEDIAN_TILE)
    assert feature_columns(found) == features
    np.testing.assert_array_equal(found[features].isna(), profiles[features].isna())
    assert abs(found.loc[~unstained, features[0]].median()) < 1e-9
    assert count_missing(profiles, found)["filled"] == 0
    assert count_missing(profiles, normalize_profiles(profiles, MEDIAN_WELL))["filled"] == 25


def test_a_single_field_differs_from_nothing() -> None:
    profiles = make_profiles().iloc[:1]
    assert (normalize_profiles(profiles, NO_REFERENCE)[feature_columns(profiles)] == 0).all(
        axis=None
    )


def test_missing_values_are_counted() -> None:
    profiles = make_profiles()
    profiles.loc[4, "Cells_AreaShape_F0"] = np.nan  # one well: filled
    profiles["Cells_AreaShape_F1"] = np.nan  # everywhere: dropped
    profiles["Cells_AreaShape_F2"] = 7.0  # no spread: dropped
    controls = profiles["Metadata_control_type"] == "negcon"
    profiles.loc[controls & (profiles["Metadata_Plate"] == "P0"), "Cells_AreaShape_F3"] = np.nan
    found = normalize_profiles(profiles, SAME_PLATE_CONTROLS)
    assert feature_columns(found) == [f"Cells_AreaShape_F{i}" for i in (0, 4, 5)]
    assert not found.isna().any(axis=None)
    assert found.loc[4, "Cells_AreaShape_F0"] == 0
    assert count_missing(profiles, found) == {"kept": 3, "dropped": 3, "filled": 1}
    assert np.isnan(profiles.loc[4, "Cells_AreaShape_F0"])  # the raw profile keeps it


def test_what_cannot_be_normalized_is_named() -> None:
    profiles = make_profiles()
    no_controls = profiles.assign(
        Metadata_control_type=profiles["Metadata_control_type"].where(
            profiles["Metadata_Plate"] == "P0", ""
        )
    )
    with pytest.raises(InputError, match="plate P1 has no negative control wells"):
        normalize_profiles(no_controls, SAME_PLATE_CONTROLS)
    constant = profiles.assign(**dict.fromkeys(feature_columns(profiles), np.nan))
    with pytest.raises(InputError, match="no feature can be normalized"):
        normalize_profiles(constant, SAME_PLATE_CONTROLS)


def test_selection_drops_twins_and_constants() -> None:
    profiles = make_profiles(wells=60)
    profiles["Cells_AreaShape_Twin"] = profiles["Cells_AreaShape_F0"] * 2
    profiles["Cells_AreaShape_Constant"] = 1.0
    found = select_features(profiles)
    kept = set(feature_columns(found))
    assert "Cells_AreaShape_Constant" not in kept
    assert len(kept & {"Cells_AreaShape_F0", "Cells_AreaShape_Twin"}) == 1
    assert {"Metadata_Plate", "Metadata_control_type"} <= set(found)
