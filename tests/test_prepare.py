"""Preparing plates end to end: right pixels, resumable, and nothing half-written on a fault."""

import errno
import re
import shutil
import subprocess
import sys
import threading
import time
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
from data.files import locked_folder
from data.prepare import load_failures
from data.site import BRIGHT
from data.store import (
    checksum,
    load_manifest,
    load_profiles,
    load_sites,
    load_wells,
    plate_folder,
    read_pixels,
    site_table,
)

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
sys.path.insert(0, str(SCRIPTS))

from _cli import run_main  # noqa: E402
from prepare_data import PrepareConfig, parse_held_out_targets, prepare_source  # noqa: E402


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    write_tiff_plate(folder, "P1")
    return write_tiff_plate(folder, "P2", "crispr", seed=1)


@pytest.fixture(scope="module")
def store(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stores") / "prepared"
    write_tiny_store(raw, out, held_out_targets=("TUBB",))
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


def test_four_times_brighter_wells_still_fit(raw: Path, tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    shutil.copytree(raw, folder)
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


@pytest.fixture
def processed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The plates of the sites that were really processed."""
    seen: list[str] = []
    real = data.shard.process_site

    def counted(task: Any) -> Any:
        seen.append(task.plate.barcode)
        return real(task)

    monkeypatch.setattr(data.shard, "process_site", counted)
    return seen


def test_complete_plates_are_skipped_and_changed_ones_redone(
    raw: Path, tmp_path: Path, processed: list[str]
) -> None:
    folder, out = tmp_path / "raw", tmp_path / "out"
    shutil.copytree(raw, folder)
    first = write_tiny_store(folder, out, measure=False)
    assert len(processed) == 26
    processed.clear()
    assert write_tiny_store(folder, out, measure=False) == first and not processed
    # another split needs no pixels
    write_tiny_store(folder, out, measure=False, held_out_targets=("AURKB",))
    assert not processed
    assert load_wells(out).query("Metadata_split == 'test'")["Metadata_broad_sample"].nunique() == 2
    # a damaged plate, then a changed image, then another size
    arrow = next((out / "plates/P1").glob("*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:-8])
    assert write_tiny_store(folder, out, measure=False) == first and set(processed) == {"P1"}
    processed.clear()
    image = folder / "images/P2/r01c01f01p01-ch1sk1fk1fl1.tiff"
    Image.fromarray(np.asarray(Image.open(image))[::-1]).save(image)
    assert write_tiny_store(folder, out, measure=False) != first and set(processed) == {"P2"}
    processed.clear()
    assert write_tiny_store(folder, out, measure=False, size=40).size == 40
    assert set(processed) == {"P1", "P2"}
    assert read_pixels(load_sites(out), [0]).shape == (1, 5, 40, 40)


def test_an_interrupted_run_continues(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processed: list[str]
) -> None:
    counted = data.shard.process_site

    def interrupted(task: Any) -> Any:
        if task.plate.barcode == "P2" and task.site.well == "A03":
            raise KeyboardInterrupt
        return counted(task)

    monkeypatch.setattr(data.shard, "process_site", interrupted)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        write_tiny_store(raw, out, measure=False)
    assert {path.name for path in (out / "plates").iterdir()} == {"P1"}
    assert list(load_manifest(out).plates) == ["P1"]
    with pytest.raises(InputError, match="preparation was interrupted"):
        load_wells(out)
    monkeypatch.setattr(data.shard, "process_site", counted)
    processed.clear()
    write_tiny_store(raw, out, measure=False)
    assert set(processed) == {"P2"}
    assert write_tiny_store(raw, tmp_path / "fresh", measure=False) == load_manifest(out)


def test_what_a_killed_run_left_is_cleared(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    leftover = out / "plates" / ".P1.999999999.tmp"
    leftover.mkdir(parents=True)
    (leftover / "half").write_text("x")
    write_tiny_store(raw, out, measure=False)
    assert {path.name for path in (out / "plates").iterdir()} == {"P1", "P2"}


def test_strange_output_folders_are_refused(raw: Path, store: Path, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="not empty and not a prepared store"):
        write_tiny_store(raw, tmp_path)
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


def image_of(folder: Path) -> Path:
    return folder / "images/P1/r02c01f02p01-ch4sk1fk1fl1.tiff"


def cut_image(folder: Path) -> None:
    image_of(folder).write_bytes(image_of(folder).read_bytes()[:5000])


def save_image(pixels: np.ndarray) -> Callable[[Path], None]:
    return lambda folder: Image.fromarray(pixels).save(image_of(folder))


def small_site(folder: Path) -> None:
    for path in image_of(folder).parent.glob("r02c01f02*"):
        Image.fromarray(np.zeros((90, 96), np.uint16)).save(path)


def no_cells(folder: Path) -> None:
    for path in image_of(folder).parent.iterdir():
        Image.fromarray(np.full((96, 96), 300, np.uint16)).save(path)


def no_controls(folder: Path) -> None:
    path = folder / "metadata/compound_metadata.tsv"
    path.write_text(path.read_text().replace("negcon", "other"))


def repeat_well(folder: Path) -> None:
    path = folder / "platemaps/compound_map.tsv"
    path.write_text(path.read_text() + "A01\tBRD-1\n")


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing TIFF": (
        lambda folder: image_of(folder).unlink(),
        "image of ER .* is missing for well B01, site 2",
    ),
    "well twice": (repeat_well, r"compound_map\.tsv row 10: well A01 is already in row 2"),
    "no controls": (no_controls, r"compound_map\.tsv: plate P1 has no negative control"),
    "no cells": (no_cells, "no feature can be normalized"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_input_is_one_line_and_exit_2(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    change, complaint = FAULTS[fault]
    folder, out = tmp_path / "raw", tmp_path / "out"
    shutil.copytree(raw, folder)
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


BAD_IMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "unreadable TIFF": (cut_image, "r02c01f02p01-ch4.*not a readable TIFF"),
    "wrong dtype": (save_image(np.zeros((96, 96), np.uint8)), "r02c01f02p01-ch4.*found uint8"),
    "wrong size": (
        save_image(np.zeros((96, 90), np.uint16)),
        "r02c01f02p01-ch4.*size is 96 x 90 pixels, expected 96 x 96",
    ),
    "wrong site size": (small_site, "r02c01f02p01-.*90 x 96 pixels, expected 96 x 96.*plate P1"),
}


@pytest.mark.parametrize("fault", BAD_IMAGES)
def test_a_bad_image_costs_its_well_alone_and_is_repaired(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str, processed: list[str]
) -> None:
    change, complaint = BAD_IMAGES[fault]
    folder, out = tmp_path / "raw", tmp_path / "out"
    shutil.copytree(raw, folder)
    change(folder)
    config = PrepareConfig("plates", str(folder), str(out), size=48, processes=1, measure=False)
    assert not prepare_source(config)
    said = capsys.readouterr().err
    assert re.search(rf"failed: plate P1, well B01, site 2: .*{complaint}", said), said
    (failure,) = load_failures(out).to_dict("records")
    assert (failure["well"], failure["site"]) == ("B01", "2")
    assert re.search(complaint, failure["error"])
    wells = load_wells(out)
    assert "B01" not in set(wells[wells["Metadata_Plate"] == "P1"]["Metadata_Well"])
    assert len(wells) == 12 and len(load_sites(out)) == 24
    # P1's light was estimated with that image: now all of P1 is made again, and nothing of P2
    processed.clear()
    shutil.copytree(raw, folder, dirs_exist_ok=True)
    mended = write_tiny_store(folder, out, measure=False)
    assert set(processed) == {"P1"} and load_failures(out).empty
    assert mended.plates == write_tiny_store(folder, tmp_path / "new", measure=False).plates


def test_a_changed_well_alone_is_made_again(
    raw: Path, tmp_path: Path, processed: list[str]
) -> None:
    """Where the correction stays what it was: P2 has too few sites for an estimate of light."""
    folder, out = tmp_path / "raw", tmp_path / "out"
    shutil.copytree(raw, folder)
    write_tiny_store(folder, out)
    image = folder / "images/P2/r02c01f01p01-ch1sk1fk1fl1.tiff"  # B01, no control
    Image.fromarray(np.asarray(Image.open(image))[::-1]).save(image)
    processed.clear()
    again = write_tiny_store(folder, out)
    assert processed == ["P2", "P2"]
    assert again == write_tiny_store(folder, tmp_path / "fresh")
    for normalized in (True, False):
        pd.testing.assert_frame_equal(
            load_profiles(out, normalized), load_profiles(tmp_path / "fresh", normalized)
        )


PREPARE_ALONE = """
import sys; sys.path[:0] = sys.argv[1:3]
from helpers import write_tiny_store
write_tiny_store(sys.argv[3], sys.argv[4], measure=False)
"""


def test_two_processes_on_one_store_do_not_hurt_it(raw: Path, tmp_path: Path) -> None:
    """The store stays incomplete, so that both have something to do."""
    folder, out = tmp_path / "raw", tmp_path / "out"
    shutil.copytree(raw, folder)
    cut_image(folder)
    here = Path(__file__).resolve().parent
    command = [sys.executable, "-c", PREPARE_ALONE, here.parent, here, folder, out]
    runs = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [run.communicate()[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    alone = write_tiny_store(folder, tmp_path / "alone", measure=False)
    manifest = load_manifest(out)
    assert manifest.plates == alone.plates
    for barcode, record in manifest.plates.items():
        assert checksum(plate_folder(out, barcode)) == record["sha256"]
    expected = {"plates", "manifest.json", "wells.parquet", "failed.tsv"}
    assert {path.name for path in out.iterdir()} == expected
    assert sorted(path.name for path in (out / "plates").iterdir()) == ["P1", "P2"]


def test_a_lock_is_held_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    order = []

    def work(name: str) -> None:
        with locked_folder(folder):
            order.append(f"{name} begins")
            time.sleep(0.05)
            order.append(f"{name} ends")

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [first[0] for first in order[::2]] == [second[0] for second in order[1::2]]
    assert len(order) == 8 and not folder.exists()


def test_a_full_disk_leaves_nothing(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(data.shard, "write_sites", full)
    out = tmp_path / "out"
    config = PrepareConfig("plates", str(raw), str(out), size=48, processes=1, measure=False)
    with pytest.raises(SystemExit) as caught:
        run_main(lambda: prepare_source(config))
    assert caught.value.code == 2
    assert f"no space left on the disk while writing {out}" in capsys.readouterr().err
    assert not out.exists()


def test_bad_settings_are_named(raw: Path, tmp_path: Path) -> None:
    good = {"source": "plates", "input": str(raw), "out": str(tmp_path / "out")}
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


def test_the_command_with_two_processes_gives_the_same_bytes(raw: Path, tmp_path: Path) -> None:
    options = "--size 48 --measure false --processes 2 --held-out-targets TUBB"
    command = f"plates --input {raw} --out out {options}"
    run = subprocess.run(
        [sys.executable, str(SCRIPTS / "prepare_data.py"), *command.split()],
        cwd=tmp_path,  # not the project's folder
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert "2 plates, 13 wells, 26 sites of 5 x 48 x 48" in run.stdout
    alone = write_tiny_store(raw, tmp_path / "alone", measure=False, held_out_targets=("TUBB",))
    assert load_manifest(tmp_path / "out") == alone
