"""Every naming scheme gives the same sites; channels in any order come out in the canonical one."""

import shutil
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pytest
import tifffile
from helpers import CHANNEL_FILES, write_tiff_plate
from hypothesis import given, settings
from hypothesis import strategies as st

from data.channels import CHANNELS
from data.errors import InputError
from data.image_names import HARMONY, NAMES, well_name
from data.plates import read_plates
from data.raw import Plate
from data.tiff import read_tiff

FLUORS = {
    "ch1": "MitoTracker Deep Red", "ch2": "Alexa 568", "ch3": "Alexa 488 long",
    "ch4": "Alexa 488", "ch5": "HOECHST 33342",
}  # fmt: skip


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compound plate of two sites a well, in Harmony's names; never changed."""
    return write_tiff_plate(tmp_path_factory.mktemp("raw"), "P1", sites=2, size=32)


@pytest.fixture
def copied(raw: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(raw, tmp_path / "raw"))


def images(folder: Path) -> dict[tuple[str, int, str], Path]:
    """(well, site, channel) to file of a plate in Harmony's names."""
    found = {}
    for path in (folder / "images/P1").glob("*.tiff"):
        name = HARMONY.fullmatch(path.name)
        assert name
        well = well_name(name["row"], name["column"], "")
        found[well, int(name["site"]), name["channel"]] = path
    return found


def rename(folder: Path, name: Callable[[str, int, str], str]) -> None:
    for (well, site, channel), path in images(folder).items():
        target = path.parent / name(well, site, channel)
        target.parent.mkdir(exist_ok=True)
        path.rename(target)


def write_channels(folder: Path, names: dict[str, str]) -> None:
    lines = [f"{names[channel]}\t{stain}\n" for channel, stain in CHANNEL_FILES.items()]
    (folder / "channels.tsv").write_text("channel\tstain\n" + "".join(lines))


def stack(folder: Path, order: list[str], ome: bool) -> None:
    """Put all channels of a site into one file, named by stain or not at all."""
    files = images(folder)
    for well, site in {key[:2] for key in files}:
        planes = np.stack([read_tiff(files[well, site, channel]) for channel in order])
        stains = [CHANNEL_FILES[channel] for channel in order]
        metadata = {"axes": "CYX", "Channel": {"Name": stains}} if ome else None
        path = folder / f"images/P1/P1_{well}_s{site}{'.ome' if ome else ''}.tiff"
        tifffile.imwrite(path, planes, metadata=metadata, photometric="minisblack")
    for path in files.values():
        path.unlink()


def write_index(folder: Path, named_in_map: bool = False) -> Path:
    lines = []
    for (well, site, channel), path in sorted(images(folder).items()):
        name = f"<ChannelName>{escape(FLUORS[channel])}</ChannelName>"
        lines.append(
            f'<Image Version="1"><id>x</id><State>Ok</State><URL>{path.name}</URL>'
            f"<Row>{ord(well[0]) - 64}</Row><Col>{int(well[1:])}</Col><FieldID>{site}</FieldID>"
            f"<PlaneID>1</PlaneID><TimepointID>0</TimepointID><ChannelID>{channel[2:]}</ChannelID>"
            f"{'' if named_in_map else name}"
            f'<ImageResolutionX Unit="m">5.9E-07</ImageResolutionX>'
            f'<PositionX Unit="m">{site}E-06</PositionX><PositionY Unit="m">-2E-06</PositionY>'
            "</Image>"
        )
    entries = "".join(
        f'<Entry ChannelID="{channel[2:]}"><ChannelName>{name}</ChannelName></Entry>'
        for channel, name in FLUORS.items()
    )
    path = folder / "images/P1" / ("Index.xml" if named_in_map else "Index.idx.xml")
    path.write_text(
        '<?xml version="1.0" encoding="utf-8"?><EvaluationInputData '
        'xmlns="http://www.perkinelmer.com/PEHH/HarmonyV5" Version="1">'
        f"<Maps><Map>{entries if named_in_map else ''}</Map></Maps>"
        f"<Images>{''.join(lines)}</Images></EvaluationInputData>"
    )
    return path


def as_metaxpress(folder: Path, tail: str = "") -> None:
    rename(folder, lambda well, site, ch: f"P1_{well}_s{site}_w{ch[2:]}{tail}.tif")
    write_channels(folder, {channel: f"w{channel[2:]}" for channel in CHANNEL_FILES})


def as_metaxpress_with_ids(folder: Path) -> None:
    as_metaxpress(folder, "07447158-AC92-4844-A17E-5527C81C9F9A")
    (folder / "images/P1/P1_A01_s1_w1_thumb07447158-AC92-4844-A17E-5527C81C9F9A.tif").touch()


def as_numbered_pages(folder: Path) -> None:
    stack(folder, list(CHANNEL_FILES), ome=False)
    write_channels(folder, {channel: channel[2:] for channel in CHANNEL_FILES})


def as_ome_tiff(folder: Path) -> None:
    stack(folder, list(reversed(CHANNEL_FILES)), ome=True)
    (folder / "channels.tsv").unlink()  # the channels are called by their stains


def as_indexed(folder: Path) -> None:
    write_index(folder)
    write_channels(folder, FLUORS)


def as_indexed_later(folder: Path) -> None:
    write_index(folder, named_in_map=True)
    write_channels(folder, FLUORS)


def as_folders_by_well(folder: Path) -> None:
    rename(
        folder, lambda well, site, ch: f"{well[0]}{int(well[1:])}/{CHANNEL_FILES[ch]}-{site}.tif"
    )
    (folder / "channels.tsv").unlink()


OWN = r"(?P<well>[A-P]\d+)/(?P<channel>\w+)-(?P<site>\d+)\.tif"

SCHEMES: dict[str, tuple[Callable[[Path], None], str | None]] = {
    "MetaXpress": (as_metaxpress, None),
    "MetaXpress with ids and thumbnails": (as_metaxpress_with_ids, None),
    "multi-page": (as_numbered_pages, None),
    "OME-TIFF": (as_ome_tiff, None),
    "Harmony's index": (as_indexed, None),
    "a later Harmony's index": (as_indexed_later, None),
    "own pattern": (as_folders_by_well, OWN),
}


def pixels(plate: Plate) -> dict[tuple[str, int], np.ndarray]:
    return {(site.well, site.number): plate.read(site) for site in plate.sites}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_gives_the_same_plate(raw: Path, copied: Path, scheme: str) -> None:
    change, pattern = SCHEMES[scheme]
    change(copied)
    (expected,), (plate,) = read_plates(raw), read_plates(copied, pattern)
    assert plate.channels == CHANNELS and all(plate.channels_present)
    assert plate.wells.equals(expected.wells)
    found = pixels(plate)
    for key, planes in pixels(expected).items():
        np.testing.assert_array_equal(found.pop(key), planes)
    assert not found


def test_an_index_knows_positions_and_pixel_size(copied: Path) -> None:
    as_indexed(copied)
    (plate,) = read_plates(copied)
    assert plate.pixel_size == pytest.approx(0.59)
    assert plate.sites[1].number == 2 and plate.sites[1].position == pytest.approx((2, -2))


def test_every_order_of_pages_comes_out_in_the_canonical_one(copied: Path) -> None:
    stack(copied, list(CHANNEL_FILES), ome=True)
    (copied / "channels.tsv").unlink()
    (plate,) = read_plates(copied)
    site = plate.sites[0]
    planes = plate.read(site)
    for order in permutations(range(5)):
        names = [CHANNELS[i] for i in order]
        tifffile.imwrite(
            str(site.files[0]), planes[list(order)], photometric="minisblack",
            metadata={"axes": "CYX", "Channel": {"Name": names}},
        )  # fmt: skip
        np.testing.assert_array_equal(plate.read(site), planes)


def test_every_channel_map_comes_out_in_the_canonical_order(tmp_path: Path) -> None:
    wells = {"A01": "", "A02": "BRD-1"}
    folder = write_tiff_plate(tmp_path, "P1", wells=wells, sites=1, size=16)
    for stains in permutations(CHANNELS):
        named = dict(zip(CHANNEL_FILES, stains, strict=True))
        lines = "".join(f"{channel}\t{stain}\n" for channel, stain in named.items())
        (folder / "channels.tsv").write_text("channel\tstain\n" + lines)
        site = read_plates(folder)[0].sites[0]
        found = [str(file).rpartition("p01-")[2][:3] for file in site.files]
        assert [named[channel] for channel in found] == list(CHANNELS)


def test_missing_stains_of_a_stack_are_zero_planes(copied: Path) -> None:
    stack(copied, ["ch5", "ch2"], ome=True)
    (copied / "channels.tsv").unlink()
    (plate,) = read_plates(copied)
    assert plate.channels_present == (True, False, False, True, False)
    read = plate.read(plate.sites[0])
    assert read.any(axis=(1, 2)).tolist() == list(plate.channels_present)


@settings(deadline=None)
@given(row=st.integers(1, 16), column=st.integers(1, 24), site=st.integers(1, 99))
def test_names_say_well_and_site(row: int, column: int, site: int) -> None:
    well = well_name(row, column, "")
    assert well == well_name(well[0].lower(), str(column), "")
    for scheme, name in (
        ("Harmony", f"r{row:02d}c{column:02d}f{site:02d}p01-ch3sk1fk1fl1.tiff"),
        ("MetaXpress", f"a_B02_x_{well}_s{site}_w3.tif"),
        ("multi-page", f"a_B02_x_{well}_s{site}.ome.tif"),
    ):
        said = NAMES[scheme].fullmatch(name)
        assert said and int(said["site"]) == site
        assert not any(NAMES[other].fullmatch(name) for other in NAMES if other != scheme)
        groups = said.groupdict()
        assert groups.get("well") in (None, well)


def edit(old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "images/P1/Index.idx.xml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


def copy_image(name: str) -> Callable[[Path], None]:
    some = "images/P1/r01c01f01p01-ch1sk1fk1fl1.tiff"
    return lambda folder: shutil.copy(folder / some, folder / "images/P1" / name) and None


INDEX_FAULTS = {
    "not XML": (edit("<Images>", "<Images"), r"Index.idx.xml: not a readable XML file"),
    "another XML": (edit("<Images>", "<Things>"), r"not a readable XML"),
    "empty": (
        lambda folder: (folder / "images/P1/Index.idx.xml").write_text("<a/>") and None,
        r"Index.idx.xml: lists no images",
    ),
    "no field": (edit("<FieldID>1</FieldID>", ""), r"image r01c01f01.* has no usable .*'FieldID'"),
    "denied by the name": (
        edit("<Col>1</Col>", "<Col>2</Col>"),
        r"says that r01c01f01p01-ch1sk1fk1fl1.tiff is row 1, column 2, .* which its name denies",
    ),
    "missing image": (
        lambda folder: (folder / "images/P1/r01c01f01p01-ch1sk1fk1fl1.tiff").unlink(),
        r"Index.idx.xml: lists r01c01f01p01-ch1sk1fk1fl1.tiff, which is missing",
    ),
    "image not listed": (
        copy_image("r09c01f01p01-ch1sk1fk1fl1.tiff"),
        r"r09c01f01p01-ch1sk1fk1fl1.tiff: not listed in Index.idx.xml",
    ),
    "impossible well": (edit("<Row>1</Row>", "<Row>77</Row>"), r"which its name denies"),
    "unknown channel": (
        lambda folder: write_channels(folder, FLUORS | {"ch2": "Alexa 567"}),
        r"channel 'Alexa 567' \(AGP\) is not there; found .*ch5 \(HOECHST 33342\)",
    ),
    "two measurements": (
        lambda folder: shutil.copytree(folder / "images/P1", folder / "images/P1/again") and None,
        r"holds two measurements",
    ),
}


@pytest.mark.parametrize("fault", INDEX_FAULTS)
def test_an_index_that_disagrees_is_named(copied: Path, fault: str) -> None:
    change, complaint = INDEX_FAULTS[fault]
    as_indexed(copied)
    change(copied)
    with pytest.raises(InputError, match=complaint) as caught:
        read_plates(copied)
    assert "\n" not in str(caught.value)


NAME_FAULTS = {
    "nothing fits": (None, r"images/P1: no images named like r01c01f01.*: give --pattern"),
    "no expression": (r"(?P<well>", r"is not a regular expression"),
    "no well": (r"(?P<site>\d+)\.tif", r"expected a group \(\?P<well>\.\.\.\).*; found site"),
    "fits no file": (r"x(?P<well>\w+)\.png", r"fits no file; found A1/AGP-1.tif"),
    "site": (r"(?P<well>[A-P]\d+)/(?P<site>\w+)-\d+\.tif", r"site is '\w+', expected a number"),
    "impossible well": (r"(?P<well>[A-P]\d/\w)\w+-(?P<site>\d+)\.tif", r"is no well, expected A01"),
}  # fmt: skip


@pytest.mark.parametrize("fault", NAME_FAULTS)
def test_names_that_say_nothing_are_named(copied: Path, fault: str) -> None:
    pattern, complaint = NAME_FAULTS[fault]
    as_folders_by_well(copied)
    with pytest.raises(InputError, match=complaint) as caught:
        read_plates(copied, pattern)
    assert "\n" not in str(caught.value)


def test_stacks_that_differ_are_named(copied: Path) -> None:
    stack(copied, list(CHANNEL_FILES), ome=True)
    (copied / "channels.tsv").unlink()
    (plate,) = read_plates(copied)
    path = copied / "images/P1/P1_A02_s1.ome.tiff"
    metadata = {"axes": "CYX", "Channel": {"Name": ["DNA", "ER"]}}
    tifffile.imwrite(path, np.zeros((2, 32, 32), np.uint16), metadata=metadata)
    site = next(site for site in plate.sites if site.well == "A02")
    with pytest.raises(InputError, match=r"P1_A02_s1.ome.tiff: no channel 'RNA'; found DNA, ER"):
        plate.read(site)
