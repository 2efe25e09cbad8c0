"""The TIFF images of a plate: grouped by well and site, and read into canonical planes."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.channels import match_channels, order_channels
from data.errors import InputError
from data.harmony import INDEX_NAMES, read_index
from data.image_names import ImageFile, read_names
from data.raw import Plate, Site, stack_planes
from data.tiff import page_names, read_pages, read_tiff


def read_tiff_plate(
    folder: Path, barcode: str, stains: Mapping[str, str] | None, pattern: str | None = None
) -> Plate:
    """Find the sites of a folder of TIFF images; their pixels are read later.

    Parameters
    ----------
    folder : Path
    barcode : str
    stains : mapping or None
        Channel, as the file names or the microscope call it, to stain. None takes the channels that
        are called by their stain.
    pattern : str, optional
        What files are called (see `data.image_names.read_names`).

    Returns
    -------
    Plate
        Its table of wells is empty.

    Raises
    ------
    InputError
        When the folder is missing, no name fits, a channel is missing at some site, or there are
        two images for one plane.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: image folder of plate {barcode} is missing")
    files = _list_files(folder, pattern)
    stacked = files[0].channel is None
    if stacked:
        found: dict[str, str | None] = dict.fromkeys(page_names(files[0].path))
    else:
        found = {str(file.channel): file.channel_name for file in files}
    names = match_channels(found, stains, str(folder))
    channels = order_channels(names)
    planes = tuple(names.get(stain) for stain in channels)
    by_site: dict[tuple[str, int], dict[str | None, ImageFile]] = {}
    for file in files:
        site = by_site.setdefault((file.well, file.site), {})
        if file.channel in site:
            raise InputError(
                f"{file.path}: well {file.well}, site {file.site} has two files for one plane, the "
                f"other is {site[file.channel].path}: keep one z plane and one time point"
            )
        site[file.channel] = file
    sites = []
    for (well, number), by_channel in sorted(by_site.items()):
        some = next(iter(by_channel.values()))
        for stain, name in names.items():
            if not stacked and name not in by_channel:
                raise InputError(
                    f"{folder}: the image of {stain} (channel {name}) is missing for well {well}, "
                    f"site {number}; found {some.path.name}"
                )
        paths: tuple[Path | None, ...] = (some.path,)
        if not stacked:
            paths = tuple(by_channel[name].path if name else None for name in planes)
        sites.append(Site(well, number, paths, position=some.position))
    return Plate(
        barcode=barcode,
        channels=channels,
        channels_present=tuple(name is not None for name in planes),
        wells=pd.DataFrame(),
        sites=tuple(sites),
        read=partial(read_stack, channels=planes) if stacked else read_site,
        pixel_size=files[0].pixel_size,
    )


def read_site(site: Site) -> NDArray[np.uint16]:
    """Read a site's TIFF files; stains that were not imaged become zero planes.

    Returns
    -------
    uint16 array (C, H, W)

    Raises
    ------
    InputError
        Naming the file: missing, unreadable, not 16 bit, not one plane, or another size than the
        site's other channels.
    """
    return stack_planes([None if path is None else read_tiff(path) for path in site.files], site)


def read_stack(site: Site, channels: tuple[str | None, ...]) -> NDArray[np.uint16]:
    """Read a site from one TIFF; `channels` names each plane's page, None gives a zero plane."""
    (path,) = site.files
    assert path is not None
    planes = iter(read_pages(Path(path), tuple(name for name in channels if name is not None)))
    return stack_planes([None if name is None else next(planes) for name in channels], site)


def _list_files(folder: Path, pattern: str | None) -> list[ImageFile]:
    """List a plate's image files by Harmony's index where there is one, else by their names."""
    indices = [] if pattern else [path for name in INDEX_NAMES for path in folder.rglob(name)]
    if len(indices) > 1:
        raise InputError(
            f"{folder}: holds two measurements, {indices[0]} and {indices[1]}: keep one"
        )
    return read_index(indices[0]) if indices else read_names(folder, pattern)
