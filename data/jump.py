"""cpg0016: JUMP's production plates, 116,000 compounds, 15,000 ORFs and 8,000 knock-outs.

Plates and wells are described by the tables of github.com/jump-cellpainting/datasets (folder
metadata/), which have to be there locally; images lie in the Gallery (Chandrasekaran et al. 2023,
doi 10.1101/2023.03.23.534023).
"""

from functools import partial
from pathlib import Path

import pandas as pd

from data.errors import InputError
from data.gallery import Batch, read_gallery_plate
from data.plates import METADATA_COLUMNS, read_table
from data.raw import Plate
from data.selection import Selection, choose_plates

PROJECT = "cpg0016-jump"

CELL = "U2OS"
"""All of cpg0016 is in U2OS cells."""

EMPTY = "empty"
"""The pert_type of wells without a reagent, which are left out."""


def read_jump(root: str, metadata: str, wanted: Selection) -> list[Plate]:
    """Read plates of cpg0016 from the Gallery.

    Parameters
    ----------
    root : str
        s3://cellpainting-gallery, or a folder with a copy.
    metadata : str
        The folder with plate, well, compound, orf and crispr.csv.gz and perturbation_control.csv.
    wanted : Selection
        Its plates are needed: there are more than 2,000.

    Returns
    -------
    list of Plate
        Metadata_broad_sample is JUMP's perturbation (JCP2022_...). Compounds have no targets there;
        Metadata_Time is 0, not known to the tables.

    Raises
    ------
    InputError
        When a table or a plate is missing, or naming the file at fault.
    """
    if not wanted.plates:
        raise InputError("--plates: name the plates of cpg0016 (there are more than 2,000)")
    if not metadata or not Path(metadata).is_dir():
        raise InputError(
            f"--metadata {metadata}: no such folder; expected metadata/ of "
            "github.com/jump-cellpainting/datasets"
        )
    table = partial(_read_table, Path(metadata))
    plates = table("plate", ["Metadata_Source", "Metadata_Batch", "Metadata_Plate"])
    plates = plates[plates["Metadata_Plate"].isin(wanted.plates)]
    choose_plates(list(plates["Metadata_Plate"]), wanted.plates)
    wells = table("well", ["Metadata_Plate", "Metadata_Well", "Metadata_JCP2022"])
    wells = wells[wells["Metadata_Plate"].isin(wanted.plates)]
    reagents = _read_reagents(Path(metadata))
    found = []
    for record in plates.to_dict("records"):
        barcode = str(record["Metadata_Plate"])
        described = _describe(wells[wells["Metadata_Plate"] == barcode], reagents)
        modalities = set(described["Metadata_modality"]) - {"control"}
        if wanted.modality and wanted.modality not in modalities:
            continue
        place = Batch(root, PROJECT, record["Metadata_Source"], record["Metadata_Batch"])
        found.append(read_gallery_plate(place, barcode, described, wanted))
    if not found:
        raise InputError(f"--modality {wanted.modality}: none of the plates asked for has it")
    return found


def _read_reagents(folder: Path) -> pd.DataFrame:
    """Return one row a perturbation: its name, modality, gene and whether it is a control."""
    compounds = _read_table(folder, "compound", ["Metadata_JCP2022", "Metadata_InChIKey"])
    parts = [
        pd.DataFrame(
            {
                "Metadata_broad_sample": compounds["Metadata_JCP2022"],
                "Metadata_modality": "compound",
                "Metadata_pert_iname": compounds["Metadata_InChIKey"],
                "Metadata_gene": "",
                "Metadata_smiles": compounds.get("Metadata_SMILES", ""),
            }
        )
    ]
    for modality in ("orf", "crispr"):
        genes = _read_table(folder, modality, ["Metadata_JCP2022", "Metadata_Symbol"])
        parts.append(
            pd.DataFrame(
                {
                    "Metadata_broad_sample": genes["Metadata_JCP2022"],
                    "Metadata_modality": modality,
                    "Metadata_pert_iname": genes["Metadata_Symbol"],
                    "Metadata_gene": genes["Metadata_Symbol"],
                    "Metadata_smiles": "",
                }
            )
        )
    reagents = pd.concat(parts, ignore_index=True)
    controls = _read_table(
        folder, "perturbation_control", ["Metadata_JCP2022", "Metadata_pert_type", "Metadata_Name"]
    ).set_index("Metadata_JCP2022")
    kind = reagents["Metadata_broad_sample"].map(controls["Metadata_pert_type"]).fillna("")
    named = reagents["Metadata_broad_sample"].map(controls["Metadata_Name"])
    negative = kind == "negcon"
    reagents["Metadata_pert_iname"] = named.fillna(reagents["Metadata_pert_iname"])
    reagents["Metadata_control_type"] = kind
    reagents["Metadata_pert_type"] = kind.map(lambda k: "control" if k else "trt")
    # A negative control is a reference, not a reagent for its gene.
    reagents["Metadata_gene"] = reagents["Metadata_gene"].mask(negative, "")
    reagents["Metadata_target_list"] = reagents["Metadata_gene"]
    reagents["Metadata_modality"] = reagents["Metadata_modality"].mask(negative, "control")
    return reagents.set_index("Metadata_broad_sample", drop=False)


def _describe(wells: pd.DataFrame, reagents: pd.DataFrame) -> pd.DataFrame:
    """Join a plate's wells with their reagents; wells of no known reagent are left out."""
    wells = wells[wells["Metadata_JCP2022"].isin(reagents.index)]
    joined = reagents.loc[wells["Metadata_JCP2022"]].reset_index(drop=True)
    joined = joined.assign(
        Metadata_Plate=wells["Metadata_Plate"].to_numpy(),
        Metadata_Well=wells["Metadata_Well"].to_numpy(),
        Metadata_Cell_type=CELL,
        Metadata_Time=0,
        Metadata_simulated=False,
    )
    joined = joined[joined["Metadata_control_type"] != EMPTY]
    return joined[list(METADATA_COLUMNS)].sort_values("Metadata_Well", ignore_index=True)


def _read_table(folder: Path, name: str, columns: list[str]) -> pd.DataFrame:
    """Read <name>.csv.gz or <name>.csv."""
    path = folder / f"{name}.csv.gz"
    return read_table(path if path.is_file() else folder / f"{name}.csv", columns, sep=",")
