"""Reading TIFF files: one plane or all channels of a site, and one clear line for every fault."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.errors import InputError
from data.tiff import page_names, read_pages, read_tiff

PLANES = np.random.default_rng(0).integers(0, 65536, (3, 33, 47), dtype=np.uint16)


def test_bad_images_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.tiff"
    with pytest.raises(InputError, match=r"x\.tiff: image file is missing"):
        read_tiff(path)
    path.write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"x\.tiff: not a readable TIFF"):
        read_tiff(path)
    good = Image.fromarray(np.full((40, 40), 7, np.uint16))
    good.save(path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(InputError, match=r"x\.tiff: not a readable TIFF"):
        read_tiff(path)
    Image.fromarray(np.zeros((8, 8), np.float32)).save(path)
    with pytest.raises(InputError, match=r"x\.tiff: .*16-bit.*found float32 of shape \(8, 8\)"):
        read_tiff(path)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
    with pytest.raises(InputError, match=r"x\.tiff: .*16-bit.*found uint8 of shape \(8, 8, 3\)"):
        read_tiff(path)
    good.save(path, save_all=True, append_images=[good])
    with pytest.raises(InputError, match=r"x\.tiff: expected one image in the file, found 2"):
        read_tiff(path)


def test_compressed_images_are_read(tmp_path: Path) -> None:
    for compression in ("raw", "tiff_lzw", "tiff_deflate"):  # JUMP's own are LZW
        Image.fromarray(PLANES[0]).save(tmp_path / "x.tiff", compression=compression)
        np.testing.assert_array_equal(read_tiff(tmp_path / "x.tiff"), PLANES[0])


@pytest.mark.parametrize("order", "<>")
def test_both_byte_orders_are_read(tmp_path: Path, order: str) -> None:
    tifffile.imwrite(tmp_path / "x.tiff", PLANES, byteorder=order, photometric="minisblack")
    read = read_pages(tmp_path / "x.tiff", ("3", "1"))
    np.testing.assert_array_equal(read, PLANES[[2, 0]])
    assert read.dtype == np.uint16


def test_pages_are_called_by_ome_metadata_or_number(tmp_path: Path) -> None:
    path = tmp_path / "x.ome.tiff"
    names = ["DAPI", "Alexa 488", "Mito"]
    metadata = {"axes": "CYX", "Channel": {"Name": names}}
    tifffile.imwrite(path, PLANES, metadata=metadata, photometric="minisblack")
    assert page_names(path) == names
    np.testing.assert_array_equal(read_pages(path, ("Mito", "DAPI")), PLANES[[2, 0]])
    with pytest.raises(InputError, match=r"no channel 'ER'; found DAPI, Alexa 488, Mito"):
        read_pages(path, ("ER",))
    tifffile.imwrite(tmp_path / "y.tiff", PLANES, photometric="minisblack")
    assert page_names(tmp_path / "y.tiff") == ["1", "2", "3"]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(deadline=None)
@given(share=st.floats(0, 0.999), ome=st.booleans())
def test_a_stack_cut_anywhere_is_named(
    tmp_path_factory: pytest.TempPathFactory, share: float, ome: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.tiff"
    metadata = {"axes": "CYX", "Channel": {"Name": ["1", "2", "3"]}} if ome else None
    tifffile.imwrite(path, PLANES, ome=ome, metadata=metadata, photometric="minisblack")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    try:  # what is cut may be a note after the last pixel
        np.testing.assert_array_equal(read_pages(path, ("1", "2", "3")), PLANES)
    except InputError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)


def test_bad_stacks_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.ome.tiff"
    with pytest.raises(InputError, match="image file is missing"):
        page_names(path)
    path.write_bytes(b"II*\0not a TIFF")
    with pytest.raises(InputError, match="not a readable TIFF"):
        page_names(path)
    stack = {"metadata": {"axes": "ZYX"}, "photometric": "minisblack"}
    tifffile.imwrite(path, PLANES, **stack)
    with pytest.raises(InputError, match=r"one z plane and one time point, found 1 images, .*3, 1"):
        page_names(path)
    names = {"axes": "CYX", "Channel": {"Name": ["DNA", "ER", "DNA"]}}
    tifffile.imwrite(path, PLANES, metadata=names, photometric="minisblack")
    with pytest.raises(InputError, match=r"one name for each of the file's 3 pages, found DNA, ER"):
        page_names(path)
    path = tmp_path / "x.tiff"
    tifffile.imwrite(path, PLANES.astype(np.uint8), photometric="minisblack")
    with pytest.raises(InputError, match="16-bit"):
        read_pages(path, ("1",))
    with tifffile.TiffWriter(path) as file:
        file.write(PLANES[0])
        file.write(PLANES[0, :20])
    with pytest.raises(InputError, match=r"channel 2 is 20 x 47 pixels, expected 33 x 47 as in 1"):
        read_pages(path, ("1", "2"))
