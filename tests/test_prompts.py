"""Reagents into prompts, field by field."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captions.knowledge import describe_reagents, load_knowledge
from captions.mentions import Term, TermIndex
from captions.prompts import (
    ALWAYS,
    KEEP_ORDER,
    MAX_TOKENS,
    PROMPT_FIELDS,
    Prompts,
    build_prompts,
    drop_fields,
    estimate_tokens,
    join_fields,
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


def build(wells: pd.DataFrame, **options) -> Prompts:
    described = describe_reagents(wells, KNOWLEDGE, clean_smiles=False).table
    return build_prompts(wells, described, KNOWLEDGE.genes, **options)


def prompt(row: dict, **options) -> pd.Series:
    return build(pd.DataFrame([row]), **options).table.iloc[0]


def test_an_enriched_compound():
    assert prompt(reagent(), max_tokens=99)["prompt"] == (
        "U2OS cells, 48 h: compound AZD8055. SMILES CCO. mTOR inhibitor, target MTOR. Kinase that"
        " senses nutrients and drives protein synthesis, ribosome production and cell growth."
        " PI3K-AKT-mTOR growth signalling."
    )


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (
            reagent(pert_iname="butyric acid", smiles="CCCC(O)=O"),
            "A cell painting image of U2OS cells treated with butyric acid, SMILES: CCCC(O)=O.",
        ),
        (
            gene("crispr"),
            "A cell painting image of U2OS cells treated with CRISPR, targeting genes: MTOR.",
        ),
    ],
)
def test_the_plain_preset_is_cellclips_template(row, text):
    assert prompt(row, preset="plain")["prompt"] == text


def test_a_dose_is_context():
    rows = pd.DataFrame([reagent(concentration=dose) for dose in (0.1, 3.0)])
    assert build(rows).table["context"].tolist() == ["U2OS cells, 48 h, 0.1 to 3 uM"]
    assert prompt(reagent(concentration=5.0))["context"] == "U2OS cells, 48 h, 5 uM"
    assert prompt(reagent(concentration=np.nan))["context"] == "U2OS cells, 48 h"


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


@settings(deadline=None, max_examples=100)
@given(st.sets(st.sampled_from(PROMPT_FIELDS)), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_dropout_takes_fields_and_is_drawn_from_the_seed(names, dropout, seed):
    kept, again = (drop_fields(names, dropout, np.random.default_rng(seed)) for _ in range(2))
    assert kept == again == [name for name in PROMPT_FIELDS if name in kept]
    assert names & set(ALWAYS) <= set(kept) <= names
    if dropout == 0:
        assert set(kept) == names
    fields = {name: f"text of {name}" for name in PROMPT_FIELDS}
    assert estimate_tokens(join_fields(fields, kept)) <= estimate_tokens(join_fields(fields, names))


def test_dropout_drops_each_field_as_often_as_asked():
    generator = np.random.default_rng(0)
    kept = [drop_fields(PROMPT_FIELDS, 0.3, generator) for _ in range(2000)]
    for name in PROMPT_FIELDS:
        share = np.mean([name in fields for fields in kept])
        assert share == (1 if name in ALWAYS else pytest.approx(0.7, abs=0.04))


def test_training_prompts_lose_the_fields_that_mention_what_is_held_out():
    held_out = TermIndex([Term("PIK3CA", "gene", "AKT"), Term("PIK3CA", "gene", "AZD8055")])
    rows = [
        reagent(broad_sample="A", split="train"),
        reagent(broad_sample="B", split="test"),
    ]
    table, problems = build(pd.DataFrame(rows), held_out=held_out, max_tokens=99)
    train, test = (row for _, row in table.iterrows())
    assert train["pathway"] == ""
    assert "growth signalling" not in train["prompt"]
    assert test["pathway"] != ""
    assert train["identity"] == test["identity"]  # a split's fault: the audit refuses it
    assert problems["prompt_field_masked"] == ["A: pathway (AKT of PIK3CA)"]


def test_what_does_not_fit_is_counted():
    rows = pd.DataFrame([reagent(smiles="C" * 300)])
    assert build(rows).problems["prompt_field_left_out"] == ["BRD-1: structure, pathway"]
    assert "prompt_too_long" in build(rows, max_tokens=3).problems
    assert build(pd.DataFrame([reagent()]), max_tokens=99).problems == {}


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 200))
def test_fields_are_left_out_as_a_whole_in_the_stated_order(max_tokens):
    row = prompt(reagent(smiles="C" * 300), max_tokens=max_tokens)
    kept = [field for field in PROMPT_FIELDS if row[field] in row["prompt"]]
    assert "|".join(kept) == row["Metadata_prompt_fields"]
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
    table = build(rows).table
    assert table["context"].tolist() == ["A549 or U2OS cells, 24 or 48 h"]


def test_one_sorted_row_a_reagent_with_the_columns_agreed():
    rows = pd.DataFrame([reagent(broad_sample=name) for name in "BAB"])
    table = build(rows).table
    assert table["Metadata_broad_sample"].tolist() == ["A", "B"]
    assert list(table) == [
        "Metadata_broad_sample",
        "Metadata_modality",
        "Metadata_target_list",
        *PROMPT_FIELDS,
        "Metadata_preset",
        "Metadata_prompt_fields",
        "prompt",
    ]
    assert build(rows.iloc[:0]).table.empty
    assert (
        build(rows.assign(Metadata_split="train")).table["Metadata_split"].tolist() == ["train"] * 2
    )


def test_bad_input_is_named():
    with pytest.raises(InputError, match="unknown prompt field 'smell'"):
        prompt(reagent(), mask=("smell",))
    with pytest.raises(InputError, match="BRD-1: unknown modality 'sirna'"):
        prompt(reagent(modality="sirna"))
    with pytest.raises(InputError, match="unknown preset 'fancy'"):
        prompt(reagent(), preset="fancy")
    with pytest.raises(InputError, match="Metadata_Cell_type"):
        build(pd.DataFrame([reagent()]).drop(columns="Metadata_Cell_type"))


def test_every_simulated_reagent_keeps_mechanism_and_function():
    from data.phenotypes import TARGETS

    rows = [
        reagent(broad_sample=c, pert_iname=c, target_list=t.gene)
        for t in TARGETS
        for c in t.compounds
    ]
    table = build(pd.DataFrame(rows)).table
    assert (table["prompt"].map(estimate_tokens) <= MAX_TOKENS).all()
    assert all(m in p for m, p in zip(table["mechanism"], table["prompt"], strict=True))
    kept = [f in p for f, p in zip(table["function"], table["prompt"], strict=True)]
    assert sum(kept) / len(kept) >= 0.9
