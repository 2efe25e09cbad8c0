"""BBBC021: MCF-7 cells, compounds with annotated mechanisms; three stains, no control wells here.

The folder holds `labels.csv` (file, compound, concentration, moa, plate, well, replicate) and
`png/` with 8-bit RGB images: red F-actin, green beta-tubulin, blue DNA (Caie 2010, Ljosa 2012).
"""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from data.errors import InputError
from data.image_names import WELL_NAME
from data.plates import METADATA_COLUMNS, read_table
from data.raw import Plate, Site

CHANNELS = ("DNA", "Tubulin", "Actin")
"""The planes of a site, in the order of `data.channels.STAINS`."""

HOURS = 24
"""Time under compound."""


def read_bbbc021(folder: str | Path) -> list[Plate]:
    """Read the labels into plates; pixels are read later.

    Wells have the columns of every plate (no target, no control) and Metadata_moa,
    Metadata_concentration (float, micromolar), Metadata_replicate (int) and Metadata_week
    ("Week4", the plate's prefix).

    Raises
    ------
    InputError
        Naming file and row: a missing table, column or image, a bad number, a file listed twice,
        or a well with two labels.
    """
    folder = Path(folder)
    path = folder / "labels.csv"
    labels = read_table(
        path, ["file", "compound", "concentration", "moa", "plate", "well", "replicate"]
    )
    for column in ("concentration", "replicate"):
        numbers = pd.to_numeric(labels[column], errors="coerce")
        bad = np.flatnonzero(numbers.isna())
        if len(bad):
            found = labels[column][bad[0]]
            raise InputError(f"{path} row {bad[0] + 2}: {column} is {found!r}, expected a number")
        labels[column] = numbers
    twice = np.flatnonzero(labels["file"].duplicated())
    if len(twice):
        raise InputError(f"{path} row {twice[0] + 2}: {labels['file'][twice[0]]} is listed twice")
    for row, (file, well) in enumerate(zip(labels["file"], labels["well"], strict=True), start=2):
        if not WELL_NAME.match(well):
            raise InputError(f"{path} row {row}: well is {well!r}, expected A01 to P24")
        if not (folder / "png" / file).is_file():
            raise InputError(f"{path} row {row}: image {folder / 'png' / file} is missing")
    return [
        _read_plate(folder, path, str(barcode), rows) for barcode, rows in labels.groupby("plate")
    ]


def read_site(site: Site) -> NDArray[np.uint8]:
    """Read a site's RGB image as a (3, H, W) uint8 array in the order of `CHANNELS`."""
    (path,) = site.files
    assert path is not None
    try:
        image = np.asarray(Image.open(path))
    except (UnidentifiedImageError, OSError) as error:
        raise InputError(f"{path}: not a readable image ({error})") from None
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        found = f"{image.dtype} of shape {image.shape}"
        raise InputError(f"{path}: expected 8-bit RGB (H, W, 3), found {found}")
    return image[..., ::-1].transpose(2, 0, 1)


def _read_plate(folder: Path, path: Path, barcode: str, rows: pd.DataFrame) -> Plate:
    label = ["compound", "concentration", "moa", "replicate"]
    wells = rows[["well", *label]].drop_duplicates()
    twice = wells.index[wells["well"].duplicated()]
    if len(twice):
        raise InputError(
            f"{path} row {twice[0] + 2}: well {wells['well'][twice[0]]} of plate {barcode} has "
            "another label before"
        )
    table = pd.DataFrame(
        {
            "Metadata_Plate": barcode,
            "Metadata_Well": wells["well"],
            "Metadata_broad_sample": wells["compound"],
            "Metadata_pert_type": "trt",
            "Metadata_control_type": "",
            "Metadata_modality": "compound",
            "Metadata_pert_iname": wells["compound"],
            "Metadata_target_list": "",
            "Metadata_gene": "",
            "Metadata_smiles": "",
            "Metadata_Cell_type": "MCF-7",
            "Metadata_Time": HOURS,
            "Metadata_simulated": False,
        },
        columns=list(METADATA_COLUMNS),
    ).assign(
        Metadata_moa=wells["moa"],
        Metadata_concentration=wells["concentration"].astype(float),
        Metadata_replicate=wells["replicate"].astype(int),
        Metadata_week=barcode.split("_")[0],
    )
    sites = [
        Site(str(well), number, (folder / "png" / file,))
        for well, files in rows.groupby("well")["file"]
        for number, file in enumerate(files, start=1)
    ]
    return Plate(
        barcode=barcode,
        channels=CHANNELS,
        channels_present=(True, True, True),
        wells=table.sort_values("Metadata_Well", ignore_index=True),
        sites=tuple(sites),
        read=read_site,
    )
