"""Reactome's pathways and Gene Ontology's processes: for each gene the most specific one."""

import re
from pathlib import Path

import pandas as pd

from captions.knowledge.tables import (
    GENE_COLUMNS,
    Records,
    Source,
    file_version,
    fill,
    read_text,
)
from data.errors import InputError

REACTOME = "ReactomePathways.gmt"
GENE_ONTOLOGY = "GO_Biological_Process_*.gmt"

MIN_PATHWAY_GENES = 15
"""Smaller Reactome sets are single reactions and mutations rather than pathways."""


def read_reactome(path: Path) -> Records:
    """Read Reactome's GMT file (set name, identifier, genes)."""
    source = Source("Reactome", file_version(path), "CC0 1.0", "https://reactome.org")
    return Records(source, read_gene_sets(path))


def read_gene_ontology(path: Path) -> Records:
    """Read biological processes as GMT, "name (GO:0006103)"; the year stands in the file's name."""
    year = re.search(r"\d{4}", path.stem)
    version = year[0] if year else file_version(path)
    source = Source("Gene Ontology", version, "CC BY 4.0", "https://geneontology.org")
    rows = read_gene_sets(path)
    rows["pathway"] = rows["pathway"].str.replace(r"\s*\(GO:\d+\)$", "", regex=True)
    return Records(source, rows)


def read_gene_sets(path: Path) -> pd.DataFrame:
    """For each gene the name of the smallest set that is large enough.

    Raises
    ------
    InputError
        Naming the line that is no gene set.
    """
    smallest: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        name, _, *genes = [*line.split("\t"), ""]
        genes = [gene for gene in genes if gene]
        if not genes:
            raise InputError(
                f"{path}: line {number} is no gene set: expected name, identifier and genes"
                " separated by tabs"
            )
        if len(genes) >= MIN_PATHWAY_GENES:
            for gene in genes:
                smallest[gene] = min(smallest.get(gene, (len(genes), name)), (len(genes), name))
    rows = [{"symbol": gene, "pathway": name} for gene, (_, name) in smallest.items()]
    return fill(pd.DataFrame(rows), GENE_COLUMNS)
