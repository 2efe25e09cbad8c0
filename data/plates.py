"""Local TIFF plates in JUMP's layout: platemap, metadata tables and image names into wells."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from data.channels import CHANNELS, STAINS, stain_index
from data.errors import InputError

IMAGE_NAME = re.compile(r"r(\d+)c(\d+)f(\d+)p\d+-(ch\d+)sk\d+fk\d+fl\d+\.tiff?$")
"""The Phenix microscope's file names: row, column, field of view and channel."""

WELL_NAME = re.compile(r"[A-P](0[1-9]|1\d|2[0-4])$")

METADATA_COLUMNS = (
    "Metadata_Plate",
    "Metadata_Well",
    "Metadata_broad_sample",
    "Metadata_pert_type",
    "Metadata_control_type",
    "Metadata_modality",
    "Metadata_pert_iname",
    "Metadata_target_list",
    "Metadata_gene",
    "Metadata_smiles",
    "Metadata_Cell_type",
    "Metadata_Time",
    "Metadata_simulated",
)
"""Every plate's wells have these columns; Metadata_Time is int hours, Metadata_simulated bool."""


@dataclass(frozen=True)
class Site:
    """One field of view.

    Attributes
    ----------
    well : str
    number : int
    files : tuple of Path, str or None
        Where its channel images lie: a local path, a key of an object store, None where a stain was
        not imaged.
    objects : tuple of (int, str)
        Size in bytes and version of each file, where the source already knows them (object stores);
        otherwise the file system is asked.
    """

    well: str
    number: int
    files: tuple[Path | str | None, ...]
    objects: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class Plate:
    """One plate before preparation.

    Attributes
    ----------
    barcode : str
    channels : tuple of str
        The stain of each plane in the store.
    channels_present : tuple of bool
        Which of them were imaged; the others are zero planes.
    wells : DataFrame
        `METADATA_COLUMNS`, one row a well.
    sites : tuple of Site
        Sorted by well and number; every well has at least one.
    read : callable
        Site to (C, H, W) integer pixels; picklable, so that it can run in another process.
    illumination : callable or None
        Returns the published illumination functions as float32 (C, H, W); picklable and hashable.
        None: they are estimated from the plate.
    profiles : callable or None
        Returns published profiles: Metadata_Well and features, one row a well; None without any.
    version : str
        Changes when published illumination functions or profiles do.
    """

    barcode: str
    channels: tuple[str, ...]
    channels_present: tuple[bool, ...]
    wells: pd.DataFrame
    sites: tuple[Site, ...]
    read: Callable[[Site], NDArray]
    illumination: Callable[[], NDArray[np.float32]] | None = None
    profiles: Callable[[], pd.DataFrame] | None = None
    version: str = ""


def read_plates(folder: str | Path) -> list[Plate]:
    """Find the plates of a raw folder and check everything that needs no pixels.

    Parameters
    ----------
    folder : path
        Holds experiment-metadata.tsv, channels.tsv, platemaps/, metadata/ and images/<barcode>/.

    Returns
    -------
    list of Plate
        In the order of experiment-metadata.tsv. Wells of gene plates without a reagent (empty
        wells) are left out, and so are images of channels that channels.tsv does not name.

    Raises
    ------
    InputError
        Naming file and row: a missing or malformed table, an unknown stain, a well twice in the
        platemap or without images, an empty platemap, an unknown reagent, a missing channel image,
        a plate without negative controls.
    """
    folder = Path(folder)
    stains = _read_channels(folder / "channels.tsv")
    # Cell Painting's five planes always have the same place, imaged or not.
    others = [stain for stain in STAINS if stain in stains.values() and stain not in CHANNELS]
    channels = (*CHANNELS, *others)
    path = folder / "experiment-metadata.tsv"
    table = read_table(
        path, ["Plate_Map_Name", "Assay_Plate_Barcode", "Perturbation", "Cell_type", "Time"]
    )
    twice = table["Assay_Plate_Barcode"].duplicated()
    if twice.any():
        row = int(np.flatnonzero(twice)[0])
        raise InputError(
            f"{path} row {row + 2}: plate {table['Assay_Plate_Barcode'][row]} is listed twice"
        )
    plates = []
    for row, record in enumerate(table.to_dict("records"), start=2):
        experiment = {str(column): str(value) for column, value in record.items()}
        barcode = experiment["Assay_Plate_Barcode"]
        wells = read_wells(folder, experiment, f"{path} row {row}")
        sites = _find_sites(folder / "images" / barcode, barcode, channels, stains)
        imaged = {site.well for site in sites}
        platemap = folder / "platemaps" / f"{experiment['Plate_Map_Name']}.tsv"
        for index, well in wells["Metadata_Well"].items():
            if well not in imaged:
                raise InputError(
                    f"{platemap} row {int(str(index)) + 2}: well {well} has no images in "
                    f"{folder / 'images' / barcode}"
                )
        if not (wells["Metadata_control_type"] == "negcon").any():
            raise InputError(
                f"{platemap}: plate {barcode} has no negative control wells (control_type negcon), "
                "which intensities and features are compared with"
            )
        known = set(wells["Metadata_Well"])
        plates.append(
            Plate(
                barcode=barcode,
                channels=channels,
                channels_present=tuple(stain in stains.values() for stain in channels),
                wells=wells.reset_index(drop=True),
                sites=tuple(site for site in sites if site.well in known),
                read=read_site,
            )
        )
    return plates


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
    return stack_planes([path and read_tiff(path) for path in site.files], site)


def stack_planes(planes: Sequence[NDArray | None], site: Site) -> NDArray[np.uint16]:
    """Stack a site's (H, W) planes to (C, H, W), None as a zero plane; all have to be of one size.

    Raises
    ------
    InputError
        Naming the file whose size differs.
    """
    imaged = [(plane, path) for plane, path in zip(planes, site.files, strict=True) if path]
    shape = imaged[0][0].shape
    for plane, path in imaged:
        if plane.shape != shape:
            raise InputError(
                f"{path}: size is {plane.shape[0]} x {plane.shape[1]} pixels, expected "
                f"{shape[0]} x {shape[1]} as in {Path(imaged[0][1]).name}"
            )
    blank = np.zeros(shape, np.uint16)
    return np.stack([blank if plane is None else plane for plane in planes])


def read_tiff(path: Path | str, content: IO[bytes] | None = None) -> NDArray[np.uint16]:
    """Read one 16-bit single-channel TIFF as a (H, W) array; errors name the file.

    `content` is what to read in place of the file, when it has been fetched already.
    """
    # Pillow and not tifffile: JUMP's files are LZW-compressed, which tifffile reads only with
    # another package.
    try:
        with Image.open(content or path) as image:
            frames = getattr(image, "n_frames", 1)
            plane = np.asarray(image)
    except FileNotFoundError:
        raise InputError(f"{path}: image file is missing") from None
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{path}: not a readable TIFF ({error})") from None
    if frames != 1:
        raise InputError(f"{path}: expected one image in the file, found {frames}")
    if plane.dtype != np.uint16 or plane.ndim != 2:
        found = f"{plane.dtype} of shape {plane.shape}"
        raise InputError(f"{path}: expected one 16-bit channel (uint16, two axes), found {found}")
    return plane.astype(np.uint16, copy=False)


def read_table(
    path: Path | str, columns: list[str], sep: str = "\t", content: IO[bytes] | None = None
) -> pd.DataFrame:
    """Read a table as strings ("" where empty or NA) and check that it has the columns.

    `content` is what to read in place of the file, when it has been fetched already.

    Raises
    ------
    InputError
        When the file is missing, unreadable, without rows, or lacks a column.
    """
    if content is None and not Path(path).is_file():
        raise InputError(f"{path}: file is missing; expected a table with {', '.join(columns)}")
    try:
        # "NA" is JUMP's empty; only whole-cell values count, so the sodium in a name is safe.
        table = pd.read_csv(
            content or path, sep=sep, dtype=str, keep_default_na=False, na_values=["NA"]
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable table ({error})") from None
    missing = [column for column in columns if column not in table]
    if missing:
        raise InputError(f"{path}: no column {missing[0]!r}; found {', '.join(table.columns)}")
    if table.empty:
        raise InputError(f"{path}: the table is empty, expected at least one row")
    return table.fillna("")


def _read_channels(path: Path) -> dict[str, str]:
    """Return file-name channel ("ch1") to stain."""
    table = read_table(path, ["channel", "stain"])
    stains: dict[str, str] = {}
    for row, (channel, stain) in enumerate(zip(table["channel"], table["stain"], strict=True), 2):
        try:
            stain_index(stain)
        except InputError as error:
            raise InputError(f"{path} row {row}: {error}") from None
        if channel in stains or stain in stains.values():
            raise InputError(f"{path} row {row}: {channel} or {stain} is listed twice")
        stains[channel] = stain
    return stains


def read_wells(folder: Path, experiment: dict[str, str], where: str) -> pd.DataFrame:
    """Join platemap, reagent metadata and the experiment's row into a plate's wells.

    Parameters
    ----------
    folder : path
        Holds platemaps/<Plate_Map_Name>.tsv and metadata/<modality>_metadata.tsv.
    experiment : dict
        Plate_Map_Name, Assay_Plate_Barcode, Perturbation (the modality), Cell_type and Time.
    where : str
        Names the experiment's row in errors.

    Returns
    -------
    DataFrame
        `METADATA_COLUMNS`; the index is the row of the platemap, whose empty wells are left out.

    Raises
    ------
    InputError
        Naming file and row.
    """
    modality = experiment["Perturbation"]
    if modality not in ("compound", "crispr", "orf"):
        raise InputError(f"{where}: Perturbation is {modality!r}, expected compound, crispr or orf")
    if not experiment["Time"].isdigit():
        raise InputError(f"{where}: Time is {experiment['Time']!r}, expected whole hours")
    path = folder / "platemaps" / f"{experiment['Plate_Map_Name']}.tsv"
    platemap = read_table(path, ["well_position", "broad_sample"])
    seen: dict[str, int] = {}
    for row, well in enumerate(platemap["well_position"], start=2):
        if not WELL_NAME.match(well):
            raise InputError(f"{path} row {row}: well_position is {well!r}, expected A01 to P24")
        if well in seen:
            raise InputError(f"{path} row {row}: well {well} is already in row {seen[well]}")
        seen[well] = row
    if modality == "compound":  # JUMP leaves broad_sample of DMSO wells empty
        platemap["broad_sample"] = platemap["broad_sample"].replace("", "DMSO")
    else:
        platemap = platemap[platemap["broad_sample"] != ""]
    if platemap.empty:
        raise InputError(f"{path}: every well is without a reagent")
    reagents = _read_reagents(folder / "metadata" / f"{modality}_metadata.tsv", modality)
    unknown = ~platemap["broad_sample"].isin(reagents.index)
    if unknown.any():
        row = platemap.index[unknown][0]
        raise InputError(
            f"{path} row {row + 2}: reagent {platemap['broad_sample'][row]} is not in "
            f"{folder / 'metadata' / f'{modality}_metadata.tsv'}"
        )
    wells = reagents.loc[platemap["broad_sample"]].reset_index().set_index(platemap.index)
    wells.insert(0, "Metadata_Well", platemap["well_position"])
    wells.insert(0, "Metadata_Plate", experiment["Assay_Plate_Barcode"])
    wells["Metadata_Cell_type"] = experiment["Cell_type"]
    wells["Metadata_Time"] = int(experiment["Time"])
    wells["Metadata_simulated"] = experiment.get("Simulated", "") == "simulated"
    extra = [column for column in wells if column not in METADATA_COLUMNS]
    return wells[[*METADATA_COLUMNS, *extra]]


def _read_reagents(path: Path, modality: str) -> pd.DataFrame:
    """Return one row a reagent with Metadata_ columns, indexed by Metadata_broad_sample."""
    named = "pert_iname" if modality == "compound" else "gene"
    table = read_table(path, ["broad_sample", named, "pert_type", "control_type"])
    if modality == "compound":  # and does not name DMSO in the metadata either
        table.loc[
            (table["broad_sample"] == "") & (table["pert_iname"] == "DMSO"), "broad_sample"
        ] = "DMSO"
    twice = table["broad_sample"].duplicated()
    if twice.any():
        row = table.index[twice][0]
        raise InputError(f"{path} row {row + 2}: {table['broad_sample'][row]} is listed twice")
    negative = table["control_type"] == "negcon"
    empty = pd.Series("", index=table.index)
    # The pilot's first table of compounds names one gene each; the later ones have all targets.
    listed = "target_list" if modality == "compound" and "target_list" in table else "gene"
    targets = table.get(listed, empty)
    reagents = pd.DataFrame(
        {
            "Metadata_broad_sample": table["broad_sample"],
            "Metadata_pert_type": table["pert_type"],
            # poscon_cp, poscon_diverse and poscon_orf are all positive controls
            "Metadata_control_type": table["control_type"].str.replace(
                "^poscon.*", "poscon", regex=True
            ),
            "Metadata_modality": np.where(negative, "control", modality),
            "Metadata_pert_iname": table[named],
            # A negative control is a reference, not a reagent for its gene.
            "Metadata_target_list": targets.mask(negative, ""),
            "Metadata_gene": empty if modality == "compound" else table["gene"],
            "Metadata_smiles": table.get("smiles", empty),
        }
    )
    if "simulated_active" in table:  # the simulator's truth, for judging abstention
        reagents["Metadata_simulated_active"] = table["simulated_active"].str.lower() == "true"
    return reagents.set_index("Metadata_broad_sample")


def _find_sites(
    folder: Path, barcode: str, channels: tuple[str, ...], stains: dict[str, str]
) -> list[Site]:
    """Group the image files of a plate by well and field; every site needs every channel."""
    if not folder.is_dir():
        raise InputError(f"{folder}: image folder of plate {barcode} is missing")
    found: dict[tuple[str, int], dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        match = IMAGE_NAME.match(path.name)
        if match and match[4] in stains:
            well = f"{chr(ord('A') + int(match[1]) - 1)}{int(match[2]):02d}"
            found.setdefault((well, int(match[3])), {})[stains[match[4]]] = path
    if not found:
        raise InputError(f"{folder}: no images named like r01c01f01p01-ch1sk1fk1fl1.tiff")
    sites = []
    for (well, number), files in sorted(found.items()):
        for channel, stain in stains.items():
            if stain not in files:
                some = next(iter(files.values()))
                name = re.sub(r"-ch\d+", f"-{channel}", some.name)
                raise InputError(
                    f"{folder / name}: image file is missing (well {well}, site {number}, {stain})"
                )
        sites.append(Site(well, number, tuple(files.get(stain) for stain in channels)))
    return sites
