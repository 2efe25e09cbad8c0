"""UniProtKB: what a human protein does, its names and older gene symbols.

From a table that was saved on uniprot.org, or asked of its REST service through `unipressed` and
kept on disk.
"""

import gzip
import re
from collections.abc import Collection, Iterator
from io import StringIO
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from captions.knowledge.tables import (
    GENE_COLUMNS,
    Records,
    Source,
    file_version,
    fill,
    first_sentence,
    join_list,
    read_rows,
)
from data.errors import InputError
from data.files import atomic_path

PATTERN = "uniprot_human*.tsv"
CACHE = "uniprot_human_asked.tsv"
GENES_A_QUERY = 50

_URL = "https://www.uniprot.org"
_LICENCE = "CC BY 4.0"
_COLUMNS = ["Entry", "Protein names", "Gene Names", "Function [CC]"]
_FIELDS = ("accession", "protein_name", "gene_names", "cc_function", "xref_geneid")
_CACHE_COLUMNS = ["Asked", "Release", *_COLUMNS, "GeneID"]


def read_uniprot(path: Path) -> Records:
    """Read a TSV with Entry, Protein names, Gene Names and Function [CC]; GeneID where it is.

    The first of the gene names is the approved symbol, the others are its older ones.
    """
    table = _with_optional(path, _COLUMNS, "GeneID")
    return Records(Source("UniProtKB", file_version(path), _LICENCE, _URL), _gene_rows(table))


def ask_uniprot(symbols: Collection[str], cache: Path) -> Records:
    """Ask UniProt's REST service for the reviewed human proteins of genes, each only once.

    Parameters
    ----------
    symbols : collection of str
        Gene symbols, old ones too.
    cache : Path
        Folder that keeps the answers; genes without one are remembered as well.

    Raises
    ------
    InputError
        When `unipressed` is not installed or the service does not answer. What was answered
        before is kept.
    """
    path = cache / CACHE
    known = _read_cache(path)
    asked = sorted(set(symbols) - set(known["Asked"]))
    batches = [asked[i : i + GENES_A_QUERY] for i in range(0, len(asked), GENES_A_QUERY)]
    for batch in tqdm(batches, desc="asking UniProt", disable=None):
        known = pd.concat([known, _ask(batch)], ignore_index=True)
        with atomic_path(path) as temporary:
            known.to_csv(temporary, sep="\t", index=False)
    releases = ", ".join(sorted(set(known["Release"]) - {""})) or "none"
    source = Source("UniProtKB REST", f"release {releases}", _LICENCE, _URL)
    return Records(source, _gene_rows(known[known["Asked"].isin(symbols)]))


def _read_cache(path: Path) -> pd.DataFrame:
    if path.is_file():
        return read_rows(path, _CACHE_COLUMNS)
    return pd.DataFrame(columns=_CACHE_COLUMNS, dtype=str)


def _ask(symbols: list[str]) -> pd.DataFrame:
    """Return a row for each (symbol, protein), and an empty one for a symbol without protein."""
    import requests

    try:
        from unipressed import UniprotkbClient
    except ImportError:
        raise InputError(
            "UniProt: unipressed is not installed: pip install 'morphoclip[knowledge]'"
        ) from None
    genes = " OR ".join(f'gene_exact:"{symbol}"' for symbol in symbols)
    query = f"({genes}) AND organism_id:9606 AND reviewed:true"
    search = UniprotkbClient.search(query, format="tsv", fields=_FIELDS, include_isoform=False)
    rows: list[pd.DataFrame] = []
    try:
        for response in search.each_response():
            response.raise_for_status()
            with gzip.open(response.raw, "rt", encoding="utf-8") as page:
                table = pd.read_csv(StringIO(page.read()), sep="\t", dtype=str).fillna("")
            rows.append(table.assign(Release=response.headers.get("X-UniProt-Release", "?")))
    except (requests.RequestException, OSError) as error:
        raise InputError(
            f"UniProt did not answer for {symbols[0]} ... {symbols[-1]} ({error}): try again, or"
            " save a table on uniprot.org as uniprot_human.tsv in the annotation folder"
        ) from None
    found = pd.concat(rows, ignore_index=True)
    parts = [_of_symbol(found, symbol) for symbol in symbols]
    return fill(pd.concat(parts, ignore_index=True), _CACHE_COLUMNS)


def _of_symbol(found: pd.DataFrame, symbol: str) -> pd.DataFrame:
    own = found[[symbol in names.split() for names in found["Gene Names"]]]
    return (own if len(own) else pd.DataFrame([{}])).assign(Asked=symbol)


def _with_optional(path: Path, columns: list[str], optional: str) -> pd.DataFrame:
    try:
        return read_rows(path, [*columns, optional])
    except InputError as error:
        if repr(optional) not in str(error):
            raise
        return read_rows(path, columns).assign(**{optional: ""})


def _gene_rows(table: pd.DataFrame) -> pd.DataFrame:
    table = table[table["Gene Names"] != ""].drop_duplicates("Entry")
    symbols = table["Gene Names"].str.split()
    return fill(
        pd.DataFrame(
            {
                "symbol": symbols.str[0],
                "entrez": table["GeneID"].str.split(";").str[0],
                "uniprot": table["Entry"],
                "aliases": symbols.str[1:].map(join_list),
                "names": table["Protein names"].map(lambda text: join_list([*protein_names(text)])),
                "protein": table["Function [CC]"].map(function_sentence),
            }
        ),
        GENE_COLUMNS,
    )


def protein_names(text: str) -> Iterator[str]:
    """Take "Name (Other name) (EC 1.2.3.4) [Cleaved into: ...]" apart; enzyme numbers are no name.

    Examples
    --------
    >>> list(protein_names("Serine/threonine-protein kinase mTOR (EC 2.7.11.1) (FRAP)"))
    ['Serine/threonine-protein kinase mTOR', 'FRAP']
    """
    text = text.split(" [", 1)[0]
    start = 0
    open_names: list[bool] = []
    for place, sign in enumerate(text):
        if sign == "(":
            # Only a bracket after a space opens a further name; "poly(ADP-ribose)" has none.
            opens_name = not open_names and text[:place].endswith(" ")
            open_names.append(opens_name)
            if opens_name:
                yield from _name(text[start:place])
                start = place + 1
        elif sign == ")" and open_names and open_names.pop() and not open_names:
            yield from _name(text[start:place])
            start = place + 1
    yield from _name(text[start:])


def _name(text: str) -> Iterator[str]:
    text = text.strip()
    if text and not re.match(r"EC \d", text):
        yield text


def function_sentence(text: str) -> str:
    """Return the first sentence of a function comment without its evidence."""
    text = re.sub(r"\{ECO:[^}]*\}", "", text.removeprefix("FUNCTION: "))
    text = re.sub(r"\s*\((?:PubMed:\d+(?:, )?|By similarity)+\)", "", text)
    return first_sentence(re.sub(r"\s+([.,;])", r"\1", text).replace("..", "."))
