"""TIFF files: one plane a file, or all channels of a site in one file (multi-page, OME-TIFF)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from xml.etree import ElementTree

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from data.errors import InputError


def read_tiff(path: Path | str, content: IO[bytes] | None = None) -> NDArray[np.uint16]:
    """Read one 16-bit single-channel TIFF as a (H, W) array; errors name the file.

    `content` is what to read in place of the file, when it has been fetched already.
    """
    with _opened(path, content) as image:
        frames = getattr(image, "n_frames", 1)
        if frames != 1:
            raise InputError(f"{path}: expected one image in the file, found {frames}")
        return _plane(image, path)


def read_pages(path: Path, channels: tuple[str, ...]) -> NDArray[np.uint16]:
    """Read the named channels of a file that holds all of a site's, as (len(channels), H, W).

    Raises
    ------
    InputError
        Naming the file: unreadable, a channel that it does not hold, not 16 bit, or pages of
        different sizes.
    """
    names = page_names(path)
    planes: list[NDArray[np.uint16]] = []
    with _opened(path) as image:
        for channel in channels:
            if channel not in names:
                raise InputError(f"{path}: no channel {channel!r}; found {', '.join(names)}")
            image.seek(names.index(channel))
            planes.append(_plane(image, path))
    for channel, plane in zip(channels, planes, strict=True):
        if plane.shape != planes[0].shape:
            raise InputError(
                f"{path}: channel {channel} is {plane.shape[0]} x {plane.shape[1]} pixels, "
                f"expected {planes[0].shape[0]} x {planes[0].shape[1]} as in {channels[0]}"
            )
    return np.stack(planes)


def page_names(path: Path) -> list[str]:
    """Return the channel of each page: its name in the OME metadata, or else "1", "2" and so on.

    Raises
    ------
    InputError
        Naming the file: unreadable, or OME metadata that names several images, z planes or time
        points, other than the file's number of channels, or a channel twice.
    """
    try:
        with tifffile.TiffFile(path) as file:
            pages, metadata = len(file.pages), file.ome_metadata
    except FileNotFoundError:
        raise InputError(f"{path}: image file is missing") from None
    except (tifffile.TiffFileError, OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable TIFF ({error})") from None
    if not pages:
        raise InputError(f"{path}: not a readable TIFF (it holds no image)")
    if metadata is None:
        return [str(page) for page in range(1, pages + 1)]
    try:
        pixels = ElementTree.fromstring(metadata).findall("{*}Image/{*}Pixels")
    except ElementTree.ParseError as error:
        raise InputError(f"{path}: its OME metadata is not XML ({error})") from None
    sizes = [[int(p.get(f"Size{axis}", "1")) for axis in "ZT"] for p in pixels]
    if sizes != [[1, 1]]:
        raise InputError(
            f"{path}: expected OME metadata of one image with one z plane and one time point, "
            f"found {len(pixels)} images, z planes and time points {sizes}: keep one of each"
        )
    channels = pixels[0].findall("{*}Channel")
    names = [channel.get("Name") or str(n) for n, channel in enumerate(channels, start=1)]
    if len(names) != pages or len(set(names)) < len(names):
        raise InputError(
            f"{path}: expected one name for each of the file's {pages} pages, found "
            f"{', '.join(names) or 'none'} in its OME metadata"
        )
    return names


@contextmanager
def _opened(path: Path | str, content: IO[bytes] | None = None) -> Iterator[Image.Image]:
    """Open with Pillow: JUMP's files are LZW-compressed, which tifffile reads only with another."""
    try:
        with Image.open(content or path) as image:
            yield image
    except FileNotFoundError:
        raise InputError(f"{path}: image file is missing") from None
    except InputError:  # a ValueError too, and already clear
        raise
    except (OSError, ValueError, SyntaxError, TypeError, KeyError, EOFError) as error:
        raise InputError(f"{path}: not a readable TIFF ({error})") from None


def _plane(image: Image.Image, path: Path | str) -> NDArray[np.uint16]:
    plane = np.asarray(image)
    # The byte order does not matter: ImageJ writes the other one.
    if plane.dtype.newbyteorder("=") != np.uint16 or plane.ndim != 2:
        found = f"{plane.dtype} of shape {plane.shape}"
        raise InputError(f"{path}: expected one 16-bit channel (uint16, two axes), found {found}")
    return plane.astype(np.uint16, copy=False)
