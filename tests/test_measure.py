"""Segmentation and features: against shapes of known size, cp_measure, and a real field."""

import warnings

import numpy as np
import pandas as pd
import pytest
from cp_measure.core.measurecolocalization import get_correlation_pearson
from cp_measure.core.measureobjectintensity import get_intensity
from cp_measure.core.measureobjectsizeshape import get_sizeshape
from cp_measure.core.measuretexture import get_texture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.draw import disk, ellipse

from data.channels import CHANNELS
from data.errors import InputError
from data.measure import COUNT, measure_site, well_profile
from data.pixel_features import (
    correlation_features,
    intensity_features,
    radial_features,
    shape_features,
    texture_features,
)
from data.segment import segment_cells


@pytest.fixture(scope="module")
def site() -> np.ndarray:
    """Nine round cells of radius 20 with nuclei of radius 8, on a little noise."""
    rng = np.random.default_rng(0)
    pixels = 0.01 * rng.random((5, 180, 180))
    for row in (30, 90, 150):
        for column in (30, 90, 150):
            cell, nucleus = disk((row, column), 20), disk((row, column), 8)
            pixels[1:, cell[0], cell[1]] += 0.4
            pixels[0, nucleus[0], nucleus[1]] += 0.8
    return pixels


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    image = np.zeros((90, 120), np.int32)
    for number, (row, column, a, b) in enumerate(
        [(20, 20, 12, 8), (20, 60, 15, 15), (60, 30, 9, 18), (62, 84, 20, 12)], start=1
    ):
        image[ellipse(row, column, a, b, rotation=0.3 * number)] = number
    return image


def test_cells_are_found_once_with_their_size(site):
    objects = segment_cells(site, CHANNELS)
    assert objects["Nuclei"].max() == objects["Cells"].max() == 9
    cells = measure_site(site, CHANNELS)
    assert len(cells) == 9
    assert cells["Nuclei_AreaShape_Area"].to_numpy() == pytest.approx(np.pi * 64, rel=0.25)
    assert cells["Cells_AreaShape_Area"].to_numpy() == pytest.approx(np.pi * 400, rel=0.25)
    assert (cells[COUNT] == 9).all()


def test_compartments_share_numbers(site):
    objects = segment_cells(site, CHANNELS)
    nuclei, cells, cytoplasm = (objects[k] for k in ("Nuclei", "Cells", "Cytoplasm"))
    assert (cells[nuclei > 0] == nuclei[nuclei > 0]).all()
    assert (cytoplasm[nuclei > 0] == 0).all()
    assert ((cytoplasm > 0) | (nuclei > 0) == (cells > 0)).all()


def test_brighter_stain_raises_only_its_intensity(site):
    plain = measure_site(site, CHANNELS).mean()
    brighter = site.copy()
    brighter[CHANNELS.index("Mito")] *= 2
    bright = measure_site(brighter, CHANNELS).mean()
    name = "Cells_Intensity_MeanIntensity_{}"
    assert bright[name.format("Mito")] > 1.8 * plain[name.format("Mito")]
    assert bright[name.format("ER")] == pytest.approx(plain[name.format("ER")], rel=0.02)


@pytest.mark.parametrize("kind", ["black", "noise"])
def test_a_site_without_cells_has_no_rows_but_all_columns(site, kind):
    empty = np.zeros_like(site)
    if kind == "noise":
        empty = 0.02 * np.random.default_rng(1).standard_normal(site.shape)
    cells = measure_site(empty, CHANNELS)
    assert len(cells) == 0
    if kind == "noise":
        assert list(cells) == list(measure_site(site, CHANNELS))


def test_any_stains_with_dna_will_do(site):
    cells = measure_site(site[:3], ("DNA", "Actin", "Tubulin"))
    assert len(cells) == 9
    assert "Cells_Intensity_MeanIntensity_Tubulin" in cells
    assert "Cells_Correlation_Correlation_DNA_Actin" in cells
    assert len(measure_site(site[:1], ("DNA",))) == 9


def test_missing_dna_is_named(site):
    with pytest.raises(InputError, match=r"DNA is missing \(found ER, RNA\)"):
        measure_site(site[1:3], ("ER", "RNA"))


def test_planes_and_names_must_agree(site):
    with pytest.raises(InputError, match="5 channel planes but 2 stain names"):
        measure_site(site, ("DNA", "ER"))


def test_an_unimaged_channel_adds_no_features(site):
    dark = site.copy()
    dark[CHANNELS.index("ER")] = 0
    assert not [name for name in measure_site(dark, CHANNELS) if "ER" in name.split("_")]


def test_every_kind_of_feature_is_there(site):
    names = set(measure_site(site, CHANNELS))
    wanted = {COUNT, "Nuclei_AreaShape_FormFactor", "Cells_AreaShape_Eccentricity"}
    wanted |= {f"Cells_RadialDistribution_MeanFrac_1of4_{stain}" for stain in CHANNELS}
    wanted |= {f"Cells_Texture_Contrast_3_00_256_{stain}" for stain in CHANNELS}
    wanted |= {"Nuclei_Texture_Correlation_3_00_256_DNA", "Nuclei_Intensity_MaxIntensity_RNA"}
    wanted |= {"Cytoplasm_Intensity_MeanIntensity_AGP", "Cells_Granularity_1_Mito"}
    wanted |= {"Cells_Correlation_Correlation_DNA_ER"}
    assert wanted <= names


def test_well_profile_averages_cells_and_counts_a_site():
    sites = [pd.DataFrame({"a": [1.0, 3.0], COUNT: 2.0}), pd.DataFrame({"a": [5.0], COUNT: 1.0})]
    profile = well_profile(sites)
    assert profile["a"] == 3.0
    assert profile[COUNT] == 1.5


def test_well_without_cells_has_count_zero_and_missing_features():
    empty = pd.DataFrame({"a": np.empty(0), COUNT: np.empty(0)})
    profile = well_profile([empty, empty])
    assert profile[COUNT] == 0
    assert np.isnan(profile["a"])


def test_shapes_agree_with_cp_measure(labels):
    ours = shape_features(labels)
    theirs = get_sizeshape(labels, None, calculate_advanced=False, new_features=False)
    for name in ("Area", "Perimeter", "FormFactor", "Extent"):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-6, err_msg=name)
    # cp_measure leaves out a pixel's own extent (1/12) in the moments.
    for name in ("MajorAxisLength", "MinorAxisLength", "Eccentricity"):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=0.01, err_msg=name)


def test_intensities_agree_with_cp_measure(labels):
    plane = np.random.default_rng(2).random(labels.shape)
    theirs = get_intensity(labels, plane)
    for name, values in intensity_features(labels, plane, 4).items():
        np.testing.assert_allclose(values, theirs[f"Intensity_{name}"], rtol=1e-6, err_msg=name)


def test_textures_agree_with_cp_measure(labels):
    rng = np.random.default_rng(3)
    plane = 0.2 + 0.6 * rng.random(labels.shape)
    theirs = get_texture(labels, plane)
    ours = texture_features(labels, plane)
    # cp_measure rounds to 256 levels
    for name, tolerance in (("Contrast", 0.01), ("Correlation", 0.01)):
        key = f"{name}_3_00_256"
        np.testing.assert_allclose(ours[key], theirs[key], rtol=tolerance, atol=tolerance)


def test_correlations_agree_with_cp_measure(labels):
    rng = np.random.default_rng(4)
    one, other = rng.random(labels.shape), rng.random(labels.shape)
    other += one
    ours = correlation_features(labels, {"DNA": one, "ER": other})[("DNA", "ER")]
    theirs = get_correlation_pearson(one, other, labels)["Correlation_Pearson"]
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@given(level=st.floats(0.01, 3), scale=st.floats(0.1, 10))
@settings(max_examples=20, deadline=None)
def test_radial_fractions_ignore_brightness_and_are_one_for_flat_stain(level, scale):
    cells, nuclei = np.zeros((60, 60), np.int32), np.zeros((60, 60), np.int32)
    cells[disk((30, 30), 24)] = 1
    nuclei[disk((30, 30), 8)] = 1
    bump = np.hypot(*(np.indices((60, 60)) - 30)) + 1
    flat = radial_features(cells, nuclei, {"ER": np.full((60, 60), level)})["ER"]
    one = radial_features(cells, nuclei, {"ER": bump})["ER"]
    other = radial_features(cells, nuclei, {"ER": scale * bump})["ER"]
    for k in range(1, 5):
        assert flat[f"MeanFrac_{k}of4"][0] == pytest.approx(1)
        assert flat[f"RadialCV_{k}of4"][0] == pytest.approx(0, abs=1e-6)
        assert one[f"MeanFrac_{k}of4"][0] == pytest.approx(other[f"MeanFrac_{k}of4"][0])
    assert one["MeanFrac_1of4"][0] < one["MeanFrac_4of4"][0]


def test_a_real_jump_field_gives_plausible_cells(shared):
    folder = shared / "jump_fields" / "BR00117035_A01" / "images"
    planes = []
    for number in (5, 4, 3, 2, 1):
        image = Image.open(folder / f"r01c01f01p01-ch{number}sk1fk1fl1.tiff")
        plane = np.asarray(image, float).reshape(270, 4, 270, 4).mean(axis=(1, 3))
        low, high = np.percentile(plane, [0.1, 99.9])
        planes.append((plane - low) / (high - low))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cells = measure_site(np.stack(planes), CHANNELS)
    assert 50 <= len(cells) <= 90  # CellProfiler found 68
    assert cells.isna().to_numpy().mean() < 0.02
    assert (cells["Cells_AreaShape_Area"] >= cells["Nuclei_AreaShape_Area"]).all()
