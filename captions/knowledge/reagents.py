"""One row a reagent: its identifiers, names and mechanism, found by identifier in each source."""

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import pandas as pd

from captions.knowledge.join import Knowledge
from captions.knowledge.repurposing_hub import BROAD_ID_LENGTH
from captions.knowledge.structures import clean_structure
from captions.knowledge.tables import join_list, split_list

REAGENT_COLUMNS = (
    "Metadata_broad_sample",
    "Metadata_modality",
    "Metadata_target_list",
    "Metadata_smiles",
    "name",
    "smiles",
    "inchikey",
    "drugbank_id",
    "synonyms",
    "mechanism",
    "targets",
)
"""synonyms, mechanism and targets are lists ("A|B"); the last four have a column F_source each."""

FOUND_FIELDS = ("drugbank_id", "synonyms", "mechanism", "targets")

BLOCK = 14
"""Letters of an InChIKey that say which atoms are bound; the rest is stereochemistry and charge,
which many tables leave out."""


class Reagents(NamedTuple):
    """`table`: `REAGENT_COLUMNS`, their sources, `matched_by`; `problems`: name to reagents."""

    table: pd.DataFrame
    problems: dict[str, list[str]]


def describe_reagents(
    wells: pd.DataFrame, knowledge: Knowledge, clean_smiles: bool = True
) -> Reagents:
    """Look every reagent up in every source, by identifier.

    A compound's record in a source is found by its Broad number, else its InChIKey, else the
    InChIKey's first block (of several such records the one of its name); by name only in sources
    without structures, or when the compound has no structure. `matched_by` says how.

    Parameters
    ----------
    wells : DataFrame
        Metadata_broad_sample, Metadata_modality, Metadata_pert_iname, Metadata_gene,
        Metadata_smiles, Metadata_target_list and, where known, Metadata_InChIKey; a column that is
        missing is taken as empty.
    knowledge : Knowledge
    clean_smiles : bool
        Strip salts and write canonical SMILES; needs RDKit where a reagent has a SMILES.

    Returns
    -------
    Reagents
        Sorted by reagent. Problems: compound_unknown, compound_ambiguous, compound_name_conflict
        (a record of its name has another structure: not used), smiles_refused (left out),
        gene_unknown, gene_renamed, gene_ambiguous.

    Raises
    ------
    InputError
        When SMILES are to be cleaned and RDKit is not installed.
    """
    problems: dict[str, list[str]] = defaultdict(list)
    indices = {
        str(source): _Index(rows)
        for source, rows in knowledge.compounds.groupby("source", sort=False)
    }
    rows = []
    reagents = wells.drop_duplicates("Metadata_broad_sample").sort_values("Metadata_broad_sample")
    for reagent in reagents.to_dict("records"):
        row = dict.fromkeys([*REAGENT_COLUMNS, *(f"{f}_source" for f in FOUND_FIELDS)], "")
        modality = str(reagent.get("Metadata_modality", ""))
        gene, name = (str(reagent.get(f"Metadata_{c}") or "") for c in ("gene", "pert_iname"))
        row |= {
            "Metadata_broad_sample": str(reagent["Metadata_broad_sample"]),
            "Metadata_modality": modality,
            "Metadata_target_list": str(reagent.get("Metadata_target_list") or ""),
            "Metadata_smiles": str(reagent.get("Metadata_smiles") or ""),
            "name": gene or name,
            "smiles": str(reagent.get("Metadata_smiles") or ""),
            "matched_by": "",
        }
        if modality != "control":
            targets = split_list(row["Metadata_target_list"])
            _check_genes({*targets, *([gene] if gene else [])}, knowledge, problems)
        if modality == "compound":
            _describe_compound(row, reagent, indices, clean_smiles, problems)
        rows.append(row)
    columns = [*REAGENT_COLUMNS, *(f"{f}_source" for f in FOUND_FIELDS), "matched_by"]
    for name in ("gene_unknown", "gene_renamed", "gene_ambiguous"):
        if name in problems:
            problems[name] = sorted(set(problems[name]))
    return Reagents(pd.DataFrame(rows, columns=columns), dict(problems))


def normalize_name(name: str) -> str:
    """Write a name so that spelling does not matter: "ML-193" and "ml193" are one."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


class _Index:
    """The records of one source by identifier and by name."""

    def __init__(self, rows: pd.DataFrame):
        self.rows = rows.to_dict("records")
        self.by: dict[str, dict[str, list[int]]] = {
            kind: defaultdict(list) for kind in ("broad_id", "InChIKey", "connectivity", "name")
        }
        for number, row in enumerate(self.rows):
            for broad_id in split_list(row["broad_id"]):
                self.by["broad_id"][broad_id].append(number)
            keys = split_list(row["inchikey"])
            for key in keys:
                self.by["InChIKey"][key].append(number)
            for block in {key[:BLOCK] for key in keys}:
                self.by["connectivity"][block].append(number)
            for name in {normalize_name(n) for n in _names(row)}:
                self.by["name"][name].append(number)

    def find(self, kind: str, keys: Iterable[str]) -> list[dict]:
        """Return the records with one of these keys."""
        numbers = {number for key in keys if key for number in self.by[kind].get(key, [])}
        return [self.rows[number] for number in sorted(numbers)]


def _names(row: dict) -> list[str]:
    return [row["name"], *split_list(row["synonyms"])]


def _check_genes(
    symbols: Iterable[str], knowledge: Knowledge, problems: dict[str, list[str]]
) -> None:
    for symbol in symbols:
        current = knowledge.current_symbol(symbol)
        if symbol in knowledge.ambiguous and not current:
            problems["gene_ambiguous"].append(symbol)
        elif not current:
            problems["gene_unknown"].append(symbol)
        elif current != symbol:
            problems["gene_renamed"].append(f"{symbol} is now {current}")


def _describe_compound(
    row: dict,
    reagent: dict,
    indices: dict[str, _Index],
    clean_smiles: bool,
    problems: dict[str, list[str]],
) -> None:
    """Fill a compound's row: its structure, then each field from the first source that has it."""
    called = f"{row['Metadata_broad_sample']} ({row['name']})"
    keys = [str(reagent.get("Metadata_InChIKey") or "")]
    if clean_smiles and row["smiles"]:
        structure = clean_structure(row["smiles"])
        if structure is None:
            problems["smiles_refused"].append(f"{called}: {row['smiles']}")
            row["smiles"] = ""
        else:
            row["smiles"] = structure.smiles
            keys += structure.inchikeys
    keys = [key for key in keys if key]
    row["inchikey"] = join_list(keys)
    names, found, how = [row["name"]], {}, {}
    open_sources = list(indices)
    for by_name in (False, True):  # names of records found by identifier help to find the others
        for source in list(open_sources):
            index = indices[source]
            records, kind = _find(index, row, keys, names, by_name)
            # Records that say the same are one; only DrugBank's are told apart by number.
            said = {(r["mechanism"], r["targets"], r["drugbank_id"]) for r in records}
            if len(said) > 1:
                many = ", ".join(record["name"] for record in records)
                problems["compound_ambiguous"].append(f"{called}: {many} in {source}")
                open_sources.remove(source)
            elif not records and by_name and index.find("name", [normalize_name(row["name"])]):
                problems["compound_name_conflict"].append(f"{called}: other structure in {source}")
            elif records:
                found[source], how[source] = records[0], kind
                open_sources.remove(source)
                if not by_name:
                    names += _names(records[0])
    if not found:
        problems["compound_unknown"].append(called)
    row["matched_by"] = join_list(
        [f"{source}: {how[source]}" for source in indices if source in how]
    )
    for field in FOUND_FIELDS:
        for source in (source for source in indices if source in found):
            if field == "synonyms":
                own = [name for name in _names(found[source]) if name != row["name"]]
                row[field] = join_list([row[field], *own])
                row[f"{field}_source"] = join_list([row[f"{field}_source"], source])
            elif not row[field] and found[source][field]:
                row[field], row[f"{field}_source"] = found[source][field], source


def _find(
    index: _Index, row: dict, keys: list[str], names: list[str], by_name: bool
) -> tuple[list[dict], str]:
    """Return a compound's records in one source and what found them."""
    if by_name:
        for name in names:  # its own name first
            records = index.find("name", [normalize_name(name)])
            usable = [r for r in records if not (keys and r["inchikey"])]
            if usable:
                return usable, "name"
        return [], ""
    broad_id = row["Metadata_broad_sample"][:BROAD_ID_LENGTH]
    for kind, wanted in (
        ("broad_id", [broad_id]),
        ("InChIKey", keys),
        ("connectivity", [key[:BLOCK] for key in keys]),
    ):
        records = index.find(kind, wanted)
        if records:
            return _of_name(records, normalize_name(row["name"])), kind
    return [], ""


def _of_name(records: list[dict], name: str) -> list[dict]:
    """Of several records keep those of this name, else those with this synonym, else all."""
    own = [record for record in records if normalize_name(record["name"]) == name]
    also = [record for record in records if name in map(normalize_name, _names(record))]
    return own or also or records
