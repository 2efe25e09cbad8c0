"""What all sources share: how a table is read, and what is noted about where it came from."""

import gzip
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from data.errors import InputError

GENE_COLUMNS = ("symbol", "entrez", "uniprot", "aliases", "names", "function", "protein", "pathway")
"""Rows on genes; aliases and names are lists ("A|B"), everything else is text; "" where unknown."""

COMPOUND_COLUMNS = (
    "name",
    "synonyms",
    "broad_id",
    "inchikey",
    "drugbank_id",
    "mechanism",
    "targets",
)
"""Rows on compounds; all but name and drugbank_id are lists ("A|B")."""


@dataclass(frozen=True)
class Source:
    """Where text comes from, and what one may do with it."""

    name: str
    version: str
    licence: str
    url: str


class Records(NamedTuple):
    """The rows of one source, in `GENE_COLUMNS` or `COMPOUND_COLUMNS`."""

    source: Source
    rows: pd.DataFrame


def file_version(path: Path) -> str:
    """Name the version of a file that does not say it itself: the head of its SHA-256."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()[:12]}"


def read_text(path: Path) -> str:
    """Read a UTF-8 text, unpacked where the name ends in .gz.

    Raises
    ------
    InputError
        When it cannot be read, is not UTF-8, or not gzip.
    """
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rt", encoding="utf-8") as file:
                return file.read()
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise InputError(f"{path} cannot be read as UTF-8 text: {error}") from error


def read_rows(path: Path, columns: Sequence[str], comment: str | None = None) -> pd.DataFrame:
    """Read these columns of a TSV as text, "" where empty.

    A file without any line is an empty table: it says nothing, which the coverage report shows.

    Parameters
    ----------
    path : Path
    columns : sequence of str
    comment : str, optional
        Lines that begin with this character are left out.

    Raises
    ------
    InputError
        When the file cannot be read or lacks a column.
    """
    lines = read_text(path).splitlines()
    rows = [line.split("\t") for line in lines if line and not (comment and line[0] == comment)]
    if not rows:
        return pd.DataFrame(columns=list(columns), dtype=str)
    header = [name.strip('"') for name in rows[0]]
    for column in columns:
        if column not in header:
            raise InputError(f"{path}: column {column!r} is missing (found: {', '.join(header)})")
    places = [header.index(column) for column in columns]
    for row in rows[1:]:
        row.extend([""] * (len(header) - len(row)))  # empty cells at a line's end
    cells = [[row[i].strip('"') for i in places] for row in rows[1:]]
    return pd.DataFrame(cells, columns=list(columns), dtype=str)


def fill(rows: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return exactly these columns, "" where the rows do not have them."""
    return rows.reindex(columns=list(columns)).fillna("").astype(str).reset_index(drop=True)


def join_list(values: Sequence[str]) -> str:
    """Write a list cell: each value once, in order, empty ones left out; values may be lists."""
    parts = [part.strip() for value in values for part in value.split("|")]
    return "|".join(dict.fromkeys(filter(None, parts)))


def split_list(cell: str) -> list[str]:
    """Read a list cell ("A|B")."""
    return [value for value in cell.split("|") if value]


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
