"""NCBI RefSeq: a summary a gene, by Entrez number."""

from pathlib import Path

from captions.knowledge.tables import (
    GENE_COLUMNS,
    Records,
    Source,
    file_version,
    fill,
    first_sentence,
    read_rows,
)

PATTERN = "refseq_gene_summaries.tsv"


def read_refseq(path: Path) -> Records:
    """Read a table with the columns symbol, entrez_id and refseq_summary."""
    table = read_rows(path, ["symbol", "entrez_id", "refseq_summary"])
    table = table[table["refseq_summary"] != ""].drop_duplicates("symbol")
    table = table.rename(columns={"entrez_id": "entrez", "refseq_summary": "function"})
    table["function"] = table["function"].map(first_sentence)
    source = Source(
        "NCBI RefSeq", file_version(path), "public domain", "https://www.ncbi.nlm.nih.gov/refseq/"
    )
    return Records(source, fill(table, GENE_COLUMNS))
