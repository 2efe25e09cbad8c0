"""DrugBank: the full XML for those with a licence, the open vocabulary for everybody."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from xml.etree import ElementTree

import pandas as pd

from captions.knowledge.tables import (
    COMPOUND_COLUMNS,
    Records,
    Source,
    file_version,
    fill,
    join_list,
)
from data.errors import InputError

VOCABULARY = "drugbank?vocabulary.csv"
FULL = "full*database.xml*"

_NAMESPACE = "{http://www.drugbank.ca}"
_URL = "https://go.drugbank.com/releases"


def read_vocabulary(path: Path) -> Records:
    """Read the open vocabulary: names, synonyms and InChIKeys; no mechanisms."""
    columns = {
        "Common name": "name",
        "Synonyms": "synonyms",
        "Standard InChI Key": "inchikey",
        "DrugBank ID": "drugbank_id",
    }
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except pd.errors.EmptyDataError:
        table = pd.DataFrame(columns=list(columns), dtype=str)
    except (pd.errors.ParserError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: not a readable table ({error})") from None
    for column in columns:
        if column not in table:
            raise InputError(
                f"{path}: column {column!r} is missing (found: {', '.join(table.columns)})"
            )
    table = table.rename(columns=columns)
    table["synonyms"] = table["synonyms"].str.replace(" | ", "|", regex=False)
    source = Source("DrugBank vocabulary", file_version(path), "CC0 1.0", _URL)
    return Records(source, fill(table, COMPOUND_COLUMNS))


def find_drugbank(place: str) -> Path:
    """Return the full XML: a path as it is; a release such as 5.1.13 is downloaded.

    The download needs the environment's DRUGBANK_USERNAME and DRUGBANK_PASSWORD and a licence; it
    is kept by `drugbank_downloader`, so that it happens once.

    Raises
    ------
    InputError
        When there is neither such a file nor such a release for this account.
    """
    if Path(place).is_file():
        return Path(place)
    if not place.replace(".", "").isdigit():
        raise InputError(
            f"DrugBank: {place} is neither a file (full database.xml or its zip) nor a release"
            " such as 5.1.13"
        )
    try:
        import drugbank_downloader
    except ImportError:
        raise InputError(
            "DrugBank: drugbank_downloader is not installed: pip install 'morphoclip[knowledge]'"
        ) from None
    try:
        return Path(drugbank_downloader.download_drugbank(version=place))
    except (ValueError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"DrugBank: release {place} was not downloaded: set DRUGBANK_USERNAME and"
            f" DRUGBANK_PASSWORD of an account with a licence, or give the file ({reason})"
        ) from None


def read_full(path: Path) -> Records:
    """Read the full XML (or its zip) drug by drug: a gigabyte of it needs little memory.

    A mechanism is made of each human target whose action is known: "Prothrombin inhibitor".

    Raises
    ------
    InputError
        When it is no DrugBank XML, or damaged; the line is named.
    """
    rows: list[dict[str, str]] = []
    version = ""
    try:
        with _open(path) as file:
            depth = 0
            for event, element in ElementTree.iterparse(file, events=("start", "end")):
                if event == "start":
                    depth += 1
                    if depth == 1:
                        root, version = element, _root_version(path, element)
                    continue
                depth -= 1
                # Pathways list drugs too, deeper in the tree.
                if depth == 1 and element.tag == f"{_NAMESPACE}drug":
                    rows.append(_read_drug(element))
                    root.clear()
    except (ElementTree.ParseError, OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a readable DrugBank XML ({error})") from None
    source = Source("DrugBank", version, "CC BY-NC 4.0 or your own licence", _URL)
    return Records(source, fill(pd.DataFrame(rows), COMPOUND_COLUMNS))


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    if path.suffix != ".zip":
        with path.open("rb") as plain:
            yield plain
        return
    with zipfile.ZipFile(path) as archive:
        members = [name for name in archive.namelist() if name.endswith(".xml")]
        if len(members) != 1:
            raise InputError(f"{path}: expected one .xml in the archive, found {len(members)}")
        with archive.open(members[0]) as packed:
            yield packed


def _root_version(path: Path, root: ElementTree.Element) -> str:
    if root.tag != f"{_NAMESPACE}drugbank":
        raise InputError(f"{path}: no DrugBank XML: its root is <{root.tag}>, expected <drugbank>")
    return f"{root.get('version', '?')} of {root.get('exported-on', '?')}"


def _read_drug(drug: ElementTree.Element) -> dict[str, str]:
    properties = {
        _text(found, "kind"): _text(found, "value")
        for found in _all(drug, "calculated-properties/property")
    }
    ids = {found.get("primary", ""): found.text or "" for found in _all(drug, "drugbank-id")}
    mechanisms, genes = [], []
    for target in _all(drug, "targets/target"):
        if _text(target, "organism") != "Humans" or _text(target, "known-action") != "yes":
            continue
        actions = [found.text or "" for found in _all(target, "actions/action")] or ["ligand"]
        mechanisms += [f"{_text(target, 'name')} {action.lower()}" for action in actions]
        genes += [_text(found, "gene-name") for found in _all(target, "polypeptide")]
    return {
        "name": _text(drug, "name"),
        "synonyms": join_list([found.text or "" for found in _all(drug, "synonyms/synonym")]),
        "inchikey": properties.get("InChIKey", ""),
        "drugbank_id": ids.get("true", ""),
        "mechanism": join_list(mechanisms),
        "targets": join_list(genes),
    }


def _all(element: ElementTree.Element, path: str) -> list[ElementTree.Element]:
    return element.findall("/".join(_NAMESPACE + step for step in path.split("/")))


def _text(element: ElementTree.Element, name: str) -> str:
    return (element.findtext(_NAMESPACE + name) or "").strip()
