"""One site from raw to stored pixels: monotone, blind to gain, controls in their place."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from helpers import write_tiff_plate, write_tiny_store
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_image_names import as_indexed

from data.channels import CHANNELS
from data.errors import InputError
from data.plates import read_plates
from data.raw import Plate, Site
from data.site import BRIGHT, Correction, SiteTask, process_site
from data.store import load_manifest, load_sites, load_wells, read_pixels, site_table
from data.tiff import read_tiff

SIZE = 32


def given_pixels(site: Site, pixels: NDArray) -> NDArray:
    return pixels


def stored(pixels: NDArray, background: list[float], bright: list[float]) -> NDArray:
    """Process one field without shrinking it."""
    plate = Plate(
        "P", CHANNELS[: len(pixels)], (True,) * len(pixels), pd.DataFrame(), (),
        partial(given_pixels, pixels=pixels),
    )  # fmt: skip
    correction = Correction(
        (SIZE, SIZE), None, np.array(background, float), np.array(bright, float)
    )
    rows, _ = process_site(SiteTask(plate, Site("A01", 1, ()), correction, SIZE, None, False))
    return rows[0]["pixels"]


@settings(deadline=None)
@given(
    seed=st.integers(0, 1000),
    background=st.integers(0, 60000),
    span=st.integers(1, 65535),
)
def test_scaling_is_monotone(seed: int, background: int, span: int) -> None:
    """A brighter raw pixel is never stored darker, whatever the controls are."""
    raw = np.random.default_rng(seed).integers(0, 65536, (2, SIZE, SIZE), dtype=np.uint16)
    scaled = stored(raw, [background] * 2, [background + span] * 2)
    order = np.argsort(raw.ravel())
    assert (np.diff(scaled.ravel()[order].astype(int)) >= 0).all()
    assert (scaled[raw <= background] == 0).all()
    above = raw >= background + span
    assert (scaled[above] >= BRIGHT).all()


@settings(deadline=None, max_examples=30)
@given(gain=st.floats(0.3, 3), offset=st.integers(0, 3000), seed=st.integers(0, 9))
def test_gain_and_offset_of_the_camera_do_not_matter(gain: float, offset: int, seed: int) -> None:
    raw = np.random.default_rng(seed).integers(0, 15000, (1, SIZE, SIZE), dtype=np.uint16)
    other = np.rint(raw * gain + offset).astype(np.uint16)
    one = stored(raw, [100], [9000])
    two = stored(other, [100 * gain + offset], [9000 * gain + offset])
    assert np.abs(one.astype(int) - two.astype(int)).max() <= 1 + BRIGHT / (8900 * gain)


def test_published_functions_are_divided_by(tmp_path: Path) -> None:
    """A plate whose light is known is stored as the same plate under even light."""
    wells = {"A01": "", "A02": "BRD-1"}
    even = write_tiff_plate(tmp_path / "even", wells=wells, sites=1, size=64)
    lit = write_tiff_plate(tmp_path / "lit", wells=wells, sites=1, size=64)
    light = 1 + np.mgrid[:64, :64][1] / 64
    (lit / "illum/P1").mkdir(parents=True)
    for stain in CHANNELS:
        np.save(lit / f"illum/P1/P1_Illum{stain}.npy", light)
    for path in (lit / "images/P1").iterdir():
        tifffile.imwrite(path, np.rint(read_tiff(path) * light).astype(np.uint16))
    found = []
    for folder in (even, lit):
        write_tiny_store(folder, folder / "out", size=64, measure=False)
        found.append(read_pixels(load_sites(folder / "out"), range(2)).astype(int))
    assert np.abs(found[0] - found[1]).max() < 0.01 * BRIGHT
    np.save(lit / "illum/P1/P1_IllumER.npy", light[:, :60])
    (plate,) = read_plates(lit)
    assert plate.illumination is not None
    with pytest.raises(InputError, match=r"P1_IllumER.npy: size is \(64, 60\)"):
        plate.illumination()


def test_positions_and_pixel_size_are_kept(tmp_path: Path) -> None:
    raw = write_tiff_plate(tmp_path / "raw", "P1", sites=2, size=64)
    as_indexed(raw)
    write_tiny_store(raw, tmp_path / "out", size=32, measure=False)
    table = site_table(load_sites(tmp_path / "out"))
    assert table["Metadata_X"].tolist()[:2] == pytest.approx([1, 2])
    assert (table["Metadata_Y"] == -2).all() and (table["Metadata_Part"] == 0).all()
    record = load_manifest(tmp_path / "out").plates["P1"]
    assert record["pixel_size"] == pytest.approx(2 * 0.59)
    assert load_wells(tmp_path / "out")["QC_Cells"].isna().all()  # nobody looked for them


@settings(deadline=None, max_examples=8)
@given(gains=st.lists(st.floats(0.2, 4), min_size=5, max_size=5), offset=st.integers(0, 2000))
def test_controls_land_where_they_should(
    tmp_path_factory: pytest.TempPathFactory, gains: list[float], offset: int
) -> None:
    """Whatever gain a channel had: control background is 0, the controls' bright end 16384."""
    folder = tmp_path_factory.mktemp("gain")
    raw = write_tiff_plate(folder, wells={"A01": "", "A02": "BRD-1"}, sites=1, size=SIZE)
    for path in (raw / "images/P1").iterdir():
        planes = read_tiff(path) * gains[int(path.name.split("-ch")[1][0]) - 1] + offset
        tifffile.imwrite(path, np.clip(planes, 0, 65535).astype(np.uint16))
    write_tiny_store(raw, folder / "out", size=SIZE, measure=False)
    control = read_pixels(load_sites(folder / "out"), [0])[0].reshape(5, -1)
    low, high = np.percentile(control, (0.1, 99.9), axis=1, method="inverted_cdf")
    assert (low <= 0.003 * BRIGHT).all()
    np.testing.assert_allclose(high, BRIGHT, rtol=0.01)
