"""Export to OME-Zarr: valid, readable by the format's own reader, and the same when read again."""

import sys
from pathlib import Path

import numpy as np
import pytest
import yaozarrs
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader

from data.channels import STAINS, order_channels
from data.errors import InputError
from data.export import export_plate
from data.fields import read_fields
from data.normalize import NO_REFERENCE
from data.prepare import PrepareSettings, prepare
from data.store import (
    QC_COLUMNS,
    Manifest,
    load_manifest,
    load_sites,
    plate_folder,
    read_pixels,
    save_manifest,
    site_table,
    write_sites,
)
from data.zarr_images import read_zarr_plate


def write_store(
    folder: Path,
    sites: list[tuple[str, int]],
    stains: set[str],
    size: int,
    seed: int = 0,
    pixel_size: float | None = None,
) -> Path:
    """Write a store of one plate P1 with random pixels; stains that were not imaged are zero."""
    channels = order_channels(stains)
    present = [stain in stains for stain in channels]
    rng = np.random.default_rng(seed)
    facts = dict.fromkeys(QC_COLUMNS, 0.0) | {"Metadata_Plate": "P1", "Metadata_Part": 0}

    def rows():
        for well, number in sites:
            pixels = rng.integers(0, 65536, (len(channels), size, size), dtype=np.uint16)
            pixels[~np.array(present)] = 0
            place = {"Metadata_X": 10.0 * number, "Metadata_Y": -5.0}
            yield {
                "pixels": pixels,
                "Metadata_Well": well,
                "Metadata_Site": number,
                **place,
                **facts,
            }

    manifest = Manifest("plates", list(channels), size, "same-plate controls", False)
    manifest.plates["P1"] = {
        "wells": len({well for well, _ in sites}), "sites": len(sites), "settings": "",
        "sha256": write_sites(plate_folder(folder, "P1"), rows()),
        "channels_present": present, "pixel_size": pixel_size,
    }  # fmt: skip
    save_manifest(folder, manifest)
    return folder


def check_round_trip(store: Path, barcode: str, path: Path) -> None:
    """What was exported is valid and gives the stored pixels of the same wells and sites."""
    yaozarrs.validate_zarr_store(str(path))
    plate = read_zarr_plate(str(path), barcode, None)
    manifest = load_manifest(store)
    assert plate.channels == tuple(manifest.channels)
    assert list(plate.channels_present) == manifest.plates[barcode]["channels_present"]
    sites = load_sites(store, [barcode])
    table = site_table(sites)
    keys = list(zip(table["Metadata_Well"], table["Metadata_Site"], strict=True))
    assert sorted(keys) == [(site.well, site.number) for site in plate.sites]
    stored = dict(zip(keys, read_pixels(sites, range(len(keys))), strict=True))
    for site in plate.sites:
        np.testing.assert_array_equal(plate.read(site), stored[site.well, site.number])


wells = st.builds("{}{:02d}".format, st.sampled_from("ABHP"), st.integers(1, 24))


@settings(max_examples=12, deadline=None)
@given(
    sites=st.sets(st.tuples(wells, st.integers(1, 30)), min_size=1, max_size=3),
    stains=st.sets(st.sampled_from(STAINS), min_size=1),
    size=st.sampled_from([32, 47, 64]),
    version=st.sampled_from(["0.4", "0.5"]),
    seed=st.integers(0, 9),
)
def test_what_is_exported_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    sites: set[tuple[str, int]],
    stains: set[str],
    size: int,
    version: str,
    seed: int,
) -> None:
    folder = tmp_path_factory.mktemp("trip")
    store = write_store(folder / "store", sorted(sites), stains, size, seed)
    assert export_plate(store, "P1", folder / "P1.ome.zarr", version) == len(sites)
    check_round_trip(store, "P1", folder / "P1.ome.zarr")


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_viewers_find_names_colours_copies_and_places(tmp_path: Path, version: str) -> None:
    store = write_store(
        tmp_path / "store", [("B03", 1), ("B03", 2)], {"DNA", "AGP"}, 64, pixel_size=1.2
    )
    export_plate(store, "P1", tmp_path / "P1.ome.zarr", version)
    plate = next(iter(Reader(parse_url(str(tmp_path / "P1.ome.zarr")))()))
    assert plate.metadata["channel_names"] == ["DNA", "AGP"]
    assert plate.metadata["contrast_limits"] == [[0, 16384], [0, 16384]]
    assert plate.metadata["colormap"][0][1] == [0, 0, 1]
    assert [level.shape for level in plate.data] == [(2, 8 * 64, 12 * 64), (2, 8 * 32, 12 * 32)]
    stored = read_pixels(load_sites(store), [0])[0, [0, 3]]
    shown = np.asarray(plate.data[0][:, 64:128, 128:192])
    np.testing.assert_array_equal(shown, stored)
    image = next(iter(Reader(parse_url(str(tmp_path / "P1.ome.zarr/B/3/1")))()))
    assert [axis.get("unit") for axis in image.metadata["axes"]] == [None, *["micrometer"] * 2]
    assert image.metadata["coordinateTransformations"][1] == [
        {"type": "scale", "scale": [1, 2.4, 2.4]},
        {"type": "translation", "translation": [0, 5, 20]},
    ]


def test_faults_are_named(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", [("A01", 1)], {"DNA"}, 32)
    for barcode, out, version, complaint in (
        ("P2", "x", "0.5", "has no plate 'P2': it holds P1"),
        ("P1", "x", "0.3", "OME-Zarr version is '0.3', expected 0.4 or 0.5"),
        ("P1", "store", "0.5", "store exists already"),
    ):
        with pytest.raises(InputError, match=complaint):
            export_plate(store, barcode, tmp_path / out, version)
    assert {path.name for path in tmp_path.iterdir()} == {"store"}


def test_the_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    store = write_store(tmp_path / "store", [("A01", 1)], {"DNA"}, 32)
    monkeypatch.syspath_prepend(ROOT / "scripts")
    words = ["--data", store, "--plate", "P1", "--out", tmp_path / "P1.ome.zarr"]
    monkeypatch.setattr(sys, "argv", ["export_plate.py", *map(str, words)])
    import export_plate as script

    script.main()
    assert "plate P1, 1 images" in capsys.readouterr().out
    check_round_trip(store, "P1", tmp_path / "P1.ome.zarr")


def test_real_fields_of_three_microscopes(shared: Path, tmp_path: Path) -> None:
    """JUMP's two Phenixes, the one with three stains, CDRP's ImageXpress, the RAB30 crops."""
    choices = PrepareSettings(size=48, crop=384, measure=False, processes=1)
    prepare(
        read_fields(shared / "jump_fields"), tmp_path / "store", choices,
        source="fields", reference=NO_REFERENCE,
    )  # fmt: skip
    names = list(load_manifest(tmp_path / "store").plates)
    assert len(names) == 6
    for number, barcode in enumerate(names):
        path = tmp_path / f"{barcode}.ome.zarr"
        export_plate(tmp_path / "store", barcode, path, ("0.4", "0.5")[number % 2])
        check_round_trip(tmp_path / "store", barcode, path)
