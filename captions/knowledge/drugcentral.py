"""DrugCentral: which protein a drug acts on, and how; names of proteins by UniProt accession."""

from pathlib import Path

import pandas as pd

from captions.knowledge.tables import (
    COMPOUND_COLUMNS,
    GENE_COLUMNS,
    Records,
    Source,
    file_version,
    fill,
    join_list,
    read_rows,
)

TARGETS = "drug.target.interaction.tsv*"
STRUCTURES = "structures.smiles.tsv*"

_COLUMNS = [
    "DRUG_NAME",
    "STRUCT_ID",
    "TARGET_NAME",
    "ACCESSION",
    "GENE",
    "MOA",
    "ACTION_TYPE",
    "ORGANISM",
]


def read_drugcentral(targets: Path, structures: Path | None = None) -> tuple[Records, Records]:
    """Read the table of interactions (its mechanism rows), and that of structures for InChIKeys.

    Returns
    -------
    compounds, genes : Records
        Without the table of structures the compounds have names only.
    """
    source = Source(
        "DrugCentral", file_version(targets), "CC BY-SA 4.0", "https://drugcentral.org/download"
    )
    table = read_rows(targets, _COLUMNS)
    table = table[table["ORGANISM"] == "Homo sapiens"]
    acting = table[table["MOA"] == "1"]
    action = acting["ACTION_TYPE"].str.lower().replace({"": "ligand", "other": "ligand"})
    acting = acting.assign(mechanism=acting["TARGET_NAME"] + " " + action)
    by_drug = acting.groupby("STRUCT_ID").agg(
        name=("DRUG_NAME", "first"), mechanism=("mechanism", join_list), targets=("GENE", join_list)
    )
    if structures is not None:
        listed = read_rows(structures, ["ID", "InChIKey"]).drop_duplicates("ID").set_index("ID")
        by_drug["inchikey"] = listed["InChIKey"].reindex(by_drug.index)
    # A complex of several proteins is one row ("P1|P2") and names no single gene.
    single = ~table["ACCESSION"].str.contains("|", regex=False) & (table["GENE"] != "")
    genes = (
        table[single]
        .groupby("ACCESSION", as_index=False)
        .agg(symbol=("GENE", "first"), names=("TARGET_NAME", join_list))
    )
    genes = pd.DataFrame(genes).rename(columns={"ACCESSION": "uniprot"})
    return Records(source, fill(by_drug, COMPOUND_COLUMNS)), Records(
        source, fill(genes, GENE_COLUMNS)
    )
