"""What is made again: after a change, an interruption or a bad image, and nothing else."""

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
from conftest import ROOT
from helpers import write_tiny_store
from PIL import Image

import data.shard
from data.errors import InputError
from data.prepare import load_failures
from data.store import (
    checksum,
    load_manifest,
    load_profiles,
    load_sites,
    load_wells,
    plate_folder,
    read_pixels,
)

sys.path.insert(0, str(ROOT / "scripts"))

from prepare_data import PrepareConfig, prepare_source


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
    two_plates: Path, tmp_path: Path, processed: list[str]
) -> None:
    folder, out = tmp_path / "raw", tmp_path / "out"
    shutil.copytree(two_plates, folder)
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
    two_plates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processed: list[str]
) -> None:
    counted = data.shard.process_site

    def interrupted(task: Any) -> Any:
        if task.plate.barcode == "P2" and task.site.well == "A03":
            raise KeyboardInterrupt
        return counted(task)

    monkeypatch.setattr(data.shard, "process_site", interrupted)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        write_tiny_store(two_plates, out, measure=False)
    assert {path.name for path in (out / "plates").iterdir()} == {"P1"}
    assert list(load_manifest(out).plates) == ["P1"]
    with pytest.raises(InputError, match="preparation was interrupted"):
        load_wells(out)
    monkeypatch.setattr(data.shard, "process_site", counted)
    processed.clear()
    write_tiny_store(two_plates, out, measure=False)
    assert set(processed) == {"P2"}
    assert write_tiny_store(two_plates, tmp_path / "fresh", measure=False) == load_manifest(out)


def test_what_a_killed_run_left_is_cleared(two_plates: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    leftover = out / "plates" / ".P1.999999999.tmp"
    leftover.mkdir(parents=True)
    (leftover / "half").write_text("x")
    write_tiny_store(two_plates, out, measure=False)
    assert {path.name for path in (out / "plates").iterdir()} == {"P1", "P2"}


def image_of(folder: Path) -> Path:
    return folder / "images/P1/r02c01f02p01-ch4sk1fk1fl1.tiff"


def cut_image(folder: Path) -> None:
    image_of(folder).write_bytes(image_of(folder).read_bytes()[:5000])


def save_image(pixels: np.ndarray) -> Callable[[Path], None]:
    return lambda folder: Image.fromarray(pixels).save(image_of(folder))


def small_site(folder: Path) -> None:
    for path in image_of(folder).parent.glob("r02c01f02*"):
        Image.fromarray(np.zeros((90, 96), np.uint16)).save(path)


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
    two_plates: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    fault: str,
    processed: list[str],
) -> None:
    change, complaint = BAD_IMAGES[fault]
    folder, out = tmp_path / "raw", tmp_path / "out"
    shutil.copytree(two_plates, folder)
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
    shutil.copytree(two_plates, folder, dirs_exist_ok=True)
    mended = write_tiny_store(folder, out, measure=False)
    assert set(processed) == {"P1"} and load_failures(out).empty
    assert mended.plates == write_tiny_store(folder, tmp_path / "new", measure=False).plates


def test_a_changed_well_alone_is_made_again(
    two_plates: Path, tmp_path: Path, processed: list[str]
) -> None:
    """Where the correction stays what it was: P2 has too few sites for an estimate of light."""
    folder, out = tmp_path / "raw", tmp_path / "out"
    shutil.copytree(two_plates, folder)
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


def test_two_processes_on_one_store_do_not_hurt_it(two_plates: Path, tmp_path: Path) -> None:
    """The store stays incomplete, so that both have something to do."""
    folder, out = tmp_path / "raw", tmp_path / "out"
    shutil.copytree(two_plates, folder)
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
