"""Batch corrections before matching; every one is fitted on negative controls alone.

A correction that saw the treated wells would know the answers' distribution; one fitted on the
same controls that later serve as negatives makes treatments look active (see
`eval.controls.half_controls`). All plates are fitted together, in one space, so that profiles of
different modalities stay comparable.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
from sklearn.covariance import ledoit_wolf

from data.errors import InputError
from eval.profiles import Profiles

Correction = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

_KEPT_VARIANCE = 0.99  # of the controls, in PCA whitening
_HARMONY_COMPONENTS = 50
_HARMONY_SIGMA = 0.1  # harmonypy's default width of the soft clusters
_HARMONY_RIDGE = 1.0
_HARMONY_ROUNDS = 5  # cluster by corrected position, correct by cluster; settled by then


def correct(profiles: Profiles, name: str, controls: np.ndarray | None = None) -> Profiles:
    """Correct profiles by one of `CORRECTIONS`.

    Parameters
    ----------
    profiles : Profiles
    name : str
        "none", "robust_z", "sphering", "pca_whitening" or "harmony".
    controls : ndarray, bool, shape (wells,), optional
        The wells to fit on; by default all negative controls.

    Raises
    ------
    InputError
        When the name is unknown or a plate has no well to fit on.
    """
    if name not in CORRECTIONS:
        raise InputError(f"unknown correction {name}: choose from {', '.join(CORRECTIONS)}")
    if name == "none":
        return profiles
    meta = profiles.meta
    if controls is None:
        controls = (meta["Metadata_control_type"] == "negcon").to_numpy()
    plate = meta["Metadata_Plate"].to_numpy()
    lacking = sorted(set(plate) - set(plate[controls]))
    if lacking:
        raise InputError(f"correction {name}: plate {lacking[0]} has no negative controls")
    features = CORRECTIONS[name](profiles.features, plate, controls)
    return Profiles(profiles.name, meta, features, profiles.notices)


def robust_z(features: np.ndarray, plate: np.ndarray, controls: np.ndarray) -> np.ndarray:
    """Subtract the plate's control median and divide by 1.4826 times its MAD.

    A feature without spread among a plate's controls is only centred there.
    """
    result = np.empty_like(features)
    for name in np.unique(plate):
        rows = plate == name
        reference = features[rows & controls]
        median = np.median(reference, axis=0)
        spread = 1.4826 * np.median(np.abs(reference - median), axis=0)
        result[rows] = (features[rows] - median) / np.where(spread > 0, spread, 1)
    return result


def sphering(features: np.ndarray, plate: np.ndarray, controls: np.ndarray) -> np.ndarray:
    """Make the controls' variation equal in all directions (typical variation normalisation).

    Plates are centred on their controls, then multiplied by the inverse square root of the
    controls' covariance (ZCA, so the axes keep their meaning), which Ledoit and Wolf's estimate
    shrinks towards a multiple of the identity: without that, directions in which few controls
    vary by chance are blown up.

    References
    ----------
    Ando, McLean, Berndl 2017, doi 10.1101/161422; Ledoit, Wolf 2004, 10.1016/S0047-259X(03)00096-4
    """
    centred = _centre(features, plate, controls)
    covariance, _ = ledoit_wolf(centred[controls], assume_centered=True)
    variance, axes = np.linalg.eigh(covariance)
    return centred @ (axes / np.sqrt(variance)) @ axes.T


def pca_whitening(features: np.ndarray, plate: np.ndarray, controls: np.ndarray) -> np.ndarray:
    """Project on the controls' principal components (99 % of variance), each scaled to one."""
    centred = _centre(features, plate, controls)
    components, variance = _principal_components(centred[controls])
    kept = int(np.searchsorted(np.cumsum(variance) / variance.sum(), _KEPT_VARIANCE)) + 1
    return centred @ (components[:, :kept] / np.sqrt(variance[:kept]))


def harmony(features: np.ndarray, plate: np.ndarray, controls: np.ndarray) -> np.ndarray:
    """Harmony with plates as batches, learned on controls and carried over to all wells.

    harmonypy clusters the controls' principal components so that plates mix; the shift of each
    plate in each soft cluster is then applied to any well by its distance to the clusters.

    References
    ----------
    Korsunsky et al. 2019, doi 10.1038/s41592-019-0619-0; carrying over as in Symphony, Kang et
    al. 2021, doi 10.1038/s41467-021-25957-x

    Raises
    ------
    InputError
        When the package harmonypy is not installed.
    """
    try:
        import harmonypy
    except ImportError as error:
        raise InputError("correction harmony needs the package harmonypy (GPL-3.0)") from error
    mean, deviation = features[controls].mean(axis=0), features[controls].std(axis=0)
    scaled = (features - mean) / np.where(deviation > 0, deviation, 1)
    components, _ = _principal_components(scaled[controls])
    scores = scaled @ components[:, :_HARMONY_COMPONENTS]
    fitted = harmonypy.run_harmony(
        scores[controls],
        pd.DataFrame({"plate": plate[controls]}),
        "plate",
        lamb=_HARMONY_RIDGE,
        sigma=_HARMONY_SIGMA,
        verbose=False,
        ncores=1,
    )
    names, batch = np.unique(plate, return_inverse=True)
    shifts = _plate_shifts(fitted.Z_orig, fitted.R, batch[controls], len(names))
    corrected = scores
    for _ in range(_HARMONY_ROUNDS):
        unit = corrected / np.linalg.norm(corrected, axis=1, keepdims=True)
        closeness = -2 * (1 - unit @ fitted.Y) / _HARMONY_SIGMA
        weight = np.exp(closeness - closeness.max(axis=1, keepdims=True))
        weight /= weight.sum(axis=1, keepdims=True)
        corrected = scores - np.einsum("nk,knd->nd", weight, shifts[:, batch])
    return corrected


def _plate_shifts(
    scores: np.ndarray, weight: np.ndarray, batch: np.ndarray, n_batches: int
) -> np.ndarray:
    """Ridge regression of the scores on the plate, in each soft cluster: (clusters, plates, d)."""
    design = np.eye(n_batches)[batch]
    design = np.column_stack([np.ones(len(design)), design])
    ridge = np.diag([0.0] + [_HARMONY_RIDGE] * n_batches)
    shifts = []
    for cluster in weight.T:
        weighted = design * cluster[:, None]
        shifts.append(np.linalg.solve(weighted.T @ design + ridge, weighted.T @ scores)[1:])
    return np.stack(shifts)


def _centre(features: np.ndarray, plate: np.ndarray, controls: np.ndarray) -> np.ndarray:
    result = features.copy()
    for name in np.unique(plate):
        rows = plate == name
        result[rows] -= features[rows & controls].mean(axis=0)
    return result


def _principal_components(reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Axes (d, r) of the reference's variation and their variances, largest first, none empty."""
    centred = reference - reference.mean(axis=0)
    _, size, axes = np.linalg.svd(centred, full_matrices=False)
    variance = size**2 / max(len(reference) - 1, 1)
    real = variance > variance[0] * 1e-10
    return axes[real].T, variance[real]


CORRECTIONS: dict[str, Correction] = {
    "none": lambda features, plate, controls: features,
    "robust_z": robust_z,
    "sphering": sphering,
    "pca_whitening": pca_whitening,
    "harmony": harmony,
}
