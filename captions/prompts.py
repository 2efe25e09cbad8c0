"""Prompts: what was done to the cells, in words, from named fields any of which can be masked.

A mechanism names the target and a function is text about it: the prompts of test reagents are built
too (for evaluation), and training must filter them out by split.
"""

import re
from collections.abc import Collection

import pandas as pd

from captions.knowledge import Knowledge
from data.errors import InputError

PROMPT_FIELDS = ("context", "identity", "structure", "mechanism", "function", "pathway")
"""The fields of a prompt, in the order in which they stand in it."""

KEEP_ORDER = ("context", "identity", "mechanism", "function", "pathway", "structure")
"""Who is served first when a prompt would become too long."""

PLAIN_MASK = ("mechanism", "function", "pathway")
"""Mask of the plain preset: cells, name and SMILES, as CellCLIP writes them."""

MAX_TOKENS = 48
MAX_NAMED_TARGETS = 3

NEEDED_COLUMNS = (
    "Metadata_broad_sample",
    "Metadata_modality",
    "Metadata_pert_iname",
    "Metadata_target_list",
    "Metadata_gene",
    "Metadata_smiles",
    "Metadata_Cell_type",
    "Metadata_Time",
)

_TREATMENTS = {
    "compound": "compound {name}",
    "crispr": "CRISPR knock-out of {name}",
    "orf": "over-expression (ORF) of {name}",
    "control": "negative control",
}


def build_prompts(
    reagents: pd.DataFrame,
    knowledge: Knowledge,
    mask: Collection[str] = (),
    max_tokens: int = MAX_TOKENS,
) -> pd.DataFrame:
    """Write one prompt a reagent.

    Parameters
    ----------
    reagents : DataFrame
        Wells or reagents with the Metadata_ columns broad_sample, modality, pert_iname, target_list
        ("A|B"), gene, smiles, Cell_type, Time (hours). A reagent in several contexts gets one
        prompt that names them all.
    knowledge : Knowledge
        From `captions.knowledge.load_knowledge`; unknown genes and compounds have empty fields.
    mask : collection of str
        Fields to leave empty, a subset of `PROMPT_FIELDS`; `PLAIN_MASK` is the plain preset.
    max_tokens : int
        Longest prompt, in tokens as `estimate_tokens` counts. A field that does not fit any more is
        left out of the prompt as a whole, in `KEEP_ORDER`; context and identity always stay.

    Returns
    -------
    DataFrame
        Metadata_broad_sample, Metadata_modality, Metadata_target_list, one column a field (its full
        text, "" where masked or unknown) and `prompt`, sorted by reagent.

    Raises
    ------
    InputError
        When a mask or a modality is unknown, or a column is missing.
    """
    for field in mask:
        if field not in PROMPT_FIELDS:
            raise InputError(
                f"unknown prompt field {field!r} in the mask: expected some of"
                f" {', '.join(PROMPT_FIELDS)}"
            )
    for column in NEEDED_COLUMNS:
        if column not in reagents:
            raise InputError(f"reagents: column {column!r} is missing")
    rows = []
    for broad_sample, wells in reagents.groupby("Metadata_broad_sample", sort=True):
        fields = _write_fields(wells, knowledge)
        fields = {name: "" if name in mask else fields[name] for name in PROMPT_FIELDS}
        first = wells.iloc[0]
        rows.append(
            {
                "Metadata_broad_sample": broad_sample,
                "Metadata_modality": first["Metadata_modality"],
                "Metadata_target_list": first["Metadata_target_list"],
                **fields,
                "prompt": _join(fields, max_tokens),
            }
        )
    columns = ["Metadata_broad_sample", "Metadata_modality", "Metadata_target_list"]
    return pd.DataFrame(rows, columns=[*columns, *PROMPT_FIELDS, "prompt"])


def estimate_tokens(text: str) -> int:
    """Estimate how many tokens a language model needs for a text.

    One for each started six small letters of a word, each started three capitals, each digit and
    each other sign: within about a fifth of SmolLM2's count.
    """
    return len(re.findall(r"[A-Z]?[^\WA-Z\d_]{1,6}|[A-Z]{1,3}|\d|[^\w\s]|_", text))


def _write_fields(wells: pd.DataFrame, knowledge: Knowledge) -> dict[str, str]:
    """All fields of one reagent, from its wells."""
    reagent = wells.iloc[0]
    modality = reagent["Metadata_modality"]
    if modality not in _TREATMENTS:
        raise InputError(
            f"reagent {reagent['Metadata_broad_sample']}: unknown modality {modality!r}: expected"
            f" {'|'.join(_TREATMENTS)}"
        )
    cells = " or ".join(sorted(wells["Metadata_Cell_type"].unique()))
    hours = " or ".join(str(time) for time in sorted(wells["Metadata_Time"].unique()))
    fields = dict.fromkeys(PROMPT_FIELDS, "")
    fields["context"] = f"{cells} cells, {hours} h"
    name = reagent["Metadata_gene"] or reagent["Metadata_pert_iname"]
    fields["identity"] = _TREATMENTS[modality].format(name=name)
    if modality == "control":
        return fields

    targets = [gene for gene in reagent["Metadata_target_list"].split("|") if gene]
    if modality == "compound":
        fields["structure"] = reagent["Metadata_smiles"] and f"SMILES {reagent['Metadata_smiles']}"
        mechanism = _look_up(knowledge.compounds, "mechanism", name.lower())
        fields["mechanism"] = ", ".join(filter(None, [mechanism, _name_targets(targets)]))
    # A compound is told by its first target that has a text.
    for field in ("function", "pathway"):
        texts = (_look_up(knowledge.genes, field, gene) for gene in targets)
        fields[field] = next(filter(None, texts), "")
    return fields


def _look_up(table: pd.DataFrame, column: str, key: str) -> str:
    return str(table.at[key, column]) if key in table.index else ""


def _name_targets(targets: list[str]) -> str:
    if not targets:
        return ""
    named = ", ".join(targets[:MAX_NAMED_TARGETS])
    more = len(targets) - MAX_NAMED_TARGETS
    return f"target {named}" + (f" and {more} more" if more > 0 else "")


def _join(fields: dict[str, str], max_tokens: int) -> str:
    """Fields joined in the order of `PROMPT_FIELDS`, as many as fit."""
    kept = [name for name in ("context", "identity") if fields[name]]
    for name in KEEP_ORDER[2:]:
        if fields[name] and estimate_tokens(_sentence(fields, [*kept, name])) <= max_tokens:
            kept.append(name)
    return _sentence(fields, kept)


def _sentence(fields: dict[str, str], names: list[str]) -> str:
    context = [fields["context"]] if "context" in names else []
    rest = [fields[name] for name in PROMPT_FIELDS[1:] if name in names]
    return ": ".join([*context, ". ".join(rest)] if rest else context) + "."
