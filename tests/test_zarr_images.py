"""OME-Zarr plates: read as any other plate, local and in an object store; faults by name."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr
from helpers import CHANNEL_FILES, write_tiff_plate
from moto.server import ThreadedMotoServer
from numpy.typing import NDArray
from ome_zarr.format import format_from_version
from ome_zarr.writer import write_image, write_plate_metadata, write_well_metadata

from data.channels import CHANNELS
from data.errors import InputError
from data.plates import read_plates
from data.prepare import PrepareSettings, prepare
from data.raw import Plate
from data.store import load_sites, read_pixels
from data.zarr_images import read_zarr_plate, read_zarr_site

STAINS = list(CHANNEL_FILES.values())
Pixels = dict[tuple[str, int], NDArray]


def write_zarr_plate(
    path: Path, pixels: Pixels, labels: list[str] | None, version: str = "0.5", axes: str = "cyx"
) -> None:
    """Write a plate of a single resolution with the format's own library."""
    chosen = format_from_version(version)
    root = zarr.open_group(str(path), mode="w", zarr_format=chosen.zarr_format)
    wells = {f"{well[0]}/{well[1:]}": well for well, _ in pixels}
    rows, columns = sorted({w[0] for w in wells}), sorted({w[2:] for w in wells})
    write_plate_metadata(root, rows, columns, list(wells), fmt=chosen)
    for where, well in wells.items():
        group = root.require_group(where)
        sites = {str(site - 1): planes for (w, site), planes in pixels.items() if w == well}
        write_well_metadata(group, list(sites), fmt=chosen)
        for name, planes in sites.items():
            kind = {"c": "channel", "t": "time"}
            write_image(
                planes, group.require_group(name), scale_factors=[], fmt=chosen,
                axes=[{"name": axis, "type": kind.get(axis, "space")} for axis in axes],
                metadata={"omero": {"channels": [{"label": name} for name in labels]}}
                if labels else {},
            )  # fmt: skip


def raw_pixels(plate: Plate) -> Pixels:
    return {(site.well, site.number): plate.read(site) for site in plate.sites}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TIFF plate; never changed."""
    folder = tmp_path_factory.mktemp("raw")
    return write_tiff_plate(folder, sites=1, size=64)


@pytest.fixture(scope="module", params=["0.4", "0.5"])
def zarred(
    raw: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The same plate with its images as OME-Zarr, channels in another order; never changed."""
    folder = tmp_path_factory.mktemp("zarred") / "raw"
    shutil.copytree(raw, folder, ignore=lambda *_: ["images", "channels.tsv"])
    pixels = {key: planes[::-1] for key, planes in raw_pixels(read_plates(raw)[0]).items()}
    labels = list(reversed(CHANNELS))
    write_zarr_plate(folder / "images/P1.ome.zarr", pixels, labels, request.param)
    return folder


@pytest.fixture
def copied(zarred: Path, tmp_path: Path) -> Path:
    shutil.copytree(zarred, tmp_path / "raw")
    return tmp_path / "raw/images/P1.ome.zarr"


def test_an_ome_zarr_plate_is_prepared_as_a_tiff_plate(
    raw: Path, zarred: Path, tmp_path: Path
) -> None:
    settings = PrepareSettings(size=48, measure=False, processes=1)
    stored = []
    for folder in (raw, zarred):
        out = tmp_path / folder.parent.name
        prepare(read_plates(folder), out, settings, source="plates")
        stored.append(read_pixels(load_sites(out), range(8)))
    np.testing.assert_array_equal(*stored)


def test_another_place_may_be_given(zarred: Path, tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    shutil.copytree(zarred, folder)
    (folder / "images/P1.ome.zarr").rename(folder / "elsewhere")  # and known without its ending
    path = folder / "experiment-metadata.tsv"
    header, row = path.read_text().splitlines()
    path.write_text(f"{header}\tImages\n{row}\telsewhere\n")
    (plate,) = read_plates(folder)
    assert str(plate.sites[0].files[0]) == f"{folder}/elsewhere/A/01/0"


def test_a_changed_image_is_noticed(copied: Path) -> None:
    def stamps() -> dict[str, tuple]:
        return {site.well: site.objects for site in read_zarr_plate(str(copied), "P1", None).sites}

    before = stamps()
    assert stamps() == before and all(size > 0 for ((size, _),) in before.values())
    array = zarr.open_array(f"{copied}/B/02/0/s0", mode="r+")
    array[0, 0, 0] = 77
    changed = {well for well, stamp in stamps().items() if stamp != before[well]}
    assert changed == {"B02"}


def test_time_and_depth_of_one_and_channels_without_labels(tmp_path: Path) -> None:
    planes = np.arange(2 * 16 * 20, dtype=np.uint8).reshape(1, 2, 1, 16, 20)
    write_zarr_plate(tmp_path / "p.zarr", {("A01", 1): planes}, None, axes="tczyx")
    plate = read_zarr_plate(str(tmp_path / "p.zarr"), "P1", {"2": "DNA", "1": "Actin"})
    assert plate.channels == (*CHANNELS, "Actin")
    assert plate.channels_present == (True, False, False, False, False, True)
    read = plate.read(plate.sites[0])
    np.testing.assert_array_equal(read[[0, 5]], planes[0, ::-1, 0])
    assert not read[1:5].any() and read.dtype == np.uint8


def test_the_real_zarr_crops(shared: Path, tmp_path: Path) -> None:
    """RAB30 crops, stored as AGP, DNA, ER, Mito, RNA in zarr 3, as a plate of two wells."""
    folder = shared / "jump_fields/rab30_orf_crispr"
    crops = np.asarray(zarr.open_group(str(folder / "images.zarr"), mode="r")["images"])
    np.testing.assert_array_equal(crops, np.load(folder / "images.npy"))
    labels = ["AGP", "DNA", "ER", "Mito", "RNA"]
    for version in ("0.4", "0.5"):
        path = tmp_path / f"{version}.ome.zarr"
        write_zarr_plate(path, {("G01", 1): crops[0], ("L07", 1): crops[1]}, labels, version)
        plate = read_zarr_plate(str(path), "RAB30", None)
        for site, crop in zip(plate.sites, crops, strict=True):
            expected = crop[[labels.index(stain) for stain in CHANNELS]]
            np.testing.assert_array_equal(plate.read(site), expected)
    with pytest.raises(InputError, match=r"images\.zarr: not an OME-Zarr plate but a zarr group w"):
        read_zarr_plate(str(folder / "images.zarr"), "RAB30", None)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket on a real S3 server on loopback."""
    import s3fs

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in (
        ("AWS_ENDPOINT_URL", f"http://{host}:{port}"), ("AWS_ACCESS_KEY_ID", "none"),
        ("AWS_SECRET_ACCESS_KEY", "none"), ("AWS_DEFAULT_REGION", "us-east-1"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    name = f"plates{port}"  # the server keeps what other tests have put there
    s3fs.S3FileSystem().mkdir(name)
    yield f"s3://{name}"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def test_a_plate_in_an_object_store(zarred: Path, tmp_path: Path, bucket: str) -> None:
    import s3fs

    s3fs.S3FileSystem().put(str(zarred / "images/P1.ome.zarr"), f"{bucket}/P1.ome.zarr", True)
    folder = tmp_path / "raw"
    shutil.copytree(zarred, folder, ignore=lambda *_: ["images"])
    path = folder / "experiment-metadata.tsv"
    header, row = path.read_text().splitlines()
    path.write_text(f"{header}\tImages\n{row}\t{bucket}/P1.ome.zarr\n")
    (plate,), (local,) = read_plates(folder), read_plates(zarred)
    assert all(size > 0 and version for site in plate.sites for size, version in site.objects)
    expected = raw_pixels(local)
    for site in plate.sites[:2]:
        np.testing.assert_array_equal(plate.read(site), expected[site.well, site.number])
    path.write_text(f"{header}\tImages\n{row}\t{bucket}/P2.ome.zarr\n")
    with pytest.raises(InputError, match=r"s3://plates\d+/P2.ome.zarr: there is no zarr group"):
        read_plates(folder)


def edit(place: str, change: Callable[[dict], object]) -> Callable[[Path], None]:
    """Change the OME metadata of a group, whatever the version."""

    def edited(path: Path) -> None:
        for name in ("zarr.json", ".zattrs"):
            file = path / place / name
            if file.is_file():
                content = json.loads(file.read_text())
                change(content["attributes"]["ome"] if name == "zarr.json" else content)
                file.write_text(json.dumps(content))

    return edited


def set_version(content: dict) -> None:
    content["plate"]["version"] = content["version"] = "0.3"


PLATE_FAULTS = {
    "nothing there": (shutil.rmtree, r"images/P1: image folder of plate P1 is missing"),
    "no metadata": (edit("", dict.clear), r"not an OME-Zarr plate but a zarr group without OME"),
    "an image": (
        edit("", lambda ome: (ome.clear(), ome.update(multiscales=[]))),
        r"not an OME-Zarr plate but a single image; expected high-content screening metadata",
    ),
    "other version": (edit("", set_version), r"OME-Zarr version 0.3, expected 0.4 or 0.5"),
    "no wells": (edit("", lambda ome: ome["plate"].pop("wells")), r"has no plate.wells"),
    "empty": (edit("", lambda ome: ome["plate"].update(wells=[])), r"the plate has no images"),
    "no path": (edit("", lambda ome: ome["plate"]["wells"][0].pop("path")), r"has no path"),
    "missing well": (
        lambda path: shutil.rmtree(path / "B/01"), r"P1.ome.zarr/B/01: there is no zarr group",
    ),
    "impossible well": (
        edit("", lambda ome: ome["plate"]["wells"][0].update(path="A/one")), r"there is no zarr gr",
    ),
    "well without images": (edit("A/01", dict.clear), r"P1.ome.zarr/A/01: .* has no well"),
    "two acquisitions": (
        edit("A/01", lambda ome: ome["well"]["images"][0].update(acquisition=3)),
        r"holds the acquisitions",
    ),
    "unlabelled": (
        edit("A/01/0", lambda ome: ome.pop("omero")),
        r"no channel is called by its stain; found 1, 2, 3, 4, 5: say .* in channels.tsv",
    ),
    "a label twice": (
        edit("A/01/0", lambda ome: ome["omero"]["channels"][0].update(label="DNA")),
        r"A/01/0: two channels are labelled 'DNA'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", PLATE_FAULTS)
def test_bad_plates_are_named(copied: Path, fault: str) -> None:
    change, complaint = PLATE_FAULTS[fault]
    change(copied)
    with pytest.raises(InputError, match=complaint) as caught:
        read_plates(copied.parent.parent)
    assert "\n" not in str(caught.value)


def damage_chunk(path: Path) -> None:
    for chunk in [*path.glob("s0/c/0/*/*"), *path.glob("s0/0/*/*")]:
        chunk.write_bytes(chunk.read_bytes()[: chunk.stat().st_size // 2])


def spoil_array(path: Path) -> None:
    for name in ("zarr.json", ".zarray"):
        (path / "s0" / name).write_text("{")


def rewrite(planes: NDArray) -> Callable[[Path], None]:
    """Write another image in place of the array of the highest resolution."""

    def change(path: Path) -> None:
        old = zarr.open_array(str(path / "s0"), mode="r")
        kind = old.metadata.zarr_format
        zarr.create_array(str(path / "s0"), data=planes, overwrite=True, zarr_format=kind)

    return change


IMAGE_FAULTS = {
    "missing": (shutil.rmtree, r"A/01/0: there is no zarr group"),
    "no resolution": (edit("", lambda ome: ome.pop("multiscales")), r"has no multiscales"),
    "array missing": (lambda path: shutil.rmtree(path / "s0"), r"its pixels cannot be read"),
    "damaged": (damage_chunk, r"A/01/0: its pixels cannot be read"),
    "no array": (spoil_array, r"its pixels cannot be read"),
    "float": (rewrite(np.zeros((5, 8, 8), np.float32)), r"8 or 16-bit .* c, y, x of float32"),
    "too few axes": (rewrite(np.zeros((8, 8), np.uint16)), r"axes c, y, x, found shape \(8, 8\)"),
    "relabelled": (
        edit("", lambda ome: ome["omero"]["channels"][0].update(label="Nile")),
        r"A/01/0: no channel 'Mito'; found Nile, AGP",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", IMAGE_FAULTS)
def test_bad_images_are_named(copied: Path, fault: str) -> None:
    change, complaint = IMAGE_FAULTS[fault]
    (plate,) = read_plates(copied.parent.parent)
    change(copied / "A/01/0")
    with pytest.raises(InputError, match=complaint) as caught:
        plate.read(plate.sites[0])
    assert "\n" not in str(caught.value)


def test_several_time_points_are_refused(tmp_path: Path) -> None:
    planes = np.zeros((2, 1, 16, 16), np.uint16)
    write_zarr_plate(tmp_path / "p.zarr", {("A01", 1): planes}, ["DNA"], axes="tcyx")
    plate = read_zarr_plate(str(tmp_path / "p.zarr"), "P1", None)
    with pytest.raises(InputError, match=r"one time point and one z plane, found 2 and 1"):
        read_zarr_site(plate.sites[0], ("DNA",))
