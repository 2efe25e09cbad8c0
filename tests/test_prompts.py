"""Reagents into prompts, field by field."""

import itertools

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captions.knowledge import load_knowledge
from captions.prompts import (
    KEEP_ORDER,
    MAX_TOKENS,
    PLAIN_MASK,
    PROMPT_FIELDS,
    build_prompts,
    estimate_tokens,
)
from data.errors import InputError

KNOWLEDGE = load_knowledge()


def reagent(**changes) -> dict:
    row = {
        "Metadata_broad_sample": "BRD-1",
        "Metadata_modality": "compound",
        "Metadata_pert_iname": "AZD8055",
        "Metadata_target_list": "MTOR",
        "Metadata_gene": "",
        "Metadata_smiles": "CCO",
        "Metadata_Cell_type": "U2OS",
        "Metadata_Time": 48,
    }
    return row | {f"Metadata_{key}": value for key, value in changes.items()}


def gene(modality: str) -> dict:
    return reagent(modality=modality, pert_iname="MTOR", gene="MTOR", smiles="")


def prompt(row: dict, **options) -> pd.Series:
    return build_prompts(pd.DataFrame([row]), KNOWLEDGE, **options).iloc[0]


def test_an_enriched_compound():
    assert prompt(reagent(), max_tokens=99)["prompt"] == (
        "U2OS cells, 48 h: compound AZD8055. SMILES CCO. mTOR inhibitor, target MTOR. Kinase that"
        " senses nutrients and drives protein synthesis, ribosome production and cell growth."
        " PI3K-AKT-mTOR growth signalling."
    )


def test_a_plain_compound():
    assert prompt(reagent(), mask=PLAIN_MASK)["prompt"] == (
        "U2OS cells, 48 h: compound AZD8055. SMILES CCO."
    )


@pytest.mark.parametrize(
    ("modality", "identity"),
    [("crispr", "CRISPR knock-out of MTOR"), ("orf", "over-expression (ORF) of MTOR")],
)
def test_a_gene_says_the_same_of_its_function_as_the_compound(modality, identity):
    row = prompt(gene(modality))
    assert row["identity"] == identity
    assert row["function"] == prompt(reagent())["function"] != ""
    assert row["mechanism"] == row["structure"] == ""


def test_a_control_is_a_control():
    row = prompt(reagent(modality="control", pert_iname="DMSO", target_list="", smiles="CS(C)=O"))
    assert row["prompt"] == "U2OS cells, 48 h: negative control."


def test_an_unknown_reagent_has_empty_fields():
    row = prompt(reagent(pert_iname="x-1", target_list="", smiles=""))
    assert row["prompt"] == "U2OS cells, 48 h: compound x-1."
    row = prompt(reagent(pert_iname="x-1", target_list="NOSUCHGENE", smiles=""))
    assert row["prompt"] == "U2OS cells, 48 h: compound x-1. target NOSUCHGENE."


def test_many_targets_are_counted_not_cut():
    row = prompt(reagent(pert_iname="x-1", target_list="NONE1|NONE2|MTOR|FASN|TUBB"))
    assert row["mechanism"] == "target NONE1, NONE2, MTOR and 2 more"
    assert row["function"] == KNOWLEDGE.genes.at["MTOR", "function"]


@pytest.mark.parametrize(
    "mask", [m for n in range(7) for m in itertools.combinations(PROMPT_FIELDS, n)]
)
def test_any_subset_can_be_masked(mask):
    full, row = prompt(reagent(), max_tokens=999), prompt(reagent(), mask=mask, max_tokens=999)
    for field in PROMPT_FIELDS:
        assert row[field] == ("" if field in mask else full[field])
        assert (full[field] in row["prompt"]) == (field not in mask)


@given(st.integers(0, 200))
def test_fields_are_left_out_as_a_whole_in_the_stated_order(max_tokens):
    row = prompt(reagent(smiles="C" * 300), max_tokens=max_tokens)
    kept = [field for field in PROMPT_FIELDS if row[field] in row["prompt"]]
    assert kept[:2] == ["context", "identity"]
    assert estimate_tokens(row["prompt"]) <= max_tokens or kept == ["context", "identity"]
    # The sentence is the kept fields and nothing else: no field in part.
    rest = row["prompt"]
    for field in kept:
        rest = rest.replace(row[field], "")
    assert set(rest) <= set(". :")
    # A field left out would not have fitted.
    for field in set(KEEP_ORDER) - set(kept):
        earlier = [f for f in KEEP_ORDER[: KEEP_ORDER.index(field)] if f in kept]
        size = estimate_tokens(". ".join(row[f] for f in [*earlier, field]) + ".")
        assert size > max_tokens


def test_several_contexts_of_a_reagent_are_one_prompt():
    rows = pd.DataFrame([reagent(Cell_type=c, Time=t) for c in ("U2OS", "A549") for t in (48, 24)])
    table = build_prompts(rows, KNOWLEDGE)
    assert table["context"].tolist() == ["A549 or U2OS cells, 24 or 48 h"]


def test_one_sorted_row_a_reagent_with_the_columns_agreed():
    rows = pd.DataFrame([reagent(broad_sample=name) for name in "BAB"])
    table = build_prompts(rows, KNOWLEDGE)
    assert table["Metadata_broad_sample"].tolist() == ["A", "B"]
    assert list(table) == [
        "Metadata_broad_sample",
        "Metadata_modality",
        "Metadata_target_list",
        *PROMPT_FIELDS,
        "prompt",
    ]
    assert build_prompts(rows.iloc[:0], KNOWLEDGE).empty


def test_bad_input_is_named():
    with pytest.raises(InputError, match="unknown prompt field 'smell'"):
        prompt(reagent(), mask=("smell",))
    with pytest.raises(InputError, match="BRD-1: unknown modality 'sirna'"):
        prompt(reagent(modality="sirna"))
    with pytest.raises(InputError, match="Metadata_smiles"):
        build_prompts(pd.DataFrame([reagent()]).drop(columns="Metadata_smiles"), KNOWLEDGE)


def test_every_simulated_reagent_keeps_mechanism_and_function():
    from data.phenotypes import TARGETS

    rows = [
        reagent(broad_sample=c, pert_iname=c, target_list=t.gene)
        for t in TARGETS
        for c in t.compounds
    ]
    table = build_prompts(pd.DataFrame(rows), KNOWLEDGE)
    assert (table["prompt"].map(estimate_tokens) <= MAX_TOKENS).all()
    assert all(m in p for m, p in zip(table["mechanism"], table["prompt"], strict=True))
    kept = [f in p for f, p in zip(table["function"], table["prompt"], strict=True)]
    assert sum(kept) / len(kept) >= 0.9
