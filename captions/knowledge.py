"""What is known about genes and compounds, read from whatever annotation files there are."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from data.errors import InputError

PACKAGED = Path(__file__).parent / "simulated_knowledge.tsv"
"""One sentence on each gene and compound of the simulator, so that it needs no other file."""

MIN_PATHWAY_GENES = 15
"""Smaller Reactome sets are single reactions and mutations rather than pathways."""


@dataclass(frozen=True)
class Knowledge:
    """Text about genes and compounds; what is not known is "".

    Attributes
    ----------
    genes : DataFrame
        Indexed by gene symbol: `function` (one sentence) and `pathway` (a name).
    compounds : DataFrame
        Indexed by name in lower case: `mechanism` (for example "mTOR inhibitor").
    """

    genes: pd.DataFrame
    compounds: pd.DataFrame


def load_knowledge(annotation: str | Path | None = None) -> Knowledge:
    """Join what the annotation files and the packaged table say into a gene and a compound table.

    Read where present: `refseq_gene_summaries.tsv` (function), `ReactomePathways.gmt` (pathway),
    `repurposing_drugs_*.txt` (mechanism; the newest by name). They win over the packaged table.

    Parameters
    ----------
    annotation : path, optional
        The folder with these files; the packaged table alone when not given.

    Returns
    -------
    Knowledge

    Raises
    ------
    InputError
        When the folder does not exist, or a file in it cannot be read or lacks a column.
    """
    packaged = _read_table(PACKAGED, ["kind", "name", "text", "pathway"])
    is_gene = packaged["kind"] == "gene"
    genes = packaged[is_gene].set_index("name").rename(columns={"text": "function"})
    compounds = packaged[~is_gene].rename(columns={"text": "mechanism"})
    compounds = compounds.set_index(compounds["name"].str.lower())
    known = Knowledge(genes[["function", "pathway"]], compounds[["mechanism"]])
    if annotation is None:
        return known

    folder = Path(annotation)
    if not folder.is_dir():
        raise InputError(f"annotation folder {folder} does not exist")
    functions = _read_if_there(folder, "refseq_gene_summaries.tsv", _read_refseq)
    pathways = _read_if_there(folder, "ReactomePathways.gmt", _read_reactome)
    mechanisms = _read_if_there(folder, "repurposing_drugs_*.txt", _read_repurposing_hub)
    found = pd.DataFrame({"function": functions, "pathway": pathways})
    return Knowledge(
        genes=found.combine_first(known.genes).fillna(""),
        compounds=mechanisms.to_frame("mechanism").combine_first(known.compounds).fillna(""),
    )


def first_sentence(text: str) -> str:
    """Return a summary's first sentence without its opening words that say nothing.

    "This gene encodes a motor protein. It ..." gives "A motor protein".
    """
    sentence = re.split(r"(?<=[\w)][\w)])\.(?:\s+(?=[A-Z])|\s*$)", text.strip(), maxsplit=1)[0]
    opening = (
        r"(?:This gene encodes|The protein encoded by this gene is|This gene is) (?=an? |the )"
    )
    sentence = re.sub(rf"^{opening}", "", sentence)
    return sentence[:1].upper() + sentence[1:]


def _read_if_there(
    folder: Path, pattern: str, read: Callable[[Path], "pd.Series[str]"]
) -> "pd.Series[str]":
    files = sorted(folder.glob(pattern))
    return read(files[-1]) if files else pd.Series(dtype=str)


def _read_refseq(path: Path) -> "pd.Series[str]":
    table = _read_table(path, ["symbol", "refseq_summary"])
    table = table[table["refseq_summary"] != ""].drop_duplicates("symbol")
    return table.set_index("symbol")["refseq_summary"].map(first_sentence)


def _read_reactome(path: Path) -> "pd.Series[str]":
    """For each gene its most specific pathway: the smallest set that is large enough."""
    smallest: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
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
    return pd.Series({gene: name for gene, (_, name) in smallest.items()}, dtype=str)


def _read_repurposing_hub(path: Path) -> "pd.Series[str]":
    """Mechanism by lower-case name; the file starts with lines of "!"."""
    table = _read_table(path, ["pert_iname", "moa"], comment="!")
    names = table["pert_iname"].str.lower()
    mechanisms = table.set_index(names)["moa"].str.replace("|", ", ")
    mechanisms = mechanisms[mechanisms != ""]
    return mechanisms[~mechanisms.index.duplicated()]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as UTF-8 text: {error}") from error


def _read_table(path: Path, columns: list[str], comment: str | None = None) -> pd.DataFrame:
    """Read these columns of a TSV as text, "" where empty."""
    lines = _read_text(path).splitlines()
    rows = [line.split("\t") for line in lines if line and not (comment and line[0] == comment)]
    header = rows[0] if rows else []
    for column in columns:
        if column not in header:
            raise InputError(f"{path}: column {column!r} is missing (found: {', '.join(header)})")
    places = [header.index(column) for column in columns]
    for row in rows[1:]:
        row.extend([""] * (len(header) - len(row)))  # empty cells at a line's end
    return pd.DataFrame([[row[i].strip('"') for i in places] for row in rows[1:]], columns=columns)
