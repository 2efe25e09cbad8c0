"""Planted mentions are found, in any dress; words that only look alike are not."""

import string

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captions.mentions import WORDS, Term, TermIndex, held_out_terms

WORD = st.text(string.ascii_letters + string.digits, min_size=1, max_size=8)
TEXT = st.lists(WORD, max_size=12)
SYMBOLS = st.sampled_from(
    ["PLK1", "HDAC3", "MTOR", "MET", "CAT", "SET", "F2", "CA2", "HLA-A", "KCTD16", "BTK", "AURKB"]
)
BORDERS = st.sampled_from([" ", "(", ")", ", ", ". ", "-", "/", ": ", '"', "'s ", ";", "_"])


def gene_terms(symbol: str) -> TermIndex:
    reagents = pd.DataFrame(columns=["Metadata_target_list"])
    return TermIndex(held_out_terms({symbol}, reagents))


@settings(deadline=None, max_examples=100)
@given(SYMBOLS, TEXT, TEXT, BORDERS, BORDERS)
def test_a_planted_symbol_is_found(symbol, before, after, left, right):
    text = " ".join(before) + left + symbol + right + " ".join(after)
    assert [term.label for term in gene_terms(symbol).find(text)] == [symbol]


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(["PLK1", "HDAC3", "MTOR", "BTK"]), st.data())
def test_a_planted_symbol_is_found_in_any_case(symbol, data):
    spelt = "".join(data.draw(st.sampled_from([c.lower(), c.upper()])) for c in symbol)
    assert gene_terms(symbol).find(f"an inhibitor of {spelt}.")


@settings(deadline=None, max_examples=100)
@given(SYMBOLS, WORD, st.booleans())
def test_a_symbol_inside_a_longer_word_is_no_mention(symbol, more, behind):
    text = f"the {symbol + more if behind else more + symbol} of it"
    alike = {word.lower() for word in text.replace("-", " ").split()}
    if not set(symbol.lower().split("-")) <= alike:
        assert gene_terms(symbol).find(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "It met a cat. Set it at rest; the large impact was clear.",
        "Met with Cat and Set",
        "Ca2+ and Ca(2+) influx",
        "f2 is a factor",
        "HDAC30, PLK10, xPLK1",
        "SMILES C1CAT2F2SET. Nothing else",
    ],
)
def test_false_alarms(text):
    for symbol in ("MET", "CAT", "SET", "REST", "LARGE", "F2", "CA2", "HDAC3", "PLK1"):
        assert gene_terms(symbol).find(text) == []


@pytest.mark.parametrize("text", ["the MET gene", "HDAC-3", "hdac 3", "PI3K-AKT-mTOR", "CA2 gene"])
def test_mentions(text):
    found = [s for s in ("MET", "HDAC3", "MTOR", "CA2") if gene_terms(s).find(text)]
    assert len(found) == 1


def reagents_table(**changes) -> pd.DataFrame:
    row = {
        "Metadata_broad_sample": "BRD-K1",
        "Metadata_modality": "compound",
        "Metadata_target_list": "MTOR|OTHER",
        "Metadata_smiles": "OCC",
        "name": "torin-1",
        "smiles": "CCO",
        "synonyms": "Torin one (HCl)|TO|NVP|12345|ER",
        "mechanism": "mTOR inhibitor|kinase inhibitor",
    }
    return pd.DataFrame([row | changes])


GENES = pd.DataFrame(
    {
        "current_symbol": ["MTOR"],
        "aliases": ["FRAP1|ER|SET"],
        "names": ["Serine/threonine-protein kinase mTOR|FRAP"],
    },
    index=["MTOR"],
)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("targets FRAP1", "gene"),
        ("a serine threonine protein kinase mtor", "gene"),
        ("compound Torin-1", "reagent"),
        ("as TORIN ONE HCl did", "reagent"),
        ("BRD-K1", "reagent"),
        ("SMILES CCO. x", "structure"),
        ("SMILES: OCC", "structure"),
        ("a Kinase Inhibitor", "mechanism"),
        ("the SET protein", "gene"),
        ("ER: brighter. TO the NVP of 12345; a set of CCO", None),
    ],
)
def test_everything_about_a_target_is_a_term(text, kind):
    index = TermIndex(held_out_terms({"MTOR"}, reagents_table(), GENES))
    kinds = {term.kind for term in index.find(text)}
    assert kinds == ({kind} if kind else set()) or (kind == "gene" and "gene" in kinds)
    assert {term.label for term in index.find(text)} <= {"MTOR"}


def test_reagents_of_other_targets_and_controls_give_nothing():
    for changes in ({"Metadata_target_list": "OTHER"}, {"Metadata_modality": "control"}):
        terms = list(held_out_terms({"MTOR"}, reagents_table(**changes)))
        assert [term.text for term in terms] == ["MTOR"]
    guide = reagents_table(Metadata_modality="crispr", name="SAFE", synonyms="", smiles="")
    assert "SAFE" not in {term.text for term in held_out_terms({"MTOR"}, guide)}


def test_words_are_symbols():
    assert all(word.isupper() for word in WORDS)
    assert TermIndex([]).find("anything") == []
    assert TermIndex([Term("A", "gene", "()")]).find("() A") == []
