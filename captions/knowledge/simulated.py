"""The packaged table: one sentence on each gene and compound of the simulator."""

from pathlib import Path

from captions.knowledge.tables import COMPOUND_COLUMNS, GENE_COLUMNS, Records, Source, fill
from captions.knowledge.tables import read_rows as read

PACKAGED = Path(__file__).parent / "simulated.tsv"


def read_simulated() -> tuple[Records, Records]:
    """Return the packaged genes and compounds."""
    table = read(PACKAGED, ["kind", "name", "text", "pathway"])
    source = Source("packaged sentences", "1", "Apache-2.0", "captions/knowledge/simulated.tsv")
    is_gene = table["kind"] == "gene"
    genes = table[is_gene].rename(columns={"name": "symbol", "text": "function"})
    compounds = table[~is_gene].rename(columns={"text": "mechanism"})
    return Records(source, fill(genes, GENE_COLUMNS)), Records(
        source, fill(compounds, COMPOUND_COLUMNS)
    )
