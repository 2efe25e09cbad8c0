"""Preparing plates end to end: right pixels, resumable, and nothing half-written on a fault."""

import errno
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers import write_tiff_plate, write_tiny_store
from PIL import Image

import data.shard
from data.errors import InputError
from data.site import BRIGHT
from data.store import (
    load_manifest,
    load_profiles,
    load_sites,
    load_wells,
    read_pixels,
    site_table,
)

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
sys.path.insert(0, str(SCRIPTS))

from _cli import run_main  # noqa: E402
from prepare_data import PrepareConfig, parse_held_out_targets, prepare_source  # noqa: E402


@pytest.fixture(scope="module")
def store(two_plates: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stores") / "prepared"
    write_tiny_store(two_plates, out, held_out_targets=("TUBB",))
    return out


def names_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_manifest_says_what_is_there(store: Path) -> None:
    manifest = load_manifest(store)
    assert manifest.channels == ["DNA", "ER", "RNA", "AGP", "Mito"]
    assert (manifest.source, manifest.size, manifest.simulated) == ("plates", 48, True)
    assert manifest.reference == "same-plate controls"
    assert manifest.held_out_targets == ["TUBB"]
    counts = {name: (plate["wells"], plate["sites"]) for name, plate in manifest.plates.items()}
    assert counts == {"P1": (8, 16), "P2": (5, 10)}
    assert manifest.features["kept"] > 100


def test_wells_sites_and_profiles_agree(store: Path) -> None:
    wells = load_wells(store)
    sites = site_table(load_sites(store))
    key = ["Metadata_Plate", "Metadata_Well"]
    assert sites.groupby(key).size().eq(2).all()
    assert set(map(tuple, sites[key].to_numpy())) == set(map(tuple, wells[key].to_numpy()))
    for normalized in (False, True):
        profiles = load_profiles(store, normalized)
        pd.testing.assert_frame_equal(profiles[key], wells[key])
        assert "Metadata_split" in profiles and "QC_Focus" not in profiles
    assert not load_profiles(store, normalized=True).isna().any(axis=None)
    assert (load_profiles(store, normalized=False)["Image_Count_Nuclei"] > 2).all()
    assert (
        wells.loc[wells["Metadata_target_list"].str.contains("TUBB"), "Metadata_split"]
        .eq("test")
        .all()
    )
    means = sites.groupby(key)["QC_Focus"].mean()
    np.testing.assert_allclose(wells.set_index(key)["QC_Focus"], means, rtol=1e-5)


def test_controls_fill_the_scale(store: Path) -> None:
    """Control background is 0 and the control's bright end 16384, up to shrinking."""
    wells, sites = load_wells(store), load_sites(store, ["P1"])
    controls = wells.query("Metadata_control_type == 'negcon' and Metadata_Plate == 'P1'")
    rows = np.flatnonzero(site_table(sites)["Metadata_Well"].isin(controls["Metadata_Well"]))
    pixels = read_pixels(sites, rows)
    low, high = np.percentile(pixels, (0.1, 99.9), axis=(0, 2, 3))
    assert (low < 0.02 * BRIGHT).all()
    np.testing.assert_allclose(high, BRIGHT, rtol=0.1)


def test_four_times_brighter_wells_still_fit(two_plates: Path, tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    shutil.copytree(two_plates, folder)
    for path in (folder / "images/P1").glob("r01c02*"):
        Image.fromarray(np.asarray(Image.open(path)) * np.uint16(3)).save(path)
    write_tiny_store(folder, tmp_path / "out", measure=False)
    sites = load_sites(tmp_path / "out", ["P1"])
    table = site_table(sites)
    bright = read_pixels(sites, np.flatnonzero(table["Metadata_Well"] == "A02"))
    others = read_pixels(sites, np.flatnonzero(table["Metadata_Well"] != "A02"))
    ratio = bright.astype(float).mean() / others.astype(float).mean()
    assert 2.5 < ratio < 4 and bright.max() < 65535


def test_non_square_and_missing_stains(tmp_path: Path) -> None:
    folder = write_tiff_plate(tmp_path / "raw", sites=1)
    (folder / "channels.tsv").write_text("channel\tstain\nch5\tDNA\nch3\tRNA\nch2\tAGP\n")
    for path in (folder / "images/P1").iterdir():
        Image.fromarray(np.asarray(Image.open(path))[10:80]).save(path)
    manifest = write_tiny_store(folder, tmp_path / "out")
    assert manifest.plates["P1"]["channels_present"] == [True, False, True, True, False]
    pixels = read_pixels(load_sites(tmp_path / "out"), range(8))
    assert pixels.shape == (8, 5, 48, 48)
    assert pixels.any(axis=(0, 2, 3)).tolist() == [True, False, True, True, False]
    features = load_profiles(tmp_path / "out", normalized=True).columns
    assert any("RNA" in name for name in features)
    assert not any("Mito" in name or "_ER" in name for name in features)


def test_strange_output_folders_are_refused(two_plates: Path, store: Path, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="not empty and not a prepared store"):
        write_tiny_store(two_plates, tmp_path)
    other = write_tiff_plate(tmp_path / "raw", "P7", sites=1)
    with pytest.raises(InputError, match="holds plate P1, which is not in the input"):
        write_tiny_store(other, store)


def test_wells_without_cells_are_counted(tmp_path: Path) -> None:
    folder = write_tiff_plate(tmp_path / "raw", sites=1)
    for path in (folder / "images/P1").glob("r01c02*"):  # A02: nothing but noise
        noise = np.random.default_rng(0).normal(300, 30, (96, 96)).astype(np.uint16)
        Image.fromarray(noise).save(path)
    manifest = write_tiny_store(folder, tmp_path / "out")
    profiles = load_profiles(tmp_path / "out", normalized=False).set_index("Metadata_Well")
    normalized = load_profiles(tmp_path / "out", normalized=True).set_index("Metadata_Well")
    assert profiles.loc["A02", "Image_Count_Nuclei"] == 0
    assert np.isnan(profiles.loc["A02", "Nuclei_AreaShape_Area"])
    assert normalized.loc["A02", "Nuclei_AreaShape_Area"] == 0
    assert manifest.features["filled"] > 50


def no_cells(folder: Path) -> None:
    for path in (folder / "images/P1").iterdir():
        Image.fromarray(np.full((96, 96), 300, np.uint16)).save(path)


def no_controls(folder: Path) -> None:
    path = folder / "metadata/compound_metadata.tsv"
    path.write_text(path.read_text().replace("negcon", "other"))


def repeat_well(folder: Path) -> None:
    path = folder / "platemaps/compound_map.tsv"
    path.write_text(path.read_text() + "A01\tBRD-1\n")


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing TIFF": (
        lambda folder: (folder / "images/P1/r02c01f02p01-ch4sk1fk1fl1.tiff").unlink(),
        "image of ER .* is missing for well B01, site 2",
    ),
    "well twice": (repeat_well, r"compound_map\.tsv row 10: well A01 is already in row 2"),
    "no controls": (no_controls, r"compound_map\.tsv: plate P1 has no negative control"),
    "no cells": (no_cells, "no feature can be normalized"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_input_is_one_line_and_exit_2(
    two_plates: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    change, complaint = FAULTS[fault]
    folder, out = tmp_path / "raw", tmp_path / "out"
    shutil.copytree(two_plates, folder)
    change(folder)
    config = PrepareConfig("plates", str(folder), str(out), size=48, processes=1)
    config.measure = fault == "no cells"
    with pytest.raises(SystemExit) as caught:
        run_main(lambda: prepare_source(config))
    assert caught.value.code == 2
    bars_and_line = capsys.readouterr().err.splitlines()
    (line,) = [text for text in bars_and_line if "site/s]" not in text and text]
    assert line.startswith("error: ")
    assert re.search(complaint, line), line
    if fault != "no cells":
        assert not out.exists()
    assert not [name for name in (names_in(out) if out.exists() else ()) if ".tmp" in name]


def test_a_full_disk_leaves_nothing(
    two_plates: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(data.shard, "write_sites", full)
    out = tmp_path / "out"
    config = PrepareConfig("plates", str(two_plates), str(out), size=48, processes=1, measure=False)
    with pytest.raises(SystemExit) as caught:
        run_main(lambda: prepare_source(config))
    assert caught.value.code == 2
    assert f"no space left on the disk while writing {out}" in capsys.readouterr().err
    assert not out.exists()


def test_bad_settings_are_named(two_plates: Path, tmp_path: Path) -> None:
    good = {"source": "plates", "input": str(two_plates), "out": str(tmp_path / "out")}
    for change, complaint in (
        ({"source": "zarr"}, "--source is 'zarr', expected cpjump1, jump, plates, bbbc021, fields"),
        ({"input": str(tmp_path / "no")}, "no: no such folder"),
        ({"size": 8}, "--size is 8"),
        ({"processes": 0}, "--processes is 0"),
        ({"size": 500, "measure": False, "processes": 1}, "96 x 96 pixels, smaller than the size"),
        ({"held_out_targets": "TUBULIN"}, "TUBULIN occur in no well"),
        ({"held_out_targets": "-1"}, "expected between 0 and 1"),
    ):
        with pytest.raises(InputError, match=complaint):
            prepare_source(PrepareConfig(**{**good, **change}))
        assert not (tmp_path / "out").exists()


def test_held_out_targets_are_a_share_a_number_or_names(store: Path) -> None:
    wells = load_wells(store)  # AURKB and TUBB have a compound and a guide, TUBB4B a compound
    assert parse_held_out_targets("AURKB, TUBB4B", wells, 0) == {"AURKB", "TUBB4B"}
    assert parse_held_out_targets("0", wells, 0) == set()
    assert len(parse_held_out_targets("1", wells, 0)) == 1
    assert parse_held_out_targets("2", wells, 0) == {"AURKB", "TUBB"}
    assert len(parse_held_out_targets("0.34", wells, 0)) == 1
    none = wells.assign(Metadata_target_list="")
    assert parse_held_out_targets("0.25", none, 0) == set()


def test_the_command_with_two_processes_gives_the_same_bytes(
    two_plates: Path, tmp_path: Path
) -> None:
    options = "--size 48 --measure false --processes 2 --held-out-targets TUBB"
    command = f"plates --input {two_plates} --out out {options}"
    run = subprocess.run(
        [sys.executable, str(SCRIPTS / "prepare_data.py"), *command.split()],
        cwd=tmp_path,  # not the project's folder
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert "2 plates, 13 wells, 26 sites of 5 x 48 x 48" in run.stdout
    alone = write_tiny_store(
        two_plates, tmp_path / "alone", measure=False, held_out_targets=("TUBB",)
    )
    assert load_manifest(tmp_path / "out") == alone
