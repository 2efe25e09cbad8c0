"""The Cell Painting Gallery: where a plate's files lie there, and how they become a `Plate`.

    <root>/<project>/<source>/images/<batch>/images/<plate>__<date>/Images/*.tiff
    <root>/<project>/<source>/images/<batch>/illum/<plate>/<plate>_Illum<Stain>.npy
    <root>/<project>/<source>/workspace/load_data_csv/<batch>/<plate>/load_data.csv
    <root>/<project>/<source>/workspace/backend/<batch>/<plate>/<plate>.csv
    <root>/<project>/<source>/workspace/metadata/platemaps/<batch>/platemap/<name>.txt

Which file is which stain of which site is what load_data says; file names are never interpreted
(Weisbart et al. 2024, doi 10.1038/s41592-024-02399-z, and the Gallery's own documentation).
"""

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.channels import CHANNELS
from data.errors import InputError
from data.illumination import decode_functions
from data.image_names import WELL_NAME
from data.raw import Plate, Site, stack_planes
from data.remote import fetch, first_existing, list_files, read_remote_table
from data.selection import Selection, select_sites
from data.tiff import read_tiff

TABLE_ENDINGS = ("csv", "csv.gz", "parquet")


@dataclass(frozen=True)
class Batch:
    """One batch of a Gallery project: the folders that its plates lie in.

    Attributes
    ----------
    root : str
        s3://cellpainting-gallery, or a folder with a copy.
    project, source, batch : str
        cpg0000-jump-pilot, source_4, 2020_11_04_CPJUMP1.
    """

    root: str
    project: str
    source: str
    batch: str

    def workspace(self, *parts: str) -> str:
        """Return a path below the batch's source in the workspace."""
        return "/".join((self.root, self.project, self.source, "workspace", *parts))

    def images(self, *parts: str) -> str:
        """Return a path below the batch's folder of images and illumination functions."""
        return "/".join((self.root, self.project, self.source, "images", self.batch, *parts))


@dataclass(frozen=True)
class PublishedIllumination:
    """A plate's illumination functions; None for a stain that was not imaged."""

    root: str
    files: tuple[str | None, ...]

    def __call__(self) -> NDArray[np.float32]:
        """Return them as (C, H, W), 1 everywhere for a stain that was not imaged."""
        return _read_functions(self)


def read_gallery_plate(place: Batch, barcode: str, wells: pd.DataFrame, wanted: Selection) -> Plate:
    """Find the images of a plate and check everything that needs no pixels.

    Parameters
    ----------
    place : Batch
    barcode : str
    wells : DataFrame
        The plate's wells with `METADATA_COLUMNS`; those without images are left out, and said.
    wanted : Selection
        Its wells and sites.

    Raises
    ------
    InputError
        Naming file and row: no load_data, no stain that is known, a bad well, a site twice or
        without one of its files, a well that is asked for and not there.
    """
    path, table = _read_load_data(place, barcode)
    columns = {stain: _paths(place, table, stain) for stain in CHANNELS}
    imaged = {stain: paths for stain, paths in columns.items() if paths is not None}
    if not imaged:
        found = ", ".join(table.columns)
        raise InputError(f"{path}: no column like URL_OrigDNA or FileName_OrigDNA; found {found}")
    known = set(wells["Metadata_Well"])
    sites: dict[tuple[str, int], tuple[str | None, ...]] = {}
    for row, (well, number) in enumerate(
        zip(table["Metadata_Well"], table["Metadata_Site"], strict=True)
    ):
        if not WELL_NAME.match(well) or not number.isdigit():
            raise InputError(f"{path} row {row + 2}: well {well!r}, site {number!r} is no site")
        if (well, int(number)) in sites:
            raise InputError(f"{path} row {row + 2}: well {well} site {number} is listed twice")
        files = tuple(imaged[s][row] if s in imaged else None for s in CHANNELS)
        for stain, file in zip(CHANNELS, files, strict=True):
            if file == "":
                raise InputError(f"{path} row {row + 2}: no file of stain {stain}")
        if well in known:
            sites[well, int(number)] = files
    there = wells["Metadata_Well"].isin({well for well, _ in sites})
    if not there.all():
        absent = wells["Metadata_Well"][~there].tolist()
        some = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
        print(f"plate {barcode}: {len(absent)} wells have no images: {some}", file=sys.stderr)
    illumination, profiles = _find_illumination(place, barcode, tuple(imaged)), None
    published = _find_profiles(place, barcode)
    if published:
        profiles = partial(read_published_profiles, place.root, published[0])
    plate = Plate(
        barcode=barcode,
        channels=CHANNELS,
        channels_present=tuple(stain in imaged for stain in CHANNELS),
        wells=wells[there].reset_index(drop=True),
        sites=tuple(Site(well, number, files) for (well, number), files in sorted(sites.items())),
        read=partial(read_gallery_site, root=place.root),
        illumination=illumination and illumination[0],
        profiles=profiles,
        version=repr((illumination and illumination[1], published and published[1])),
    )
    return _with_objects(select_sites(plate, wanted), place.root)


def read_gallery_site(site: Site, root: str) -> NDArray[np.uint16]:
    """Fetch and decode a site's images; stains that were not imaged become zero planes.

    Returns
    -------
    uint16 array (C, H, W)

    Raises
    ------
    InputError
        Naming the file: not there, not to be had, unreadable, or of another size than the others.
    """
    files = [str(file) for file in site.files if file is not None]
    contents = dict(zip(files, fetch(root, files), strict=True))
    planes = [
        None if file is None else read_tiff(file, io.BytesIO(contents[str(file)]))
        for file in site.files
    ]
    return stack_planes(planes, site)


def read_published_profiles(root: str, file: str) -> pd.DataFrame:
    """Read the CellProfiler profiles of a plate: Metadata_Well and the features as published.

    Raises
    ------
    InputError
        When the table is unreadable, or a well occurs twice.
    """
    table = read_remote_table(root, file, ["Metadata_Well"])
    columns = map(str, table)
    names = [c for c in columns if c.startswith(("Cells_", "Cytoplasm_", "Nuclei_"))]
    features = table[names].apply(pd.to_numeric, errors="coerce").astype(np.float64)
    if table["Metadata_Well"].duplicated().any():
        raise InputError(f"{file}: a well is listed twice")
    return pd.concat([table[["Metadata_Well"]], features], axis=1)


def _read_load_data(place: Batch, barcode: str) -> tuple[str, pd.DataFrame]:
    folder = place.workspace("load_data_csv", place.batch, barcode)
    names = [f"load_data{kind}.{end}" for kind in ("", "_with_illum") for end in TABLE_ENDINGS]
    path = first_existing(place.root, [f"{folder}/{name}" for name in names])
    if path is None:
        raise InputError(f"{folder}: no load_data.csv, .csv.gz or .parquet of plate {barcode}")
    return path, read_remote_table(place.root, path, ["Metadata_Well", "Metadata_Site"])


def _paths(place: Batch, table: pd.DataFrame, stain: str) -> list[str] | None:
    """Return the files of a stain in row order, "" where there is none; None without the stain.

    The tables were written on the machine that ran CellProfiler, or before the Gallery moved: only
    what follows the batch's name in a path holds everywhere.
    """
    if f"URL_Orig{stain}" in table:
        paths = table[f"URL_Orig{stain}"]
    elif f"FileName_Orig{stain}" in table and f"PathName_Orig{stain}" in table:
        folder = table[f"PathName_Orig{stain}"].str.rstrip("/")
        paths = (folder + "/" + table[f"FileName_Orig{stain}"]).mask(
            table[f"FileName_Orig{stain}"] == "", ""
        )
    else:
        return None
    return [path and place.images(path.rpartition(f"/{place.batch}/")[2]) for path in paths]


def _with_objects(plate: Plate, root: str) -> Plate:
    """Add the size and version of each file, from a listing of the plate's folders."""
    folders = {str(f).rpartition("/")[0] for site in plate.sites for f in site.files if f}
    there: dict[str, tuple[int, str]] = {}
    for folder in sorted(folders):
        there |= {f"{folder}/{name}": found for name, found in list_files(root, folder).items()}
    gone = (0, "not there")
    return replace(
        plate,
        sites=tuple(
            replace(site, objects=tuple(there.get(str(f), gone) for f in site.files if f))
            for site in plate.sites
        ),
    )


def _find_illumination(
    place: Batch, barcode: str, stains: tuple[str, ...]
) -> tuple[Callable[[], NDArray[np.float32]], str] | None:
    """Return the published functions and their version; None where a stain has none."""
    folder = place.images("illum", barcode)
    there = list_files(place.root, folder)
    names = [f"{barcode}_Illum{stain}.npy" if stain in stains else None for stain in CHANNELS]
    if any(name is not None and name not in there for name in names):
        return None
    files = tuple(name and f"{folder}/{name}" for name in names)
    return PublishedIllumination(place.root, files), repr([there[n] for n in names if n])


def _find_profiles(place: Batch, barcode: str) -> tuple[str, str] | None:
    """Return the published well profiles and their version, or None."""
    folders = (
        place.workspace("backend", place.batch, barcode),
        place.workspace("profiles", place.batch, barcode),
    )
    for folder in folders:
        there = list_files(place.root, folder)
        for name in (f"{barcode}.{end}" for end in TABLE_ENDINGS):
            if name in there:
                return f"{folder}/{name}", repr(there[name])
    return None


@lru_cache(maxsize=2)
def _read_functions(published: PublishedIllumination) -> NDArray[np.float32]:
    files = [file for file in published.files if file is not None]
    contents = [io.BytesIO(content) for content in fetch(published.root, files)]
    return decode_functions(published.files, contents)
