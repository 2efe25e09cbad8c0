"""The Cell Painting Gallery: right planes and tables from real S3 answers, and every bad one."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers_gallery import (
    FILE_CHANNELS,
    SIDE,
    BadNetwork,
    corrupted,
    image_name,
    read_field,
    site_crop,
    truncated,
    write_gallery_plate,
    write_jump_target,
)
from numpy.typing import NDArray

import data.remote
from data.channels import CHANNELS
from data.cpjump1 import conditions, read_cpjump1
from data.errors import InputError
from data.jump import read_jump
from data.prepare import load_failures
from data.resize import resize_area
from data.selection import Selection, parse_selection
from data.store import load_manifest, load_profiles, load_sites, load_wells, read_pixels, site_table

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
sys.path.insert(0, str(SCRIPTS))

from prepare_data import PrepareConfig, prepare_source  # noqa: E402

pytest.importorskip("s3fs", reason="needs the extra 'gallery'")

BUCKET = "s3://cellpainting-gallery"
COMPOUNDS = ["A01", "A02", "A09", "A17", "B02"]
"""A02, A09 and A17 are DMSO in JUMP-Target-1."""
OTHER_NUMBERS = ("DNA", "Brightfield", "ER", "Mito", "LowZBF", "RNA", "AGP", "HighZBF")
OTHER_PLATES = ("BR00116996", "BR00117020")
PLATES = {"BR00117010": "compound", "BR00116996": "crispr", "BR00117020": "orf"}


@pytest.fixture(scope="module")
def field(shared: Path) -> NDArray[np.uint16]:
    return read_field(shared)


@pytest.fixture(scope="module")
def gallery(
    shared: Path, field: NDArray[np.uint16], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A local copy: three plates, each with its load_data in another form and channel order."""
    root = tmp_path_factory.mktemp("cellpainting-gallery")
    write_jump_target(root, shared / "annotation", PLATES)
    write_gallery_plate(root, field, "BR00117010", COMPOUNDS)
    write_gallery_plate(
        root, field, "BR00116996", ["A01", "A02", "B05"], channels=OTHER_NUMBERS, table="csv.gz"
    )
    write_gallery_plate(root, field, "BR00117020", ["A01", "A02", "C04"], table="parquet")
    return root


@pytest.fixture(scope="module")
def server(gallery: Path) -> Iterator[tuple[int, Any]]:
    """A real S3 server on loopback with the Gallery's bucket (one plate): port and client."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    port = running.get_host_and_port()[1]
    client = boto3.client(
        "s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1",
        aws_access_key_id="test", aws_secret_access_key="test",
    )  # fmt: skip
    client.create_bucket(Bucket="cellpainting-gallery", ACL="public-read")
    for path in gallery.rglob("*"):
        if path.is_file() and not any(f"/{b}" in str(path) for b in OTHER_PLATES):
            put(client, path, gallery)
    yield port, client
    running.stop()


def put(client: Any, path: Path, gallery: Path, content: bytes | None = None) -> None:
    key = path.relative_to(gallery).as_posix()
    client.put_object(
        Bucket="cellpainting-gallery",
        ACL="public-read",
        Key=key,
        Body=path.read_bytes() if content is None else content,
    )


@pytest.fixture
def network(server: tuple[int, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[BadNetwork]:
    """The way to the S3 server, which can be spoilt."""
    import s3fs

    proxy = BadNetwork(server[0])
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    monkeypatch.setattr(data.remote, "WAIT", 0.05)
    data.remote.open_filesystem.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()
    yield proxy
    proxy.server.shutdown()
    data.remote.open_filesystem.cache_clear()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that soon gives up waiting, and yet waits for a busy machine's healthy answers."""
    monkeypatch.setattr(data.remote, "TIMEOUT", 4)


def prepare_cpjump1(out: Path, root: str | Path = BUCKET, **options: object) -> bool:
    chosen = {
        "plates": "BR00117010", "size": 32, "measure": False, "processes": 1,
        "held_out_targets": "0", **options,
    }  # fmt: skip
    return prepare_source(PrepareConfig("cpjump1", str(root), str(out), **chosen))  # type: ignore[arg-type]


def names(out: Path) -> list[tuple[str, int]]:
    table = site_table(load_sites(out))
    return list(zip(table["Metadata_Well"], table["Metadata_Site"], strict=True))


def test_channel_numbers_come_from_load_data(gallery: Path, field: NDArray[np.uint16]) -> None:
    order = [FILE_CHANNELS.index(stain) for stain in CHANNELS]
    for barcode, modality in PLATES.items():
        (plate,) = read_cpjump1(str(gallery), Selection(plates=(barcode,)))
        assert plate.channels == CHANNELS and all(plate.channels_present)
        assert set(plate.wells["Metadata_modality"]) <= {modality, "control"}
        for site in plate.sites:
            expected = site_crop(field, site.well, site.number)[order]
            np.testing.assert_array_equal(plate.read(site), expected)


def test_the_real_tables_are_joined(gallery: Path) -> None:
    compound, crispr, orf = (
        read_cpjump1(str(gallery), Selection(plates=(barcode,)))[0] for barcode in PLATES
    )
    wells = compound.wells.set_index("Metadata_Well")
    assert wells.loc["A01", "Metadata_pert_iname"] == "gabapentin-enacarbil"
    assert wells.loc["A01", "Metadata_target_list"].count("|") == 25  # all 26 targets
    assert wells.loc["A02", "Metadata_control_type"] == "negcon"
    assert wells.loc["A01", ["Metadata_Cell_type", "Metadata_Time"]].tolist() == ["U2OS", 48]
    for plate, hours in ((crispr, 144), (orf, 48)):
        assert (plate.wells["Metadata_Time"] == hours).all()
        treated = plate.wells[plate.wells["Metadata_modality"] != "control"]
        assert (treated["Metadata_target_list"] == treated["Metadata_gene"]).all()
        assert (treated["Metadata_gene"] != "").all()


def test_the_benchmark_is_forty_plates() -> None:
    table = conditions()
    assert len(table) == 51 and not table.index.duplicated().any()
    assert (table["variant"] == "").sum() == 40


def test_published_experiment_agrees(shared: Path) -> None:
    published = pd.read_csv(shared / "cpjump1_profiles/experiment-metadata.tsv", sep="\t")
    published = published[published["Batch"] == "2020_11_04_CPJUMP1"]
    ours = conditions().loc[published["Assay_Plate_Barcode"]]
    assert len(published) == len(conditions())
    np.testing.assert_array_equal(ours["cell"], published["Cell_type"])
    np.testing.assert_array_equal(ours["hours"].astype(int), published["Time"])


def test_pixels_are_divided_by_the_published_light(
    gallery: Path, field: NDArray[np.uint16], tmp_path: Path
) -> None:
    assert prepare_cpjump1(tmp_path / "out", gallery)
    light = read_cpjump1(str(gallery), Selection(plates=("BR00117010",)))[0].illumination
    assert light is not None
    order = [FILE_CHANNELS.index(stain) for stain in CHANNELS]
    raw = site_crop(field, "A01", 1)[order]
    expected = resize_area(raw / light(), 32)
    stored = read_pixels(load_sites(tmp_path / "out"), [0])[0].astype(float)
    for plane, should in zip(stored, expected, strict=True):
        seen = (plane > 0) & (plane < 65535)  # neither below the background nor too bright
        line = np.polyfit(should[seen], plane[seen], 1)
        fitted = np.polyval(line, should[seen])
        # Shrinking first and dividing then is the same to 1e-3 of the light's change in a block.
        np.testing.assert_allclose(fitted, plane[seen], rtol=2e-3, atol=30)


def test_just_what_is_asked_for_is_fetched(network: BadNetwork, tmp_path: Path) -> None:
    assert prepare_cpjump1(tmp_path / "out", wells="A01,A02", sites="2")
    assert names(tmp_path / "out") == [("A01", 2), ("A02", 2)]
    images = {path.rpartition("/")[2] for path in network.asked if path.endswith(".tiff")}
    assert images == {image_name(well, 2, ch) for well in ("A01", "A02") for ch in range(1, 6)}
    assert not any("BR00116996" in path for path in network.asked)
    # the published profiles of just these wells
    profiles = load_profiles(tmp_path / "out", normalized=False)
    assert profiles["Metadata_Well"].tolist() == ["A01", "A02"]
    assert "Cells_AreaShape_Area" in profiles


def test_a_dry_run_says_bytes_and_writes_nothing(
    gallery: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare_cpjump1(tmp_path / "out", gallery, dry_run=True)
    said = capsys.readouterr().out
    assert "1 plates, 5 wells, 50 images" in said and "to read" in said
    assert not (tmp_path / "out").exists()


def test_modality_and_wells_without_controls(gallery: Path, tmp_path: Path) -> None:
    assert prepare_cpjump1(
        tmp_path / "out", gallery, plates=",".join(PLATES), modality="crispr", wells="A01"
    )
    manifest = load_manifest(tmp_path / "out")
    assert list(manifest.plates) == ["BR00116996"]
    assert manifest.reference == "none (single field)"
    with pytest.raises(InputError, match="--modality orf: none of the plates"):
        prepare_cpjump1(tmp_path / "no", gallery, modality="orf")


FAULTS = ["truncated", "corrupt", "gone", "404", "503", "drop", "stall"]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_costs_its_well_and_is_repaired(
    fault: str,
    network: BadNetwork,
    server: tuple[int, Any],
    gallery: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(data.remote, "TRIES", 2)
    out = tmp_path / "out"
    name = image_name("B02", 1, 3)
    path = next(gallery.rglob(f"BR00117010*/Images/{name}"))
    key = path.relative_to(gallery).as_posix()
    client = server[1]
    spoilt = {"truncated": truncated, "corrupt": corrupted}
    if fault in spoilt:
        put(client, path, gallery, spoilt[fault](path))
    elif fault == "gone":
        client.delete_object(Bucket="cellpainting-gallery", Key=key)
    else:
        network.faults[name] = [int(fault) if fault.isdigit() else fault, "always"]
    assert not prepare_cpjump1(out)
    assert load_wells(out)["Metadata_Well"].tolist() == ["A01", "A02", "A09", "A17"]
    (failure,) = load_failures(out).to_dict("records")
    assert (failure["plate"], failure["well"], failure["site"]) == ("BR00117010", "B02", "1")
    assert name in failure["error"]
    reason = {
        "truncated": "not a readable TIFF",
        "corrupt": "not a readable TIFF",
        "gone": "no such file",
        "404": "no such file",
    }.get(fault, "could not be read after 2 tries")
    assert reason in failure["error"]
    said = capsys.readouterr().err
    assert f"well B02, site 1: {failure['error']}" in said and "1 wells are missing" in said
    # repaired: just that well is fetched again (and the controls, which give the scale)
    put(client, path, gallery)
    network.faults.clear()
    network.asked.clear()
    assert prepare_cpjump1(out)
    images = {p.rpartition("/")[2][:9] for p in network.asked if p.endswith(".tiff")}
    assert {name[:6] for name in images} == {"r02c02", "r01c02", "r01c09", "r01c17"}
    assert prepare_cpjump1(tmp_path / "fresh")
    assert load_manifest(out) == load_manifest(tmp_path / "fresh")
    assert load_failures(out).empty


@pytest.mark.usefixtures("impatient")
def test_passing_faults_are_not_noticed(network: BadNetwork, tmp_path: Path) -> None:
    network.faults = {
        image_name("A01", 1, 1): [503, 503],
        image_name("A01", 2, 2): ["drop"],
        image_name("A17", 1, 5): ["stall"],
        image_name("A17", 2, 5): ["slow"],
        "barcode_platemap.csv": [503],
        "load_data.csv": ["drop"],
    }
    assert prepare_cpjump1(tmp_path / "out")
    assert len(names(tmp_path / "out")) == 10


def test_a_lost_control_moves_the_scale_back_when_it_returns(
    network: BadNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data.remote, "TRIES", 1)
    network.faults[image_name("A02", 2, 1)] = [503, "always"]
    assert not prepare_cpjump1(tmp_path / "out")
    network.faults.clear()
    assert prepare_cpjump1(tmp_path / "out")
    assert prepare_cpjump1(tmp_path / "fresh")
    assert load_manifest(tmp_path / "out") == load_manifest(tmp_path / "fresh")


def test_nothing_to_be_had_is_an_error(
    network: BadNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data.remote, "TRIES", 1)
    network.faults[".tiff"] = [503, "always"]
    with pytest.raises(InputError, match="could not be read after 1 tries"):
        prepare_cpjump1(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_of_the_manual(network: BadNetwork, tmp_path: Path) -> None:
    command = "cpjump1 --plates BR00117010 --wells A01,B02 --sites 1-4 --size 32 --dry-run"
    run = subprocess.run(
        [sys.executable, str(SCRIPTS / "prepare_data.py"), *command.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "AWS_ENDPOINT_URL": network.url},
    )
    assert run.returncode == 0, run.stderr
    assert "to do: 1 plates, 2 wells, 20 images" in run.stdout
    assert not list(tmp_path.iterdir())


def write_jump_tables(folder: Path) -> Path:
    tables = {
        "plate.csv.gz": "Metadata_Source,Metadata_Batch,Metadata_Plate,Metadata_PlateType\n"
        "source_4,2021_04_26_Batch1,BR00117035,ORF\n",
        "well.csv.gz": "Metadata_Source,Metadata_Plate,Metadata_Well,Metadata_JCP2022\n"
        "source_4,BR00117035,A01,JCP2022_900001\nsource_4,BR00117035,A02,JCP2022_915128\n"
        "source_4,BR00117035,A03,JCP2022_999999\n",
        "compound.csv.gz": "Metadata_JCP2022,Metadata_InChIKey\nJCP2022_033924,IAZD\n",
        "orf.csv.gz": "Metadata_JCP2022,Metadata_Symbol\nJCP2022_900001,RAB30\n"
        "JCP2022_915128,BFP\n",
        "crispr.csv.gz": "Metadata_JCP2022,Metadata_Symbol\nJCP2022_805264,PLK1\n",
        "perturbation_control.csv": "Metadata_JCP2022,Metadata_pert_type,Metadata_Name\n"
        "JCP2022_999999,empty,Empty\nJCP2022_915128,negcon,BFP\n",
    }
    folder.mkdir()
    for name, text in tables.items():
        table = pd.DataFrame([line.split(",") for line in text.splitlines()])
        table.to_csv(folder / name, index=False, header=False)
    return folder


def test_cpg0016_by_the_same_code(field: NDArray[np.uint16], tmp_path: Path) -> None:
    write_gallery_plate(
        tmp_path / "gallery", field, "BR00117035", ["A01", "A02", "A03"], table="parquet",
        project="cpg0016-jump", batch="2021_04_26_Batch1", published=False,
    )  # fmt: skip
    tables = write_jump_tables(tmp_path / "metadata")
    wanted = Selection(plates=("BR00117035",))
    (plate,) = read_jump(str(tmp_path / "gallery"), str(tables), wanted)
    wells = plate.wells.set_index("Metadata_Well")
    assert wells.index.tolist() == ["A01", "A02"]  # A03 is empty
    assert wells.loc["A01", "Metadata_gene"] == wells.loc["A01", "Metadata_target_list"] == "RAB30"
    assert wells.loc["A02", "Metadata_control_type"] == "negcon"
    assert wells.loc["A02", "Metadata_modality"] == "control"
    assert plate.illumination is None and plate.profiles is None
    assert plate.read(plate.sites[0]).shape == (5, SIDE, SIDE)
    with pytest.raises(InputError, match="name the plates"):
        read_jump(str(tmp_path / "gallery"), str(tables), Selection())


def test_what_is_asked_for_is_checked(gallery: Path, tmp_path: Path) -> None:
    assert parse_selection("all", "", "A01, B02", "1-4,7") == Selection(
        (), "", ("A01", "B02"), (1, 2, 3, 4, 7)
    )
    for options, complaint in (
        ({"wells": "Z1"}, "'Z1' is no well"),
        ({"sites": "a-b"}, "'a-b' is no site"),
        ({"modality": "rnai"}, "--modality is 'rnai'"),
        ({"plates": "BR1"}, "there is no plate BR1"),
        ({"plates": "BR00117011"}, "plate BR00117011 is not listed"),
        ({"wells": "P24"}, "has no well P24"),
        ({"sites": "9"}, "has none of the sites 9"),
    ):
        with pytest.raises(InputError, match=complaint):
            prepare_cpjump1(tmp_path / "out", gallery, **options)
    assert not (tmp_path / "out").exists()


LOAD_DATA = "cpg0000-jump-pilot/source_4/workspace/load_data_csv/2020_11_04_CPJUMP1/BR00117010"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda t: t.drop(columns="Metadata_Site"), "no column 'Metadata_Site'"),
        (lambda t: t[["Metadata_Well", "Metadata_Site"]], "no column like URL_OrigDNA"),
        (lambda t: pd.concat([t, t[:1]]), "row 12: well A01 site 1 is listed twice"),
        (lambda t: t.assign(URL_OrigER=""), "row 2: no file of stain ER"),
        (lambda t: t.assign(Metadata_Well="1"), "row 2: well '1', site '1' is no site"),
    ],
)
def test_bad_load_data_is_named(
    change: object, complaint: str, field: NDArray, shared: Path, tmp_path: Path
) -> None:
    write_jump_target(tmp_path, shared / "annotation", PLATES)
    write_gallery_plate(tmp_path, field, "BR00117010", COMPOUNDS, published=False)
    path = tmp_path / LOAD_DATA / "load_data.csv"
    change(pd.read_csv(path, dtype=str)).to_csv(path, index=False)  # type: ignore[operator]
    with pytest.raises(InputError, match=complaint):
        read_cpjump1(str(tmp_path), Selection(plates=("BR00117010",)))
