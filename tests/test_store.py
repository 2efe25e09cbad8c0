"""The prepared store: what is written is read back, in any order, and strangers are refused."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest

from data.errors import InputError
from data.store import (
    FORMAT,
    QC_COLUMNS,
    Manifest,
    checksum,
    load_manifest,
    load_profiles,
    load_sites,
    load_wells,
    plate_folder,
    read_pixels,
    save_manifest,
    site_table,
    write_sites,
)

SHAPE = (3, 8, 8)


def write_store(folder: Path, sites_of_plates: dict[str, int]) -> dict[str, np.ndarray]:
    """Write random sites; some end in zero bytes, which NumPy's byte strings would swallow."""
    rng = np.random.default_rng(0)
    manifest = Manifest("plates", ["DNA", "ER", "RNA"], 8, "same-plate controls", True)
    written = {}
    for barcode, count in sites_of_plates.items():
        pixels = rng.integers(0, 65536, (count, *SHAPE), dtype=np.uint16)
        pixels[:, -1, -4:] = 0
        quality = dict.fromkeys((*QC_COLUMNS, "Metadata_X", "Metadata_Y"), 0.0)
        rows = (
            {"pixels": p, "Metadata_Plate": barcode, "Metadata_Well": f"A{i + 1:02d}",
             "Metadata_Site": 1, "Metadata_Part": 0, **quality}
            for i, p in enumerate(pixels)
        )  # fmt: skip
        digest = write_sites(plate_folder(folder, barcode), rows)
        manifest.plates[barcode] = {
            "wells": count, "sites": count, "sha256": digest,
            "channels_present": [True] * 3, "settings": "", "pixel_size": None,
        }  # fmt: skip
        written[barcode] = pixels
    save_manifest(folder, manifest)
    return written


def test_pixels_come_back_in_any_order(tmp_path: Path) -> None:
    written = write_store(tmp_path, {"P1": 5, "P2": 4})
    everything = np.concatenate([written["P1"], written["P2"]])
    sites = load_sites(tmp_path)
    order = np.random.default_rng(1).permutation(9)
    found = read_pixels(sites, order)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, everything[order])
    np.testing.assert_array_equal(sites[7]["pixels"], everything[7])
    shuffled = sites.shuffle(seed=0)
    for row in shuffled:
        plate, well = row["Metadata_Plate"], int(row["Metadata_Well"][1:]) - 1
        np.testing.assert_array_equal(row["pixels"], written[plate][well])


def test_plates_can_be_chosen_and_ordered(tmp_path: Path) -> None:
    written = write_store(tmp_path, {"P1": 2, "P2": 3})
    sites = load_sites(tmp_path, ["P2"])
    np.testing.assert_array_equal(read_pixels(sites, range(3)), written["P2"])
    assert site_table(load_sites(tmp_path, ["P2", "P1"]))["Metadata_Plate"].tolist() == [
        *["P2"] * 3,
        *["P1"] * 2,
    ]


def test_sites_are_memory_mapped_and_are_an_ordinary_datasets_folder(tmp_path: Path) -> None:
    write_store(tmp_path, {"P1": 2})
    assert load_sites(tmp_path).cache_files
    plain = datasets.load_from_disk(str(plate_folder(tmp_path, "P1")))
    assert len(plain[0]["pixels"]) == np.prod(SHAPE) * 2


def test_checksum_sees_a_changed_byte(tmp_path: Path) -> None:
    write_store(tmp_path, {"P1": 2})
    folder = plate_folder(tmp_path, "P1")
    before = load_manifest(tmp_path).plates["P1"]["sha256"]
    assert checksum(folder) == before
    arrow = next(folder.glob("*.arrow"))
    content = bytearray(arrow.read_bytes())
    content[len(content) // 2] ^= 1
    arrow.write_bytes(content)
    assert checksum(folder) != before


def test_missing_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere does not exist.*prepare_data"):
        load_manifest(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"has no manifest\.json"):
        load_sites(tmp_path)
    for content, complaint in (
        ("{", "not a manifest"),
        ("[]", "not a manifest"),
        (f'{{"format": {FORMAT}, "name": "x"}}', "not a manifest"),
        ('{"format": 99}', f"format is 99, expected {FORMAT}"),
    ):
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(InputError, match=complaint):
            load_wells(tmp_path)


def test_unknown_lost_and_unfinished_plates_are_named(tmp_path: Path) -> None:
    write_store(tmp_path, {"P1": 2})
    with pytest.raises(InputError, match="no plate 'P9': it holds P1"):
        load_sites(tmp_path, ["P9"])
    with pytest.raises(InputError, match=r"no profiles_normalized\.parquet"):
        load_profiles(tmp_path, normalized=True)
    next(plate_folder(tmp_path, "P1").glob("*.arrow")).write_bytes(b"not arrow")
    with pytest.raises(InputError, match=r"P1 is missing or damaged"):
        load_sites(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["plates"] = {}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="holds no plates"):
        load_sites(tmp_path)
