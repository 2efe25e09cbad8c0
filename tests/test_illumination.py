"""Illumination, shrinking and quality: what they must keep and what they must see."""

from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from helpers import draw_site
from hypothesis import given, settings
from scipy import ndimage

from data.errors import InputError
from data.illumination import (
    GRID,
    estimate_illumination,
    find_illumination,
    illumination_field,
)
from data.quality import flat_planes, measure_quality, power_slope
from data.resize import centre_square, resize_area

NAMES = ["Mito", "AGP", "RNA", "ER", "DNA"]


def vignette(size: int) -> np.ndarray:
    """A light that falls off from a point beside the centre; mean 1."""
    y, x = np.mgrid[:size, :size] / size
    light = 1 - 0.8 * ((y - 0.4) ** 2 + (x - 0.6) ** 2)
    return light / light.mean()


def test_known_illumination_is_found_and_taken_out() -> None:
    rng = np.random.default_rng(0)
    light = vignette(96)
    found = estimate_illumination(resize_area(draw_site(rng) * light, GRID) for _ in range(120))
    field = illumination_field(found, 96, 96)
    np.testing.assert_allclose(field.mean(axis=(1, 2)), 1, atol=1e-3)
    error = np.sqrt(((field / light - 1) ** 2).mean(axis=(1, 2)))
    uncorrected = np.sqrt(((1 / light - 1) ** 2).mean())
    assert (error < 0.06).all() and (error < 0.4 * uncorrected).all()


def test_a_quadratic_light_is_taken_out_exactly() -> None:
    lit = np.stack([vignette(60), vignette(60)[::-1]]) * 1000
    found = estimate_illumination([resize_area(lit, GRID)] * 3)
    np.testing.assert_allclose(lit / illumination_field(found, 60, 60), 1000, rtol=2e-3)
    wide = 1 / illumination_field(found, 40, 90)  # any size, any shape
    assert wide.shape == (2, 40, 90) and wide[0, 0, -1] != wide[0, -1, 0]


def test_dark_channels_stay_dark() -> None:
    found = estimate_illumination([np.zeros((2, GRID, GRID))])
    np.testing.assert_array_equal(illumination_field(found, 9, 9), 1)


@settings(deadline=None, max_examples=30)
@given(st.integers(20, 90), st.integers(20, 90), st.integers(8, 20))
def test_shrinking_keeps_the_mean(height: int, width: int, size: int) -> None:
    pixels = np.random.default_rng(0).uniform(0, 1000, (2, height, width))
    small = resize_area(pixels, size)
    assert small.shape == (2, size, size) and small.dtype == np.float32
    np.testing.assert_allclose(small.mean(axis=(1, 2)), pixels.mean(axis=(1, 2)), rtol=1e-4)
    assert small.min() >= pixels.min() - 1e-3 and small.max() <= pixels.max() + 1e-3


def test_whole_factors_are_plain_block_means() -> None:
    pixels = np.random.default_rng(0).uniform(0, 1000, (3, 96, 96))
    blocks = pixels.reshape(3, 32, 3, 32, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(resize_area(pixels, 32), blocks, rtol=1e-4)
    np.testing.assert_allclose(resize_area(pixels, 96), pixels, rtol=1e-6)


def test_images_are_never_enlarged() -> None:
    with pytest.raises(InputError, match=r"30 x 40 pixels, smaller than the size.*at most 30"):
        resize_area(np.zeros((1, 30, 40)), 32)


def test_the_central_square_is_cut() -> None:
    pixels = np.arange(6 * 10).reshape(1, 6, 10)
    np.testing.assert_array_equal(centre_square(pixels), pixels[:, :, 2:8])
    np.testing.assert_array_equal(centre_square(pixels.transpose(0, 2, 1))[0], pixels[0, :, 2:8].T)


def test_quality_sees_blur_saturation_and_haze() -> None:
    raw = draw_site(np.random.default_rng(0))
    scaled = (raw / 4000).astype(np.float32)
    good = measure_quality(raw, scaled, NAMES)
    blurred = ndimage.gaussian_filter(raw, (0, 4, 4))
    assert measure_quality(blurred, scaled, NAMES)["QC_Focus"] < good["QC_Focus"] - 0.5
    hazy = measure_quality(raw, scaled + 0.3, NAMES)
    assert hazy["QC_Background"] == pytest.approx(good["QC_Background"] + 0.3, abs=1e-4)
    assert good["QC_Saturation"] == 0
    raw[2, :48] = 65535
    assert measure_quality(raw, scaled, NAMES)["QC_Saturation"] == 0.5
    raw[2, :48] = 4095  # of a camera of 12 bits
    raw[raw > 4095] = 4094
    assert measure_quality(raw, scaled, NAMES)["QC_Saturation"] == 0.5
    raw[raw == 4095] = 3000  # bright, but not at any camera's limit
    assert measure_quality(raw, scaled, NAMES)["QC_Saturation"] == 0
    eight_bit = np.zeros((5, 16, 16), np.uint8)
    eight_bit[4, :4] = 255
    assert measure_quality(eight_bit, eight_bit.astype(np.float32), NAMES)["QC_Saturation"] == 0.25


def test_quality_sees_debris() -> None:
    raw = draw_site(np.random.default_rng(0))
    scaled = (raw / raw.max((1, 2), keepdims=True)).astype(np.float32)
    assert measure_quality(raw, scaled, NAMES)["QC_Debris"] == 0
    scaled[3, :24] = 5
    assert measure_quality(raw, scaled, NAMES)["QC_Debris"] == pytest.approx(0.25)


def test_published_functions_are_found_and_decoded(tmp_path: Path) -> None:
    assert find_illumination(tmp_path / "nothing", ["DNA"]) is None
    light = np.random.default_rng(0).uniform(1, 3, (2, 20, 30))
    np.save(tmp_path / "P1_IllumDNA.npy", light[0])
    np.save(tmp_path / "P1_IllumMito.npy", light[1])
    published = find_illumination(tmp_path, ["DNA", None, "Mito"])
    assert published is not None and hash(published) == hash(
        find_illumination(tmp_path, ["DNA", None, "Mito"])
    )
    found = published()
    assert found.dtype == np.float32 and (found[1] == 1).all()
    np.testing.assert_allclose(found[[0, 2]], light, rtol=1e-6)
    with pytest.raises(InputError, match=r"expected one illumination function of ER, .*found 0"):
        find_illumination(tmp_path, ["DNA", "ER"])


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        (np.zeros((20, 30)), r"IllumER.npy: expected a positive function \(H, W\)"),
        (np.ones((2, 20, 30)), r"IllumER.npy: expected a positive function"),
        (np.ones((20, 31)), r"IllumER.npy: size is \(20, 31\), the other functions' \(20, 30\)"),
        (None, r"IllumER.npy: not a readable illumination function"),
    ],
)
def test_bad_functions_are_named(
    tmp_path: Path, function: np.ndarray | None, complaint: str
) -> None:
    np.save(tmp_path / "P1_IllumDNA.npy", np.ones((20, 30)))
    if function is None:
        (tmp_path / "P1_IllumER.npy").write_bytes(b"nothing")
    else:
        np.save(tmp_path / "P1_IllumER.npy", function)
    published = find_illumination(tmp_path, ["DNA", "ER"])
    assert published is not None
    with pytest.raises(InputError, match=complaint):
        published()


def test_quality_of_nothing_is_a_number() -> None:
    empty = np.zeros((5, 16, 16), np.uint16)
    assert set(measure_quality(empty, empty.astype(np.float32), NAMES).values()) == {0.0}
    assert power_slope(np.full((16, 16), 3.0)) == 0


def test_a_plane_is_flat_only_when_all_its_pixels_are_equal() -> None:
    raw = np.random.default_rng(0).integers(0, 9, (5, 8, 8)).astype(np.uint16)
    raw[1], raw[2] = 0, 65535
    raw[3] = 7
    raw[3, 5, 5] = 8  # its first row says nothing of this
    assert flat_planes(raw).tolist() == [False, True, True, False, False]
