"""Reading TIFF plates: JUMP's tables and their quirks, and one clear line for every fault."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import COMPOUNDS, write_tiff_plate
from PIL import Image

from data.channels import CHANNELS
from data.errors import InputError
from data.plates import METADATA_COLUMNS, read_plates
from data.tiff_images import read_site


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compound plate and a CRISPR plate; never changed."""
    folder = tmp_path_factory.mktemp("raw")
    write_tiff_plate(folder, "P1", sites=1, size=32)
    return write_tiff_plate(folder, "P2", "crispr", sites=1, size=32, seed=1)


def test_compound_plate_is_joined(raw: Path) -> None:
    plate = read_plates(raw)[0]
    wells = plate.wells.set_index("Metadata_Well")
    assert (plate.barcode, plate.channels) == ("P1", CHANNELS)
    assert set(METADATA_COLUMNS) == {*wells, "Metadata_Well"}
    assert wells.index.tolist() == list(COMPOUNDS)
    dmso, drug, positive, inactive = (wells.loc[well] for well in ("A01", "A02", "B01", "C01"))
    assert dmso["Metadata_broad_sample"] == "DMSO"
    assert dmso["Metadata_control_type"] == "negcon"
    assert dmso["Metadata_modality"] == "control"
    assert dmso["Metadata_target_list"] == "" and dmso["Metadata_pert_iname"] == "DMSO"
    assert drug["Metadata_target_list"] == "TUBB|TUBB4B" and drug["Metadata_smiles"] == "CCO"
    assert drug["Metadata_control_type"] == "" and drug["Metadata_modality"] == "compound"
    assert positive["Metadata_control_type"] == "poscon"
    assert positive["Metadata_modality"] == "compound"
    assert inactive["Metadata_target_list"] == ""
    assert (wells["Metadata_Time"] == 48).all() and wells["Metadata_simulated"].all()


def test_gene_plate_drops_empty_wells_and_controls_have_no_target(raw: Path) -> None:
    wells = read_plates(raw)[1].wells.set_index("Metadata_Well")
    assert wells.index.tolist() == ["A01", "A02", "A03", "B01", "B03"]  # B02 has no reagent
    assert wells.loc["A02", "Metadata_gene"] == wells.loc["A02", "Metadata_target_list"] == "TUBB"
    assert wells.loc["A01", "Metadata_modality"] == "control"
    assert wells.loc["B01", "Metadata_control_type"] == "poscon"
    assert wells["Metadata_broad_sample"].tolist() == ["NT-1", "G-1", "NT-2", "G-2", "NT-1"]


def test_planes_come_in_canonical_order(raw: Path) -> None:
    plate = read_plates(raw)[0]
    site = plate.sites[0]
    pixels = plate.read(site)
    assert pixels.shape == (5, 32, 32) and pixels.dtype == np.uint16
    for stain, channel in (("DNA", 5), ("ER", 4), ("RNA", 3), ("AGP", 2), ("Mito", 1)):
        path = raw / f"images/P1/r01c01f01p01-ch{channel}sk1fk1fl1.tiff"
        np.testing.assert_array_equal(pixels[CHANNELS.index(stain)], np.asarray(Image.open(path)))


def test_a_stain_not_imaged_is_a_zero_plane_and_others_follow(raw: Path, tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    shutil.copytree(raw, folder)
    (folder / "channels.tsv").write_text("channel\tstain\nch5\tDNA\nch2\tBrightfield\n")
    plate = read_plates(folder)[0]
    assert plate.channels == (*CHANNELS, "Brightfield")
    assert plate.channels_present == (True, False, False, False, False, True)
    pixels = read_site(plate.sites[0])
    assert [bool(plane.any()) for plane in pixels] == list(plate.channels_present)


def test_real_jump_tables_are_joined(shared: Path, tmp_path: Path) -> None:
    annotation = shared / "annotation"
    lines = ["Plate_Map_Name\tAssay_Plate_Barcode\tPerturbation\tCell_type\tTime"]
    for name in ("platemaps", "metadata"):
        (tmp_path / name).mkdir()
    (tmp_path / "channels.tsv").write_text("channel\tstain\nch5\tDNA\n")
    for modality in ("compound", "crispr", "orf"):
        platemap = f"JUMP-Target-1_{modality}_platemap"
        shutil.copy(annotation / f"{platemap}.tsv", tmp_path / "platemaps")
        shutil.copy(
            annotation / f"JUMP-Target-1_{modality}_metadata.tsv",
            tmp_path / "metadata" / f"{modality}_metadata.tsv",
        )
        lines.append(f"{platemap}\t{modality}1\t{modality}\tU2OS\t48")
        images = tmp_path / "images" / f"{modality}1"
        images.mkdir(parents=True)
        for row in range(1, 17):
            for column in range(1, 25):
                (images / f"r{row:02d}c{column:02d}f01p01-ch5sk1fk1fl1.tiff").touch()
    (tmp_path / "experiment-metadata.tsv").write_text("\n".join(lines))
    compound, crispr, orf = (plate.wells for plate in read_plates(tmp_path))
    controls = {
        name: (wells["Metadata_control_type"] == "negcon").sum()
        for name, wells in (("compound", compound), ("crispr", crispr), ("orf", orf))
    }
    assert controls["compound"] == 64 and len(compound) == 384  # DMSO, as in the JUMP paper
    assert controls["crispr"] >= 30 and controls["orf"] >= 15
    assert compound["Metadata_broad_sample"].nunique() == 307
    for genes in (crispr, orf):
        treated = genes[genes["Metadata_modality"] != "control"]
        assert (treated["Metadata_target_list"] != "").all()
        assert (genes["Metadata_target_list"][genes["Metadata_modality"] == "control"] == "").all()
    assert not compound.isna().any(axis=None)


def test_tables_may_be_comma_separated(raw: Path, tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    shutil.copytree(raw, folder)
    for path in [*folder.glob("*.tsv"), *folder.glob("*/*.tsv")]:
        pd.read_csv(path, sep="\t", dtype=str).to_csv(path.with_suffix(".csv"), index=False)
        path.unlink()
    for one, other in zip(read_plates(folder), read_plates(raw), strict=True):
        pd.testing.assert_frame_equal(one.wells, other.wells)


def write(path: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / path).write_text(content) and None


def append(path: str, line: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / path).write_text((folder / path).read_text() + line + "\n")

    return change


def remove(path: str) -> Callable[[Path], None]:
    return lambda folder: (folder / path).unlink()


def change_metadata(column: str, value: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "metadata/compound_metadata.tsv"
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
        table.assign(**{column: value}).to_csv(path, sep="\t", index=False)

    return change


IMAGE = "images/P1/r01c01f01p01-ch4sk1fk1fl1.tiff"
PLATEMAP = "platemaps/compound_map.tsv"
HEADER = "well_position\tbroad_sample\n"

FAULTS = {
    "missing TIFF": (
        remove(IMAGE),
        r"images/P1: the image of ER \(channel ch4\) is missing for well A01, site 1; found r01c01",
    ),
    "channel never imaged": (
        append("channels.tsv", "ch9\tActin"),
        r"images/P1: channel 'ch9' \(Actin\) is not there; found ch1, ch2, ch3, ch4, ch5",
    ),
    "two z planes": (
        lambda folder: shutil.copy(folder / IMAGE, folder / IMAGE.replace("p01", "p02")) and None,
        r"p02-ch4sk1fk1fl1.tiff: well A01, site 1 has two files for one plane, the other is .*p01",
    ),
    "no channel map": (
        remove("channels.tsv"),
        r"images/P1: no channel is called by its stain; found ch1, ch2, .*: say .* channels.tsv",
    ),
    "well without images": (
        append(PLATEMAP, "H12\tBRD-1"),
        r"compound_map.tsv row 10: well H12 has no images in .*P1",
    ),
    "well twice": (
        append(PLATEMAP, "A02\tBRD-2"),
        r"compound_map.tsv row 10: well A02 is already in row 3",
    ),
    "bad well": (append(PLATEMAP, "Z99\tBRD-2"), r"row 10: well_position is 'Z99'"),
    "empty platemap": (write(PLATEMAP, HEADER), r"compound_map.tsv: the table is empty"),
    "blank platemap": (write(PLATEMAP, ""), r"compound_map.tsv: not a readable table"),
    "wrong platemap": (write(PLATEMAP, "well\nA01\n"), r"no column 'well_position'; found well"),
    "no platemap": (remove(PLATEMAP), r"compound_map.tsv: file is missing"),
    "unknown reagent": (
        append(PLATEMAP, "C03\tBRD-77"),
        r"compound_map.tsv row 10: reagent BRD-77 is not in .*compound_metadata.tsv",
    ),
    "no controls": (
        change_metadata("control_type", ""),
        r"plate P1 has no negative control wells",
    ),
    "unknown stain": (
        append("channels.tsv", "ch6\tMitochondria"),
        r"channels.tsv row 7: unknown stain 'Mitochondria': expected one of DNA",
    ),
    "stain twice": (append("channels.tsv", "ch6\tDNA"), r"channels.tsv row 7: .* listed twice"),
    "plate twice": (
        append("experiment-metadata.tsv", "B\tcompound_map\tP1\tcompound\tU2OS\t48\t"),
        r"experiment-metadata.tsv row 4: plate P1 is listed twice",
    ),
    "unknown modality": (
        append("experiment-metadata.tsv", "B\tcompound_map\tP3\trnai\tU2OS\t48\t"),
        r"experiment-metadata.tsv row 4: Perturbation is 'rnai'",
    ),
    "bad time": (
        append("experiment-metadata.tsv", "B\tcompound_map\tP3\tcompound\tU2OS\tlong\t"),
        r"experiment-metadata.tsv row 4: Time is 'long', expected whole hours",
    ),
    "no image folder": (
        append("experiment-metadata.tsv", "B\tcompound_map\tP3\tcompound\tU2OS\t48\t"),
        r"images/P3: image folder of plate P3 is missing",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_in_one_line(raw: Path, tmp_path: Path, fault: str) -> None:
    change, complaint = FAULTS[fault]
    folder = tmp_path / "raw"
    shutil.copytree(raw, folder)
    change(folder)
    with pytest.raises(InputError, match=complaint) as caught:
        read_plates(folder)
    assert "\n" not in str(caught.value)
