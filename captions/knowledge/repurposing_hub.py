"""The Drug Repurposing Hub: mechanisms by compound, structures and Broad numbers by sample."""

import re
from pathlib import Path

import pandas as pd

from captions.knowledge.tables import (
    COMPOUND_COLUMNS,
    Records,
    Source,
    file_version,
    fill,
    join_list,
    read_rows,
    read_text,
)

DRUGS = "repurposing_drugs_*.txt"
SAMPLES = "repurposing_samples_*.txt"

BROAD_ID_LENGTH = len("BRD-K76022557")
"""The number of the compound; what follows in a Broad number is salt, batch and vendor."""


def read_repurposing_hub(drugs: Path, samples: Path | None = None) -> Records:
    """Read the table of drugs, and that of samples with their identifiers where there is one.

    The two are joined by `pert_iname`, which is the Hub's own key. Both start with lines of "!".
    """
    table = read_rows(drugs, ["pert_iname", "moa", "target"], comment="!")
    table = table.drop_duplicates("pert_iname").rename(
        columns={"pert_iname": "name", "moa": "mechanism", "target": "targets"}
    )
    if samples is not None:
        columns = ["pert_iname", "broad_id", "InChIKey", "vendor_name"]
        listed = read_rows(samples, columns, comment="!")
        listed["broad_id"] = listed["broad_id"].str[:BROAD_ID_LENGTH]
        named = {"broad_id": "broad_id", "InChIKey": "inchikey", "vendor_name": "synonyms"}
        lists = listed.groupby("pert_iname")[list(named)].agg(join_list).rename(columns=named)
        table = table.join(lists, on="name")
    return Records(_source(drugs), fill(pd.DataFrame(table), COMPOUND_COLUMNS))


def _source(path: Path) -> Source:
    date = re.search(r"^!File_date\t(\S+)", read_text(path), flags=re.MULTILINE)
    return Source(
        "Drug Repurposing Hub",
        date[1] if date else file_version(path),
        "non-commercial use (see clue.io/repurposing)",
        "https://www.broadinstitute.org/repurposing",
    )
