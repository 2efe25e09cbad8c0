"""Profiles against their reference wells: robust z, and which features to keep."""

import pandas as pd

from data.errors import InputError

SAME_PLATE_CONTROLS = "same-plate controls"
MEDIAN_WELL = "data set's median well"
MEDIAN_TILE = "data set's median tile, each field's intensities scaled by themselves"
NO_REFERENCE = "none (single field)"


def feature_columns(profiles: pd.DataFrame) -> list[str]:
    """Return the columns that are neither Metadata_ nor QC_."""
    names = [str(column) for column in profiles]
    return [name for name in names if not name.startswith(("Metadata_", "QC_"))]


def normalize_profiles(profiles: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Robust z of each feature: (x - median) / (1.4826 MAD) of the reference wells.

    The same numbers as pycytominer's `mad_robustize`, but a feature without spread in the reference
    is left out, where pycytominer divides by a tiny number and returns values of 1e18.

    Parameters
    ----------
    profiles : DataFrame
        One row a well; needs Metadata_Plate and Metadata_control_type.
    reference : str
        `SAME_PLATE_CONTROLS`: the negcon wells of the same plate. `MEDIAN_WELL`: all wells of all
        plates, for data sets without controls. `MEDIAN_TILE`: likewise, where each plate is one
        field cut into wells. `NO_REFERENCE`: nothing to compare with; every feature becomes 0, "no
        measured difference".

    Returns
    -------
    DataFrame
        Rows and Metadata_ columns of `profiles`. Features that cannot be normalized everywhere (no
        value, or no spread among the reference wells of some plate) are left out; a value missing
        in a single well becomes 0, the reference's own value (`count_missing` counts both), but of
        tiles it stays NaN, not measured: one may be without cells, and fields without a stain.

    Raises
    ------
    InputError
        When a plate has no reference wells, or no feature can be normalized.
    """
    features = feature_columns(profiles)
    others = [column for column in profiles if column not in features]
    if reference == NO_REFERENCE:
        return profiles.assign(**dict.fromkeys(features, 0.0))
    if reference in (MEDIAN_WELL, MEDIAN_TILE):
        parts = [_robust_z(profiles, features, pd.Series(True, index=profiles.index))]
    elif reference == SAME_PLATE_CONTROLS:
        parts = []
        for plate, wells in profiles.groupby("Metadata_Plate", sort=False):
            controls = wells["Metadata_control_type"] == "negcon"
            if not controls.any():
                raise InputError(f"plate {plate} has no negative control wells to compare with")
            parts.append(_robust_z(wells, features, controls))
    else:
        raise ValueError(f"unknown reference {reference!r}")
    usable = [name for name in features if not any(part[name].isna().all() for part in parts)]
    if not usable:
        raise InputError(
            "no feature can be normalized: the reference wells hold no cells, or are too few to "
            "differ from each other"
        )
    normalized = pd.concat(parts).loc[profiles.index, usable]
    if reference != MEDIAN_TILE:
        normalized = normalized.fillna(0.0)
    return pd.concat([profiles[others], normalized], axis=1)


def count_missing(profiles: pd.DataFrame, normalized: pd.DataFrame) -> dict[str, int]:
    """Count the features "kept" and "dropped" and the single values "filled" by normalizing."""
    features, kept = feature_columns(profiles), feature_columns(normalized)
    return {
        "kept": len(kept),
        "dropped": len(features) - len(kept),
        "filled": int((profiles[kept].isna() & normalized[kept].notna()).to_numpy().sum()),
    }


def select_features(profiles: pd.DataFrame) -> pd.DataFrame:
    """Drop uninformative features with pycytominer, the usual selection of JUMP profiles.

    Low variance, correlation above 0.9 with another feature, and missing values are grounds.

    Parameters
    ----------
    profiles : DataFrame
        Normalized profiles.

    Returns
    -------
    DataFrame
        The Metadata_ columns and the features that are left.
    """
    from pycytominer import feature_select  # takes seconds to import

    return feature_select(
        profiles,
        features=feature_columns(profiles),
        operation=["variance_threshold", "correlation_threshold", "drop_na_columns"],
        na_cutoff=0,
        corr_threshold=0.9,
    )


def _robust_z(wells: pd.DataFrame, features: list[str], reference: pd.Series) -> pd.DataFrame:
    """Normalize against the rows where `reference` holds; no spread there gives NaN."""
    median = wells.loc[reference, features].median()
    mad = 1.4826 * (wells.loc[reference, features] - median).abs().median()
    spread = mad.where(mad > 1e-9 * median.abs().clip(lower=1e-9))
    return (wells[features] - median) / spread
