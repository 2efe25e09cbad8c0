"""Tiles and crops around cells: the right pixels, every cell inside, faults by name."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from helpers import write_tiff_plate, write_tiny_store
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import InputError
from data.fields import read_fields
from data.normalize import NO_REFERENCE
from data.parts import cut_cells, cut_tiles, nucleus_centres, read_centres
from data.prepare import PrepareSettings, prepare
from data.store import load_manifest, load_sites, load_wells, read_pixels, site_table


@settings(deadline=None)
@given(side=st.integers(8, 40), tiles=st.integers(1, 4))
def test_tiles_cover_the_square(side: int, tiles: int) -> None:
    pixels = np.arange(2 * side * side).reshape(2, side, side)
    cut = cut_tiles(pixels, tiles)
    small = side // tiles
    rows = [np.concatenate(cut[i : i + tiles], axis=2) for i in range(0, tiles**2, tiles)]
    np.testing.assert_array_equal(
        np.concatenate(rows, axis=1), pixels[:, : small * tiles, : small * tiles]
    )


@settings(deadline=None)
@given(
    centres=st.lists(st.tuples(st.floats(0, 50), st.floats(0, 70)), max_size=12),
    side=st.integers(1, 50),
    most=st.integers(1, 12),
)
def test_crops_hold_their_cells(centres: list[tuple[float, float]], side: int, most: int) -> None:
    rows, columns = np.mgrid[:50, :70]
    crops = cut_cells(np.stack([rows, columns]), np.array(centres).reshape(-1, 2), side, most)
    assert len(crops) == max(1, min(most, len(centres)))
    middles = [crop.reshape(2, -1).mean(axis=1) + 0.5 for crop in crops]
    for crop in crops:
        assert crop.shape == (2, side, side)
    if most >= len(centres) > 0:
        for (y, x), middle in zip(centres, middles, strict=True):
            low, high = side / 2, np.array([50, 70]) - side / 2
            expected = np.clip([y, x], low, high)
            assert np.abs(middle - expected).max() <= 0.5 + 1e-9


def test_a_crop_does_not_fit() -> None:
    with pytest.raises(InputError, match=r"images are 20 x 30 pixels, smaller than the crop of 21"):
        cut_cells(np.zeros((1, 20, 30)), np.zeros((1, 2)), 21, 1)


def test_centres_of_labels() -> None:
    labels = np.zeros((20, 30), np.int32)
    labels[2:5, 10:13] = 1
    labels[10:12, 20:22] = 2
    np.testing.assert_allclose(nucleus_centres(labels), [[3, 11], [10.5, 20.5]])
    assert nucleus_centres(labels * 0).shape == (0, 2)


def test_bad_tables_of_nuclei_are_named(tmp_path: Path) -> None:
    path = tmp_path / "Nuclei.csv"
    good = {"ImageNumber": [1, 1], "AreaShape_Center_X": [1, 29], "AreaShape_Center_Y": [2, 19]}
    with pytest.raises(InputError, match=r"Nuclei.csv: table of nuclei is missing"):
        read_centres(path, (20, 30))
    for change, complaint in (
        ({"AreaShape_Center_X": None}, r"no columns AreaShape_Center_X and AreaShape_Center_Y"),
        ({"ImageNumber": [1, 2]}, r"holds the nuclei of several images"),
        ({"AreaShape_Center_X": [1, 31]}, r"row 3: nucleus at x 31, y 19 is outside .* 20 x 30"),
        ({"AreaShape_Center_Y": [None, 1]}, r"row 2: nucleus at x 1, y nan is outside"),
    ):
        table = pd.DataFrame({k: v for k, v in (good | change).items() if v is not None})
        table.to_csv(path, index=False)
        with pytest.raises(InputError, match=complaint):
            read_centres(path, (20, 30))
    path.write_text("")
    with pytest.raises(InputError, match=r"Nuclei.csv: not a readable table of nuclei"):
        read_centres(path, (20, 30))
    for names in (("AreaShape", "AreaShape"), ("Location", "Location"), ("Nuclei_Location",) * 2):
        columns = [f"{names[0]}_Center_X", f"{names[1]}_Center_Y"]
        pd.DataFrame([[1.5, 2.5]], columns=columns).to_csv(path, index=False)
        np.testing.assert_array_equal(read_centres(path, (20, 30)), [[2.5, 1.5]])


def test_tiles_of_a_plate_are_its_field_cut(tmp_path: Path) -> None:
    raw = write_tiff_plate(tmp_path / "raw", wells={"A01": "", "A02": "BRD-1"}, sites=2)
    choices = {"measure": False, "crop": 96}
    write_tiny_store(raw, tmp_path / "whole", size=96, **choices)
    write_tiny_store(raw, tmp_path / "tiles", size=48, tiles=2, **choices)
    whole = read_pixels(load_sites(tmp_path / "whole"), range(4))
    sites = load_sites(tmp_path / "tiles")
    table = site_table(sites)
    assert table["Metadata_Part"].tolist() == [1, 2, 3, 4] * 4
    assert table["Metadata_Site"].tolist() == [1] * 4 + [2] * 4 + [1] * 4 + [2] * 4
    tiles = read_pixels(sites, range(16)).reshape(4, 4, 5, 48, 48)
    for field, (one, two, three, four) in zip(whole, tiles, strict=True):
        joined = np.block([[one, two], [three, four]])
        assert np.abs(joined.astype(int) - field.astype(int)).max() <= 1
    # The quality of a part is its field's.
    for name in ("QC_Focus", "QC_Saturation"):
        np.testing.assert_allclose(
            load_wells(tmp_path / "tiles")[name], load_wells(tmp_path / "whole")[name], rtol=1e-6
        )


def test_tiles_and_cells_exclude_each_other() -> None:
    for wrong in ({"tiles": 0}, {"cells": 5}, {"cells": 5, "crop": 64, "tiles": 2}):
        with pytest.raises(InputError, match=r"--tiles is .*; --cells is .*with --crop"):
            PrepareSettings(**wrong)


def test_cells_of_a_plate(tmp_path: Path) -> None:
    """Our segmentation and, for one site, CellProfiler's table; a second run keeps them."""
    raw = write_tiff_plate(tmp_path / "raw", sites=1)
    nuclei = raw / "nuclei/P1/A02-1-Nuclei.csv"
    nuclei.parent.mkdir(parents=True)
    middles = range(5, 90, 7)  # more than there are cells
    pd.DataFrame({"Location_Center_X": middles, "Location_Center_Y": middles}).to_csv(nuclei)
    choices = {"size": 32, "crop": 32, "cells": 50, "measure": True}
    write_tiny_store(raw, tmp_path / "out", **choices)
    wells = load_wells(tmp_path / "out").set_index("Metadata_Well")
    sites = load_sites(tmp_path / "out")
    table = site_table(sites)
    counted = table.groupby("Metadata_Well").size()
    assert counted["A02"] == wells.loc["A02", "QC_Cells"] == 13
    assert counted["A01"] == wells.loc["A01", "QC_Cells"] > 2
    dna = read_pixels(sites, np.flatnonzero(table["Metadata_Well"] == "A01"))[:, 0].astype(float)
    middle, border = dna[:, 12:20, 12:20].mean(), dna[:, [0, -1]].mean()
    assert middle > 1.5 * border  # a nucleus is where the crop has its middle
    nuclei.unlink()
    write_tiny_store(raw, tmp_path / "out", **choices)
    assert load_wells(tmp_path / "out").set_index("Metadata_Well").loc["A02", "QC_Cells"] < 13
    assert (
        site_table(load_sites(tmp_path / "out")).groupby("Metadata_Well").size()["A01"]
        == counted["A01"]
    )


def test_a_field_without_cells_stays(tmp_path: Path) -> None:
    raw = write_tiff_plate(tmp_path / "raw", wells={"A01": "", "A02": "BRD-1"}, sites=1)
    nuclei = raw / "nuclei/P1/A02-1/Nuclei.csv"
    nuclei.parent.mkdir(parents=True)
    pd.DataFrame({"AreaShape_Center_X": [], "AreaShape_Center_Y": []}).to_csv(nuclei)
    write_tiny_store(raw, tmp_path / "out", size=32, crop=32, cells=5, measure=False)
    table = site_table(load_sites(tmp_path / "out")).set_index("Metadata_Well")
    assert len(table.loc[["A02"]]) == 1 and table.loc["A02", "QC_Cells"] == 0
    assert 1 < len(table.loc[["A01"]]) <= 5 and table.loc[["A01"], "QC_Cells"].min() > 1


def test_the_68_cells_of_a_real_field(shared: Path, tmp_path: Path) -> None:
    """CellProfiler's nuclei of BR00117035 A01: bright DNA in the middle of every crop."""
    field = next(p for p in read_fields(shared / "jump_fields") if p.barcode == "BR00117035_A01")
    choices = PrepareSettings(size=32, crop=64, cells=100, measure=False, processes=1)
    prepare([field], tmp_path, choices, source="fields", reference=NO_REFERENCE)
    sites = load_sites(tmp_path)
    assert len(sites) == 68 == load_wells(tmp_path).loc[0, "QC_Cells"]
    dna = read_pixels(sites, range(68))[:, 0].astype(float)
    middle = dna[:, 13:19, 13:19].mean(axis=(1, 2))
    assert (middle > 1.2 * np.median(dna)).mean() > 0.95


def test_the_command_takes_a_pattern_and_tiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    from prepare_data import PrepareConfig, prepare_source

    raw = write_tiff_plate(tmp_path / "raw", sites=1)
    for path in (raw / "images/P1").iterdir():
        path.rename(path.with_name("my-" + path.name))
    pattern = r"my-r(?P<row>\d+)c(?P<column>\d+)f(?P<site>\d+)p01-(?P<channel>ch\d)sk1fk1fl1\.tiff"
    config = PrepareConfig(
        source="plates", input=str(raw), out=str(tmp_path / "out"), pattern=pattern, tiles=2,
        size=48, processes=1, measure=False, held_out_targets="0",
    )  # fmt: skip
    assert prepare_source(config)
    assert load_manifest(tmp_path / "out").plates["P1"]["sites"] == 8 * 4
    config.source = "fields"
    with pytest.raises(InputError, match="--pattern has no meaning for the source fields"):
        prepare_source(config)
