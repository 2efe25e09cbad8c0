"""Profiles against their reference wells: robust z, and which features to keep."""

import numpy as np
import pandas as pd

from data.errors import InputError

SAME_PLATE_CONTROLS = "same-plate controls"
MEDIAN_WELL = "data set's median well"
NO_REFERENCE = "none (single field)"


def feature_columns(profiles: pd.DataFrame) -> list[str]:
    """Return the columns that are neither Metadata_ nor QC_."""
    names = [str(column) for column in profiles]
    return [name for name in names if not name.startswith(("Metadata_", "QC_"))]


def normalize_profiles(profiles: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Robust z of each feature: (x - median) / (1.4826 MAD) of the reference wells.

    Computed by pycytominer (`mad_robustize`).

    Parameters
    ----------
    profiles : DataFrame
        One row a well; needs Metadata_Plate and Metadata_control_type.
    reference : str
        `SAME_PLATE_CONTROLS`: the negcon wells of the same plate. `MEDIAN_WELL`: all wells of all
        plates, for data sets without controls. `NO_REFERENCE`: nothing to compare with; every
        feature becomes 0, "no measured difference".

    Returns
    -------
    DataFrame
        Rows and Metadata_ columns of `profiles`. Features that cannot be normalized everywhere (no
        value, or no spread among the reference wells of some plate) are left out; a value missing
        in a single well becomes 0, the reference's own value. `count_missing` counts both.

    Raises
    ------
    InputError
        When a plate has no reference wells, or no feature can be normalized.
    """
    features = feature_columns(profiles)
    if reference == NO_REFERENCE:
        return profiles.assign(**dict.fromkeys(features, 0.0))
    if reference == MEDIAN_WELL:
        parts = [_robust_z(profiles, features, "all")]
    elif reference == SAME_PLATE_CONTROLS:
        parts = []
        for plate, wells in profiles.groupby("Metadata_Plate", sort=False):
            if not (wells["Metadata_control_type"] == "negcon").any():
                raise InputError(
                    f"plate {plate} has no negative control wells to normalize against"
                )
            parts.append(_robust_z(wells, features, "Metadata_control_type == 'negcon'"))
    else:
        raise ValueError(f"unknown reference {reference!r}")
    usable = [f for f in features if all(not part[f].isna().all() for part in parts)]
    if not usable:
        raise InputError(
            "no feature can be normalized: the reference wells hold no cells, or are too few to "
            "differ from each other"
        )
    normalized = pd.concat(parts).loc[profiles.index]
    others = [column for column in profiles if column not in features]
    return normalized[[*others, *usable]].fillna({feature: 0.0 for feature in usable})


def count_missing(profiles: pd.DataFrame, normalized: pd.DataFrame) -> dict[str, int]:
    """Count the features "kept" and "dropped" and the single values "filled" by normalizing."""
    features, kept = feature_columns(profiles), feature_columns(normalized)
    return {
        "kept": len(kept),
        "dropped": len(features) - len(kept),
        "filled": int(profiles[kept].isna().to_numpy().sum()),
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
    from pycytominer import feature_select

    return feature_select(
        profiles,
        features=feature_columns(profiles),
        operation=["variance_threshold", "correlation_threshold", "drop_na_columns"],
        na_cutoff=0,
        corr_threshold=0.9,
    )


def _robust_z(wells: pd.DataFrame, features: list[str], samples: str) -> pd.DataFrame:
    """Normalize with pycytominer; a feature without spread in the reference becomes NaN."""
    from pycytominer import normalize  # takes seconds, and worker processes never need it

    if not features:
        return wells
    reference = wells if samples == "all" else wells.query(samples)
    median = reference[features].median()
    spread = (reference[features] - median).abs().median()
    flat = spread.index[~(spread > 1e-9 * median.abs().clip(lower=1e-9))]
    meta = [column for column in wells if column not in features]
    # pycytominer divides by the MAD plus a tiny number: without spread that would be 1e18.
    normalized = normalize(
        wells, features=features, meta_features=meta, samples=samples, method="mad_robustize"
    )
    normalized.index = wells.index
    return normalized.astype(dict.fromkeys(features, np.float64)).assign(
        **dict.fromkeys(flat, np.nan)
    )
