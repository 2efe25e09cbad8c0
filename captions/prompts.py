"""Prompts: what was done to the cells, in words, from named fields any of which can be left out.

A mechanism names the target and a function is text about it: the prompts of test reagents are built
too (for evaluation), and training must filter them out by split.
"""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from captions.knowledge.tables import split_list
from captions.mentions import TermIndex
from data.errors import InputError

PROMPT_FIELDS = ("context", "identity", "structure", "mechanism", "function", "pathway")
"""The fields of a prompt, in the order in which they stand in it."""

KEEP_ORDER = ("context", "identity", "mechanism", "function", "pathway", "structure")
"""Who is served first when a prompt would become too long."""

ALWAYS = KEEP_ORDER[:2]
"""Fields that no budget and no dropout takes away."""


class Preset(NamedTuple):
    """A way to write prompts: which fields are left out, and how the others are worded."""

    mask: tuple[str, ...]
    context: str
    treatments: Mapping[str, str]
    structure: str
    joints: tuple[str, str]  # after the context, between the others


ENRICHED = Preset(
    mask=(),
    context="{cells} cells, {exposure}",
    treatments={
        "compound": "compound {name}",
        "crispr": "CRISPR knock-out of {name}",
        "orf": "over-expression (ORF) of {name}",
        "control": "negative control",
    },
    structure="SMILES {smiles}",
    joints=(": ", ". "),
)

# Lu et al. 2025 (CellCLIP): "A cell painting image of U2OS cells treated with butyric acid, SMILES:
# CCCC(O)=O." and "... treated with CRISPR, targeting genes: AP2S1."; of controls it says nothing.
PLAIN = Preset(
    mask=("mechanism", "function", "pathway"),
    context="A cell painting image of {cells} cells",
    treatments={
        "compound": "treated with {name}",
        "crispr": "treated with CRISPR, targeting genes: {name}",
        "orf": "treated with ORF, targeting genes: {name}",
        "control": "treated as negative control",
    },
    structure="SMILES: {smiles}",
    joints=(" ", ", "),
)

PRESETS = {"enriched": ENRICHED, "plain": PLAIN}

MAX_TOKENS = 48
MAX_NAMED = 3
"""Targets and mechanisms that are named; the others are counted."""

NEEDED_COLUMNS = (
    "Metadata_broad_sample",
    "Metadata_modality",
    "Metadata_target_list",
    "Metadata_gene",
    "Metadata_Cell_type",
    "Metadata_Time",
)


class Prompts(NamedTuple):
    """`table`: one prompt a reagent; `problems`: name of a problem to reagents."""

    table: pd.DataFrame
    problems: dict[str, list[str]]


def build_prompts(
    wells: pd.DataFrame,
    reagents: pd.DataFrame,
    genes: pd.DataFrame,
    *,
    preset: str = "enriched",
    mask: Collection[str] = (),
    max_tokens: int = MAX_TOKENS,
    held_out: TermIndex | None = None,
) -> Prompts:
    """Write one prompt a reagent.

    Parameters
    ----------
    wells : DataFrame
        Wells with the Metadata_ columns broad_sample, modality, target_list ("A|B"), gene,
        Cell_type, Time (hours) and, where known, concentration (micromolar) and split. A reagent
        in several contexts gets one prompt that names them all.
    reagents, genes : DataFrame
        From `captions.knowledge.describe_reagents` and `Knowledge.look_up_genes`; unknown genes
        and compounds have empty fields.
    preset : str
        Of `PRESETS`: "enriched", or "plain" as CellCLIP writes them.
    mask : collection of str
        Further fields to leave empty, of `PROMPT_FIELDS`.
    max_tokens : int
        Longest prompt, in tokens as `estimate_tokens` counts. A field that does not fit any more is
        left out of the prompt as a whole, in `KEEP_ORDER`; context and identity always stay.
    held_out : TermIndex, optional
        What training text must not mention: a field of a reagent whose Metadata_split is "train"
        (other than context and identity) is emptied when it does.

    Returns
    -------
    Prompts
        The table, sorted by reagent: Metadata_broad_sample, Metadata_modality,
        Metadata_target_list, Metadata_split (where wells have it), one column a field (its full
        text, "" where masked or unknown), `Metadata_preset`, `Metadata_prompt_fields` (those in the
        prompt, "A|B") and `prompt`. Problems: `prompt_field_left_out` (no room), `prompt_too_long`
        (even without it), `prompt_field_masked` (mentions what is held out).

    Raises
    ------
    InputError
        When preset, mask or a modality is unknown, or a column is missing.
    """
    if preset not in PRESETS:
        raise InputError(f"unknown preset {preset!r}: expected {' or '.join(PRESETS)}")
    style = PRESETS[preset]
    for field in mask:
        if field not in PROMPT_FIELDS:
            raise InputError(
                f"unknown prompt field {field!r} in the mask: expected some of"
                f" {', '.join(PROMPT_FIELDS)}"
            )
    for column in NEEDED_COLUMNS:
        if column not in wells:
            raise InputError(f"reagents: column {column!r} is missing")
    described = reagents.set_index("Metadata_broad_sample").to_dict("index")
    problems: dict[str, list[str]] = {}
    keys = ["Metadata_broad_sample", "Metadata_modality", "Metadata_target_list"]
    keys += ["Metadata_split"] if "Metadata_split" in wells else []
    rows = []
    for broad_sample, own in wells.groupby("Metadata_broad_sample", sort=True):
        first = own.iloc[0]
        fields = _write_fields(own, described[broad_sample], genes, style)
        fields |= dict.fromkeys({*style.mask, *mask}, "")
        if held_out is not None and first.get("Metadata_split") == "train":
            for field in PROMPT_FIELDS:
                if field not in ALWAYS and (terms := held_out.find(fields[field])):
                    text = f"{broad_sample}: {field} ({terms[0].text} of {terms[0].label})"
                    problems.setdefault("prompt_field_masked", []).append(text)
                    fields[field] = ""
        kept = fit_fields(fields, max_tokens, estimate_tokens, preset)
        left_out = [name for name in PROMPT_FIELDS if fields[name] and name not in kept]
        if left_out:
            text = f"{broad_sample}: {', '.join(left_out)}"
            problems.setdefault("prompt_field_left_out", []).append(text)
        prompt = join_fields(fields, kept, preset)
        if (tokens := estimate_tokens(prompt)) > max_tokens:
            text = f"{broad_sample}: about {tokens} tokens"
            problems.setdefault("prompt_too_long", []).append(text)
        rows.append(
            {
                **first[keys],
                **fields,
                "Metadata_preset": preset,
                "Metadata_prompt_fields": "|".join(kept),
                "prompt": prompt,
            }
        )
    columns = [*keys, *PROMPT_FIELDS, "Metadata_preset", "Metadata_prompt_fields", "prompt"]
    return Prompts(pd.DataFrame(rows, columns=columns), problems)


def fit_fields(
    fields: Mapping[str, str],
    max_tokens: int,
    count_tokens: Callable[[str], int],
    preset: str = "enriched",
) -> list[str]:
    """Choose the fields that fit, served in `KEEP_ORDER`; a field is in or out as a whole.

    Returns
    -------
    list of str
        In the order of `PROMPT_FIELDS`; context and identity are always among them.
    """
    kept = [name for name in ALWAYS if fields[name]]
    for name in KEEP_ORDER[len(ALWAYS) :]:
        longer = join_fields(fields, [*kept, name], preset)
        if fields[name] and count_tokens(longer) <= max_tokens:
            kept.append(name)
    return [name for name in PROMPT_FIELDS if name in kept]


def join_fields(fields: Mapping[str, str], names: Collection[str], preset: str = "enriched") -> str:
    """Write some fields as a prompt, in the order of `PROMPT_FIELDS`; empty ones are left out."""
    after_context, between = PRESETS[preset].joints
    context = [fields["context"]] if "context" in names and fields["context"] else []
    rest = [fields[name] for name in PROMPT_FIELDS[1:] if name in names and fields[name]]
    return after_context.join([*context, between.join(rest)] if rest else context) + "."


def drop_fields(
    names: Collection[str], dropout: float, generator: np.random.Generator
) -> list[str]:
    """Drop each field of a prompt with a probability; context and identity always stay.

    The prompt of what is left is part of the full prompt, so it is neither longer nor does it say
    anything that the audit of the full prompts has not seen.

    Parameters
    ----------
    names : collection of str
        Fields of a prompt (`Metadata_prompt_fields`).
    dropout : float
        Probability, 0 to 1, of each field on its own.
    generator : numpy Generator
        Decides; equal generators give equal fields.

    Examples
    --------
    >>> drop_fields(["context", "identity", "function"], 1.0, np.random.default_rng(0))
    ['context', 'identity']
    """
    drawn = generator.random(len(PROMPT_FIELDS)) < dropout
    return [
        name
        for name, dropped in zip(PROMPT_FIELDS, drawn, strict=True)
        if name in names and (name in ALWAYS or not dropped)
    ]


def estimate_tokens(text: str) -> int:
    """Estimate how many tokens a language model needs for a text.

    One for each started six small letters of a word, each started three capitals, each digit and
    each other sign: within about a fifth of SmolLM2's count.
    """
    return len(re.findall(r"[A-Z]?[^\WA-Z\d_]{1,6}|[A-Z]{1,3}|\d|[^\w\s]|_", text))


def _write_fields(
    wells: pd.DataFrame, described: Mapping[Any, Any], genes: pd.DataFrame, style: Preset
) -> dict[str, str]:
    """All fields of one reagent, from its wells and what is known about it."""
    reagent = wells.iloc[0]
    modality = reagent["Metadata_modality"]
    if modality not in style.treatments:
        raise InputError(
            f"reagent {reagent['Metadata_broad_sample']}: unknown modality {modality!r}: expected"
            f" {'|'.join(style.treatments)}"
        )
    cells = " or ".join(sorted(wells["Metadata_Cell_type"].unique()))
    hours = " or ".join(str(time) for time in sorted(wells["Metadata_Time"].unique()))
    exposure = ", ".join(filter(None, [f"{hours} h", _dose(wells)]))
    fields = dict.fromkeys(PROMPT_FIELDS, "")
    fields["context"] = style.context.format(cells=cells, exposure=exposure)
    fields["identity"] = style.treatments[modality].format(name=described["name"])
    if modality == "control":
        return fields

    targets = split_list(reagent["Metadata_target_list"])
    if modality == "compound":
        if described["smiles"]:
            fields["structure"] = style.structure.format(smiles=described["smiles"])
        # What the benchmark lists wins: the sources' own targets only where it lists none.
        named = _name_some(targets or split_list(described["targets"]))
        mechanism = _name_some(split_list(described["mechanism"]))
        fields["mechanism"] = ", ".join(filter(None, [mechanism, named and f"target {named}"]))
    # A compound is told by its first target that has a text.
    texts = (". ".join(filter(None, _look_up(genes, g, "function", "protein"))) for g in targets)
    fields["function"] = next(filter(None, texts), "")
    fields["pathway"] = next(filter(None, (_look_up(genes, g, "pathway")[0] for g in targets)), "")
    return fields


def _dose(wells: pd.DataFrame) -> str:
    if "Metadata_concentration" not in wells:
        return ""
    doses = wells["Metadata_concentration"].dropna()
    if doses.empty:
        return ""
    low, high = f"{doses.min():g}", f"{doses.max():g}"
    return f"{low} uM" if low == high else f"{low} to {high} uM"


def _look_up(genes: pd.DataFrame, symbol: str, *columns: str) -> list[str]:
    return [str(genes.at[symbol, name]) if symbol in genes.index else "" for name in columns]


def _name_some(names: list[str]) -> str:
    more = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
