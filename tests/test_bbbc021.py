"""BBBC021: labels into plates, RGB planes into stains, and intensities over the whole data set."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.bbbc021 import read_bbbc021
from data.errors import InputError
from data.normalize import MEDIAN_WELL
from data.prepare import PrepareSettings, prepare
from data.site import BRIGHT
from data.store import load_manifest, load_sites, load_wells, read_pixels, site_table

HEADER = "file,compound,concentration,moa,plate,well,replicate\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two plates of two wells; Week2 is twice as bright."""
    raw = tmp_path / "raw"
    (raw / "png").mkdir(parents=True)
    lines = []
    rng = np.random.default_rng(0)
    for plate, level in (("Week1_10", 1), ("Week2_20", 2)):
        for well, compound in (("B02", "taxol"), ("C03", "AZ-A")):
            for number in range(2):
                file = f"{plate}_{well}_{number}.png"
                image = rng.integers(0, 60, (64, 64, 3)) * level
                image[..., 0] //= 2  # red: actin
                Image.fromarray(image.astype(np.uint8)).save(raw / "png" / file)
                lines.append(f"{file},{compound},0.3,Aurora,{plate},{well},{level}")
    (raw / "labels.csv").write_text(HEADER + "\n".join(lines))
    return raw


def test_labels_become_wells_and_planes_stains(folder: Path) -> None:
    plates = read_bbbc021(folder)
    assert [plate.barcode for plate in plates] == ["Week1_10", "Week2_20"]
    plate = plates[1]
    assert plate.channels == ("DNA", "Tubulin", "Actin")
    well = plate.wells.set_index("Metadata_Well").loc["B02"]
    assert well["Metadata_broad_sample"] == "taxol" and well["Metadata_moa"] == "Aurora"
    assert well["Metadata_concentration"] == 0.3 and well["Metadata_replicate"] == 2
    assert well["Metadata_week"] == "Week2" and well["Metadata_Cell_type"] == "MCF-7"
    assert [(site.well, site.number) for site in plate.sites] == [
        ("B02", 1), ("B02", 2), ("C03", 1), ("C03", 2),
    ]  # fmt: skip
    red, green, blue = np.asarray(Image.open(folder / "png/Week2_20_B02_0.png")).transpose(2, 0, 1)
    np.testing.assert_array_equal(plate.read(plate.sites[0]), [blue, green, red])


def test_plates_keep_their_difference(folder: Path, tmp_path: Path) -> None:
    settings = PrepareSettings(size=64, measure=False, processes=1)
    out = tmp_path / "out"
    prepare(read_bbbc021(folder), out, settings, source="bbbc021", reference=MEDIAN_WELL)
    manifest = load_manifest(out)
    assert manifest.reference == "data set's median well" and not manifest.simulated
    assert (load_wells(out)["Metadata_split"] == "train").all()
    sites = load_sites(out)
    pixels = read_pixels(sites, range(8)).astype(float)
    second = (site_table(sites)["Metadata_Plate"] == "Week2_20").to_numpy()
    ratio = pixels[second].mean(axis=(0, 2, 3)) / pixels[~second].mean(axis=(0, 2, 3))
    np.testing.assert_allclose(ratio, 2, rtol=0.1)
    np.testing.assert_allclose(np.percentile(pixels, 99.9, axis=(0, 2, 3)), BRIGHT, rtol=0.02)


def test_faults_are_named(folder: Path) -> None:
    good = (folder / "labels.csv").read_text()
    first = good.splitlines()[1]
    for content, complaint in (
        (HEADER, r"labels\.csv: the table is empty"),
        (good + "\n" + first, r"labels\.csv row 10: Week1_10_B02_0\.png is listed twice"),
        (good.replace("0.3", "much", 1), r"row 2: concentration is 'much', expected a number"),
        (good.replace("B02_0.png", "B02_9.png", 1), r"row 2: image .*B02_9\.png is missing"),
        (good.replace("taxol", "water", 1), r"row 3: well B02 of plate Week1_10 has another label"),
        (good.replace(",B02,", ",B2,", 1), r"row 2: well is 'B2'"),
        (good.replace("moa", "mechanism", 1), r"no column 'moa'"),
    ):
        (folder / "labels.csv").write_text(content)
        with pytest.raises(InputError, match=complaint):
            read_bbbc021(folder)


def test_bad_images_are_named(folder: Path) -> None:
    plate = read_bbbc021(folder)[0]
    (path,) = plate.sites[0].files
    assert path is not None
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(path)
    with pytest.raises(InputError, match=r"B02_0\.png: expected 8-bit RGB.*shape \(64, 64\)"):
        plate.read(plate.sites[0])
    path.write_bytes(b"x")
    with pytest.raises(InputError, match=r"B02_0\.png: not a readable image"):
        plate.read(plate.sites[0])


def test_the_real_data_set(shared: Path, tmp_path: Path) -> None:
    plates = read_bbbc021(shared / "bbbc021")
    assert len(plates) == 20 and sum(len(plate.sites) for plate in plates) == 440
    assert sum(len(plate.wells) for plate in plates) == 110
    settings = PrepareSettings(size=128, measure=False, processes=1)
    some = plates[:3]
    prepare(some, tmp_path, settings, source="bbbc021", reference=MEDIAN_WELL)
    pixels = read_pixels(load_sites(tmp_path), range(sum(len(plate.sites) for plate in some)))
    assert pixels.any(axis=(2, 3)).all()
    wells = load_wells(tmp_path)
    assert wells["QC_Focus"].between(-6, -0.5).all()
