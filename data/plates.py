"""Local plates in JUMP's layout: platemap, metadata tables and images into wells."""

from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd

from data.channels import stain_index
from data.errors import InputError
from data.illumination import find_illumination
from data.image_names import WELL_NAME
from data.raw import Plate, Site
from data.tiff_images import read_tiff_plate
from data.zarr_images import read_zarr_plate

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


def read_plates(folder: str | Path, pattern: str | None = None) -> list[Plate]:
    """Find the plates of a raw folder and check everything that needs no pixels.

    Parameters
    ----------
    folder : path
        Holds experiment-metadata.tsv, channels.tsv (may be left out where channels are called by
        their stain), platemaps/, metadata/ and images/<barcode>/ or images/<barcode>.ome.zarr. A
        table may also be a .csv. A column Images of experiment-metadata.tsv gives another place.
        Where they exist, illum/<barcode>/*_Illum{stain}.npy are used in place of an estimate, and
        nuclei/<barcode>/<well>-<site>/Nuclei.csv (or <well>-<site>-Nuclei.csv) in place of a
        segmentation.
    pattern : str, optional
        What TIFF files are called (see `data.image_names.read_names`).

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
        two images for one plane, a plate without negative controls.
    """
    folder = Path(folder)
    stains = _read_channels(_table_path(folder, "channels"))
    path = _table_path(folder, "experiment-metadata")
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
        images = _find_images(folder, experiment)
        if _is_zarr(images):
            plate = read_zarr_plate(images, barcode, stains)
        else:
            plate = read_tiff_plate(Path(images), barcode, stains, pattern)
        platemap = _table_path(folder / "platemaps", experiment["Plate_Map_Name"])
        _check_wells(wells, plate, platemap, images)
        plate = replace(plate, wells=wells.reset_index(drop=True))
        plates.append(_add_published(plate, folder))
    return plates


def read_table(
    path: Path | str,
    columns: list[str],
    sep: str | None = None,
    content: IO[bytes] | None = None,
) -> pd.DataFrame:
    """Read a table as strings ("" where empty or NA) and check that it has the columns.

    Columns are divided by commas in a .csv file and by tabs in any other, unless `sep` says so.
    `content` is what to read in place of the file, when it has been fetched already.

    Raises
    ------
    InputError
        When the file is missing, unreadable, without rows, or lacks a column.
    """
    if content is None and not Path(path).is_file():
        raise InputError(f"{path}: file is missing; expected a table with {', '.join(columns)}")
    sep = sep or ("," if Path(path).suffix == ".csv" else "\t")
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


def _check_wells(wells: pd.DataFrame, plate: Plate, platemap: Path, images: str) -> None:
    """Refuse a plate with a well without images, or without controls."""
    imaged = {site.well for site in plate.sites}
    for index, well in wells["Metadata_Well"].items():
        if well not in imaged:
            raise InputError(
                f"{platemap} row {int(str(index)) + 2}: well {well} has no images in {images}"
            )
    if not (wells["Metadata_control_type"] == "negcon").any():
        raise InputError(
            f"{platemap}: plate {plate.barcode} has no negative control wells (control_type "
            "negcon), which intensities and features are compared with"
        )


def _add_published(plate: Plate, folder: Path) -> Plate:
    """Keep the sites of known wells; add illumination functions and nuclei where there are any."""
    known = set(plate.wells["Metadata_Well"])
    nuclei = folder / "nuclei" / plate.barcode
    stains = [
        stain if imaged else None
        for stain, imaged in zip(plate.channels, plate.channels_present, strict=True)
    ]
    light = find_illumination(folder / "illum" / plate.barcode, stains)
    return replace(
        plate,
        sites=tuple(
            replace(site, nuclei=_find_nuclei(nuclei, site))
            for site in plate.sites
            if site.well in known
        ),
        illumination=light,
        version=light.version if light else "",
    )


def _find_images(folder: Path, experiment: dict[str, str]) -> str:
    """Return where a plate's images lie: a folder, an OME-Zarr or the address of one."""
    if given := experiment.get("Images", ""):
        return given if "://" in given else str(folder / given)
    images, barcode = folder / "images", experiment["Assay_Plate_Barcode"]
    usual = [images / barcode, images / f"{barcode}.ome.zarr", images / f"{barcode}.zarr"]
    # Harmony puts the time of measurement behind the barcode.
    measured = sorted(images.glob(f"{barcode}__*"))
    return str(next((path for path in [*usual, *measured] if path.exists()), usual[0]))


def _find_nuclei(folder: Path, site: Site) -> Path | None:
    """Return CellProfiler's table of a site's nuclei, under the names that it and others give."""
    name = f"{site.well}-{site.number}"
    usual = [folder / name / "Nuclei.csv", folder / f"{name}-Nuclei.csv"]
    return next((path for path in usual if path.is_file()), None)


def _is_zarr(images: str) -> bool:
    inside = (Path(images) / name for name in ("zarr.json", ".zgroup"))
    return "://" in images or images.endswith(".zarr") or any(path.is_file() for path in inside)


def _read_channels(path: Path) -> dict[str, str] | None:
    """Return channel ("ch1", "HOECHST 33342") to stain; None where there is no such table."""
    if not path.exists():
        return None
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
    path = _table_path(folder / "platemaps", experiment["Plate_Map_Name"])
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
    metadata = _table_path(folder / "metadata", f"{modality}_metadata")
    reagents = _read_reagents(metadata, modality)
    unknown = ~platemap["broad_sample"].isin(reagents.index)
    if unknown.any():
        row = platemap.index[unknown][0]
        raise InputError(
            f"{path} row {row + 2}: reagent {platemap['broad_sample'][row]} is not in {metadata}"
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
    if "InChIKey" in table:  # the surest way to find a compound in other tables
        reagents["Metadata_InChIKey"] = table["InChIKey"]
    if "simulated_active" in table:  # the simulator's truth, for judging abstention
        reagents["Metadata_simulated_active"] = table["simulated_active"].str.lower() == "true"
    return reagents.set_index("Metadata_broad_sample")


def _table_path(folder: Path, name: str) -> Path:
    """Return where a table lies: NAME.tsv, or NAME.txt or NAME.csv where only that exists."""
    paths = [folder / f"{name}{ending}" for ending in (".tsv", ".txt", ".csv")]
    return next((path for path in paths if path.is_file()), paths[0])
