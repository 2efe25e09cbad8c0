"""The leak audit finds whatever is planted, and nothing else."""

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captions.knowledge import describe_reagents, load_knowledge
from captions.mentions import TermIndex, held_out_terms
from captions.prompts import build_prompts
from data.errors import InputError
from eval.leaks import (
    LEAK_COLUMNS,
    collect_training_text,
    find_leaks,
    load_training_text,
    refuse_leaks,
    summarize_leaks,
)
from eval.splits import held_out_targets

TARGETS = ["PLK1", "HDAC3", "MTOR", "MET"]
KEYS = ["AAAAAAAAAAAAAA-BBBBBBBBBB-N", "CCCCCCCCCCCCCC-BBBBBBBBBB-N"]
GENES = pd.DataFrame(
    {
        "current_symbol": TARGETS,
        "aliases": ["STPK13", "RPD3-2", "FRAP1", "HGFR"],
        "names": ["Polo-like kinase 1", "Histone deacetylase 3", "", "Scatter factor receptor"],
    },
    index=TARGETS,
)


def reagents(**changes) -> pd.DataFrame:
    columns = {
        "Metadata_broad_sample": ["BRD-K1", "BRD-K2", "GUIDE1"],
        "Metadata_modality": ["compound", "compound", "crispr"],
        "Metadata_target_list": ["PLK1", "MTOR|HDAC3", "MET"],
        "Metadata_smiles": ["OCC", "", ""],
        "name": ["volasertib", "torin-1", "MET"],
        "smiles": ["CCO", "CCCCN", ""],
        "inchikey": [KEYS[0], KEYS[1], ""],
        "synonyms": ["BI 6727|Volasertibum", "", ""],
        "mechanism": ["polo-like inhibitor", "mTOR pathway inhibitor", ""],
    }
    return pd.DataFrame(columns | changes)


def training(*texts: str, split: str = "train", **columns) -> pd.DataFrame:
    return pd.DataFrame({"Metadata_split": split, "text": list(texts), **columns})


# What to plant, of which target, and what kind of leak it is.
PLANTS = [
    ("PLK1", "PLK1", "gene"),
    ("plk1", "PLK1", "gene"),
    ("STPK13", "PLK1", "gene"),
    ("polo like kinase 1", "PLK1", "gene"),
    ("the HDAC3 complex", "HDAC3", "gene"),
    ("FRAP1", "MTOR", "gene"),
    ("Met receptor, MET", "MET", "gene"),
    ("volasertib", "PLK1", "reagent"),
    ("BI-6727", "PLK1", "reagent"),
    ("Torin 1", "MTOR", "reagent"),
    ("BRD-K2", "HDAC3", "reagent"),
    ("SMILES OCC.", "PLK1", "structure"),
    ("SMILES: CCCCN", "MTOR", "structure"),
    ("a polo-like inhibitor", "PLK1", "mechanism"),
]
CLEAN = [
    "U2OS cells, 48 h: compound nocodazole. SMILES CCOC. tubulin inhibitor, target TUBB",
    "Nuclei: clearly larger. Mito: dimmer. ER unchanged.",
    "It met a set of HDAC30 and PLK10 cells",
    "SMILES OCCPLK1",
    "",
]


@settings(deadline=None, max_examples=50)
@given(st.sampled_from(PLANTS), st.lists(st.sampled_from(CLEAN), max_size=6), st.data())
def test_a_planted_leak_is_found_wherever_it_stands(plant, texts, data):
    text, target, kind = plant
    place = data.draw(st.integers(0, len(texts)))
    host = data.draw(st.sampled_from(["{}", "{}.", "x {} y", "({})", "a: {}; b"]))
    texts.insert(place, host.format(text))
    leaks = find_leaks(training(*texts), TARGETS, reagents(), GENES)
    assert (target, kind) in set(zip(leaks["target"], leaks["kind"], strict=True))
    with pytest.raises(InputError, match=rf"of 4 held-out targets .*{target} \("):
        refuse_leaks(leaks, TARGETS)
    # What is not held out, or not trained on, is no leak.
    others = [t for t in TARGETS if t not in set(leaks["target"])]
    assert find_leaks(training(*texts), others, reagents(), GENES).empty
    untrained = training(*texts, split="test")
    trained = pd.concat([untrained, training("nothing")])
    assert find_leaks(trained, TARGETS, reagents(), GENES).empty


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from(CLEAN), min_size=1, max_size=9))
def test_clean_text_is_clean(texts):
    leaks = find_leaks(training(*texts), TARGETS, reagents(), GENES)
    assert leaks.empty
    assert list(leaks) == list(LEAK_COLUMNS)
    refuse_leaks(leaks, TARGETS)
    assert summarize_leaks(leaks, TARGETS)["clean"].all()


@settings(deadline=None, max_examples=50)
@given(st.sampled_from(TARGETS), st.booleans())
def test_a_planted_label_is_found(target, listed_with_others):
    label = f"TUBB|{target}" if listed_with_others else target
    for column in ("Metadata_label", "Metadata_target_list"):
        leaks = find_leaks(training("x", "y", **{column: ["TUBB", label]}), TARGETS, reagents())
        assert leaks[["target", "kind"]].to_numpy().tolist() == [[target, "label"]]
        control = {column: ["TUBB", label], "Metadata_modality": ["compound", "control"]}
        assert find_leaks(training("x", "y", **control), TARGETS, reagents()).empty


@settings(deadline=None, max_examples=50)
@given(st.sampled_from([0, 1]), st.sampled_from(["BBBBBBBBBB-N", "STEREOSALT-M"]))
def test_a_reagent_trained_on_is_found_by_number_and_by_structure(which, rest):
    number = reagents()["Metadata_broad_sample"][which]
    by_number = training("x", Metadata_broad_sample=number)
    by_structure = training(
        "x", Metadata_broad_sample="OTHER", Metadata_InChIKey=f"{KEYS[which][:15]}{rest}|ZZZ"
    )
    for table in (by_number, by_structure):
        leaks = find_leaks(table, TARGETS, reagents())
        wanted = set(reagents()["Metadata_target_list"][which].split("|"))
        assert set(leaks["target"]) == wanted
        assert set(leaks["kind"]) == {"reagent"}
    assert "InChIKey" in leaks["example"].iloc[0]


def test_accepted_kinds_do_not_count():
    leaks = find_leaks(training("a polo-like inhibitor", "HDAC3"), TARGETS, reagents())
    with pytest.raises(InputError, match=r"1 of 4 held-out targets .* HDAC3 \(gene HDAC3\)"):
        refuse_leaks(leaks, TARGETS, accepted=["mechanism"])
    refuse_leaks(leaks, TARGETS, accepted=["mechanism", "gene"])
    table = summarize_leaks(leaks, TARGETS).set_index("target")
    assert table.loc["PLK1", ["clean", "mechanism", "gene"]].tolist() == [False, 1, 0]
    assert table["clean"].tolist() == [False, True, True, False]


def test_bad_training_text_is_named(tmp_path):
    with pytest.raises(InputError, match="Metadata_split is missing"):
        find_leaks(pd.DataFrame({"text": ["x"]}), TARGETS, reagents())
    with pytest.raises(InputError, match="no row has"):
        find_leaks(training("x", split="test"), TARGETS, reagents())
    with pytest.raises(InputError, match="no column of text"):
        find_leaks(training("x").drop(columns="text"), TARGETS, reagents())
    with pytest.raises(InputError, match=r"training_text\.parquet is missing"):
        load_training_text(tmp_path)


def test_all_that_training_sees_is_collected():
    wells = pd.DataFrame(
        {
            "Metadata_Plate": "P",
            "Metadata_Well": ["A1", "A2", "A3"],
            "Metadata_broad_sample": ["BRD-K1", "BRD-K1", "BRD-K2"],
            "Metadata_moa": ["m", "m", "n"],
        }
    )
    prompts = pd.DataFrame(
        {
            "Metadata_broad_sample": ["BRD-K1", "BRD-K2", "UNSEEN"],
            "Metadata_modality": "compound",
            "prompt": ["one", "two", "not trained on"],
        }
    )
    dialogues = pd.DataFrame(
        {
            "Metadata_Plate": "P",
            "Metadata_Well": ["A1", "A2", "H12"],
            "question": "What changed?",
            "answer": ["Nothing.", "Nothing.", "PLK1."],
        }
    )
    table = collect_training_text(wells, prompts, dialogues, reagents(), "Metadata_moa")
    assert table["text"].tolist() == ["one", "two", "What changed? Nothing."]
    assert table["Metadata_label"].tolist() == ["m", "n", ""]
    assert table["Metadata_InChIKey"].tolist() == [*KEYS, ""]
    assert set(find_leaks(table, TARGETS, reagents())["kind"]) == {"reagent"}


def test_what_leaks_in_cpjump1s_official_split(shared):
    """The finds that docs/prompts.md tells of."""
    compounds = pd.read_csv(
        shared / "cpjump1_profiles/JUMP-Target-1_compound_metadata_additional_annotations.tsv",
        sep="\t",
        dtype=str,
        keep_default_na=False,
    )
    compounds = compounds[compounds["broad_sample"] != ""].assign(modality="compound", gene="")
    orfs = pd.read_csv(shared / "annotation/JUMP-Target-1_orf_metadata.tsv", sep="\t", dtype=str)
    orfs = orfs[orfs["gene"].notna() & (orfs["control_type"] != "negcon")]
    orfs = orfs.assign(modality="orf", pert_iname=orfs["gene"], target_list=orfs["gene"])
    kept = ["broad_sample", "modality", "pert_iname", "gene", "smiles", "target_list", "InChIKey"]
    wells = pd.concat([compounds, orfs])[kept].fillna("").add_prefix("Metadata_")
    wells = wells.assign(Metadata_Cell_type="U2OS", Metadata_Time=48)
    held_out = held_out_targets(wells, "official")
    is_test = [bool(held_out & set(row.split("|"))) for row in wells["Metadata_target_list"]]
    wells["Metadata_split"] = ["test" if test else "train" for test in is_test]
    knowledge = load_knowledge(shared / "annotation")
    described = describe_reagents(wells, knowledge).table
    genes = knowledge.look_up_genes(wells["Metadata_target_list"].str.split("|").explode())
    index = TermIndex(held_out_terms(held_out, described, genes))
    masked = build_prompts(wells, described, genes, max_tokens=160, held_out=index)
    fields = [text.split(": ")[1].split()[0] for text in masked.problems["prompt_field_masked"]]
    assert pd.Series(fields).value_counts().to_dict() == {"mechanism": 61, "function": 2}
    # What is left is a fault of the split: fludarabine is held out, its phosphate trained on.
    leaks = find_leaks(
        masked.table.drop(columns="Metadata_target_list"), held_out, described, genes
    )
    assert set(leaks["target"]) == {"ADA"}
    assert set(leaks["term"].str.lower()) == {"fludarabine"}
    assert "fludarabine-phosphate" in leaks["example"].iloc[0]
