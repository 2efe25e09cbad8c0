"""CPJUMP1 (cpg0000): the JUMP pilot's compounds, guides and ORFs of the same genes, 51 plates.

Chandrasekaran et al. 2024, doi 10.1038/s41592-024-02241-6.
"""

import io
import re
import tempfile
from pathlib import Path

import pandas as pd

from data.errors import InputError
from data.gallery import Batch, read_gallery_plate
from data.plates import read_wells
from data.raw import Plate
from data.remote import copy_file, first_existing, read_remote_table
from data.selection import Selection, choose_plates

PROJECT, SOURCE, BATCH = "cpg0000-jump-pilot", "source_4", "2020_11_04_CPJUMP1"

PLATEMAP_NAME = re.compile(r"(JUMP-Target-\d)_(compound|crispr|orf)_platemap$")

_CONDITIONS = """cell,hours,variant,plates
A549,24,,BR00116991 BR00116992 BR00116993 BR00116994
A549,48,,BR00117015 BR00117016 BR00117017 BR00117019
U2OS,24,,BR00116995 BR00117024 BR00117025 BR00117026
U2OS,48,,BR00117010 BR00117011 BR00117012 BR00117013
A549,96,,BR00118041 BR00118042 BR00118043 BR00118044
A549,144,,BR00117000 BR00117003 BR00117004 BR00117005
U2OS,96,,BR00118045 BR00118046 BR00118047 BR00118048
U2OS,144,,BR00116996 BR00116997 BR00116998 BR00116999
A549,48,,BR00117020 BR00117021
A549,96,,BR00117006 BR00118050
U2OS,48,,BR00117022 BR00117023
U2OS,96,,BR00118039 BR00118040
A549,48,80 % seeded,BR00117008 BR00117009
A549,48,120 % seeded,BR00117054 BR00117055
A549,48,Cas9,BR00117050 BR00117051 BR00117052 BR00117053
A549,144,Puromycin,BR00117001 BR00117002
A549,96,Blasticidin,BR00118049
"""
"""The experiment as its README lists it: compounds, guides, ORFs, then the plates that differ in
how cells were grown, which the benchmark leaves out. The Gallery does not hold this table."""


def conditions() -> pd.DataFrame:
    """Return cell, hours and variant ("" for the benchmark's 40 plates), indexed by barcode."""
    table = pd.read_csv(io.StringIO(_CONDITIONS), keep_default_na=False, dtype=str)
    table["barcode"] = table.pop("plates").str.split(" ")
    return table.explode("barcode").set_index("barcode")


def read_cpjump1(root: str, wanted: Selection) -> list[Plate]:
    """Read plates of CPJUMP1 from the Gallery; all means the benchmark's 40.

    Parameters
    ----------
    root : str
        s3://cellpainting-gallery, or a folder with a copy.
    wanted : Selection
        The other eleven plates (`conditions`) have to be named.

    Returns
    -------
    list of Plate
        With reagents and targets from the JUMP-Target tables, published illumination functions and
        profiles. Metadata_variant says how the cells of a plate were grown differently.

    Raises
    ------
    InputError
        When a plate does not exist, or naming the file at fault.
    """
    place = Batch(root, PROJECT, SOURCE, BATCH)
    known = conditions()
    benchmark = known.index[known["variant"] == ""]
    barcodes = choose_plates(list(known.index), wanted.plates or tuple(benchmark))
    listing = place.workspace("metadata", "platemaps", BATCH, "barcode_platemap.csv")
    table = read_remote_table(root, listing, ["Assay_Plate_Barcode", "Plate_Map_Name"])
    platemaps = table.set_index("Assay_Plate_Barcode")["Plate_Map_Name"]
    plates = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for barcode in barcodes:
            if barcode not in platemaps:
                raise InputError(f"{listing}: plate {barcode} is not listed")
            modality = _copy_tables(place, platemaps[barcode], folder)
            if wanted.modality not in ("", modality):
                continue
            experiment = {
                "Plate_Map_Name": platemaps[barcode],
                "Assay_Plate_Barcode": barcode,
                "Perturbation": modality,
                "Cell_type": known["cell"][barcode],
                "Time": known["hours"][barcode],
            }
            wells = read_wells(folder, experiment, listing)
            wells["Metadata_variant"] = known["variant"][barcode]
            plates.append(read_gallery_plate(place, barcode, wells, wanted))
    if not plates:
        raise InputError(f"--modality {wanted.modality}: none of the plates asked for has it")
    return plates


def _copy_tables(place: Batch, platemap: str, folder: Path) -> str:
    """Fetch a platemap and its reagents into the layout of a local folder; return the modality."""
    match = PLATEMAP_NAME.match(platemap)
    if not match:
        raise InputError(f"platemap {platemap!r}: expected a name like JUMP-Target-1_orf_platemap")
    library, modality = match.groups()
    target = folder / "platemaps" / f"{platemap}.tsv"
    if not target.is_file():
        source = ("metadata", "platemaps", place.batch, "platemap", f"{platemap}.txt")
        copy_file(place.root, place.workspace(*source), target)
    target = folder / "metadata" / f"{modality}_metadata.tsv"
    if not target.is_file():
        # The first table of compounds has one target each, the second all of them.
        names = [f"{library}_{modality}_metadata{kind}.tsv" for kind in ("_targets", "")]
        found = first_existing(
            place.root, [place.workspace("metadata", "external_metadata", n) for n in names]
        )
        if found is None:
            where = place.workspace("metadata", "external_metadata")
            raise InputError(f"{where}: no {names[-1]} with the reagents of {platemap}")
        copy_file(place.root, found, target)
    return modality
