"""Corrections: what they equalise, that only controls teach them, and what they refuse."""

import numpy as np
import pytest
from helpers_eval import simulate_profiles
from sklearn.decomposition import KernelPCA
from sklearn.preprocessing import StandardScaler

from data.errors import InputError
from eval.cellclip import cellclip_view
from eval.controls import half_controls
from eval.corrections import CORRECTIONS, correct
from eval.profiles import Profiles, profiles_from_table


@pytest.fixture(scope="module")
def profiles() -> Profiles:
    layout = [("compound", "U2OS", 48, 3), ("crispr", "U2OS", 96, 2)]
    return profiles_from_table(
        simulate_profiles(layout, n_targets=24, wells=96, n_features=12), "simulated"
    )


def is_negcon(profiles: Profiles) -> np.ndarray:
    return (profiles.meta["Metadata_control_type"] == "negcon").to_numpy()


@pytest.mark.parametrize("name", list(CORRECTIONS))
def test_only_controls_teach_a_correction(profiles, name):
    if name == "harmony":
        pytest.importorskip("harmonypy")
    negcon = is_negcon(profiles)
    changed = profiles.features.copy()
    changed[~negcon] *= 3
    other = Profiles("changed", profiles.meta, changed)
    np.testing.assert_allclose(
        correct(other, name).features[negcon], correct(profiles, name).features[negcon], atol=1e-9
    )
    assert np.isfinite(correct(profiles, name).features).all()


def test_robust_z_makes_each_plates_controls_standard(profiles):
    corrected = correct(profiles, "robust_z")
    plate = profiles.meta["Metadata_Plate"]
    for name in plate.unique():
        controls = corrected.features[is_negcon(profiles) & (plate == name).to_numpy()]
        median = np.median(controls, axis=0)
        np.testing.assert_allclose(median, 0, atol=1e-12)
        np.testing.assert_allclose(1.4826 * np.median(np.abs(controls - median), axis=0), 1)


def test_pca_whitening_makes_controls_uncorrelated(profiles):
    controls = correct(profiles, "pca_whitening").features[is_negcon(profiles)]
    covariance = np.cov(controls, rowvar=False)
    np.testing.assert_allclose(covariance, np.eye(len(covariance)), atol=1e-8)


def test_sphering_evens_out_the_controls(profiles):
    stretched = Profiles("x", profiles.meta, profiles.features * np.linspace(1, 20, 12))
    controls = correct(stretched, "sphering").features[is_negcon(profiles)]
    after = np.linalg.eigvalsh(np.cov(controls, rowvar=False))
    before = np.linalg.eigvalsh(np.cov(stretched.features[is_negcon(profiles)], rowvar=False))
    assert after[-1] / after[0] < 0.1 * before[-1] / before[0]


def test_harmony_on_controls_is_harmonypys_and_brings_plates_together(profiles):
    harmonypy = pytest.importorskip("harmonypy")
    from eval.corrections import _plate_shifts

    rng = np.random.default_rng(0)
    batch = np.repeat(np.arange(3), 60)
    scores = rng.normal(size=(180, 6)) * 2 + 3 * rng.normal(size=(3, 6))[batch]
    names = {"plate": batch.astype(str)}
    fitted = harmonypy.run_harmony(
        scores, names, "plate", lamb=1.0, sigma=0.1, verbose=False, ncores=1
    )
    shifts = _plate_shifts(fitted.Z_orig, fitted.R, batch, 3)
    ours = scores - np.einsum("nk,knd->nd", fitted.R, shifts[:, batch])
    np.testing.assert_allclose(ours, fitted.Z_corr, atol=1e-3)  # it has float32

    corrected = correct(profiles, "harmony")
    treated = ~is_negcon(profiles) & (profiles.meta["Metadata_modality"] == "compound").to_numpy()
    assert plate_share(corrected, treated) < 0.5 * plate_share(profiles, treated)


def plate_share(profiles: Profiles, rows: np.ndarray) -> float:
    """Share of the variance that is between plates."""
    features, plate = profiles.features[rows], profiles.meta["Metadata_Plate"][rows]
    means = np.stack([features[plate == name].mean(axis=0) for name in plate.unique()])
    return means.var(axis=0).sum() / features.var(axis=0).sum()


def test_what_cannot_be_corrected_is_said(profiles):
    with pytest.raises(InputError, match="unknown correction magic"):
        correct(profiles, "magic")
    plate = profiles.meta["Metadata_Plate"] == "SIM00002"
    cut = profiles.subset(~(is_negcon(profiles) & plate.to_numpy()))
    with pytest.raises(InputError, match="plate SIM00002 has no negative controls"):
        correct(cut, "sphering")


def test_half_controls_are_disjoint_and_the_same_positions_on_all_plates(profiles):
    fitted, held_out = (half_controls(profiles, "none", on) for on in (True, False))
    positions = [
        p.meta[is_negcon(p)].groupby("Metadata_Plate")["Metadata_Well"].agg(frozenset)
        for p in (fitted, held_out)
    ]
    assert positions[0].nunique() == positions[1].nunique() == 1
    assert positions[0].iloc[0].isdisjoint(positions[1].iloc[0])
    n_controls = is_negcon(fitted).sum() + is_negcon(held_out).sum()
    assert n_controls == is_negcon(profiles).sum()
    assert (~is_negcon(fitted)).sum() == (~is_negcon(profiles)).sum()


def test_cellclips_view_is_kernel_pca_and_a_scaler_a_plate(profiles):
    view = cellclip_view(profiles, seed=1)
    pca = KernelPCA(n_components=12, kernel="linear").fit(profiles.features[is_negcon(profiles)])
    scores = pca.transform(profiles.features)
    plate = profiles.meta["Metadata_Plate"]
    for name in plate.unique():
        rows = (plate == name).to_numpy()
        scores[rows] = StandardScaler().fit_transform(scores[rows])
    key = ["Metadata_Plate", "Metadata_Well"]
    wells = profiles.meta[key].apply(tuple, axis=1)
    kept = wells.isin(view.meta[key].apply(tuple, axis=1)).to_numpy()
    np.testing.assert_allclose(np.abs(view.features), np.abs(scores[kept]), atol=1e-6)
    assert view.meta.groupby("Metadata_Plate").size().unique().tolist() == [24]  # of 96
