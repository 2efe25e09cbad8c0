"""Annotation files into a gene and a compound table."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captions.knowledge import first_sentence, load_knowledge
from data.errors import InputError
from data.phenotypes import INACTIVE_COMPOUNDS, INACTIVE_GENES, TARGETS


def test_the_packaged_table_knows_everything_simulated():
    known = load_knowledge()
    genes = [*(target.gene for target in TARGETS), *INACTIVE_GENES]
    compounds = [*(c for target in TARGETS for c in target.compounds), *INACTIVE_COMPOUNDS]
    assert (known.genes.loc[genes] != "").all(axis=None)
    assert (known.compounds.loc[[name.lower() for name in compounds]] != "").all(axis=None)
    assert known.genes.index.is_unique
    assert known.compounds.index.is_unique


def test_annotation_files_win_and_each_is_optional(tmp_path):
    packaged = load_knowledge()
    alone = load_knowledge(tmp_path).genes
    assert alone.loc[packaged.genes.index].to_numpy().tolist() == packaged.genes.to_numpy().tolist()
    (tmp_path / "refseq_gene_summaries.tsv").write_text(
        "symbol\tentrez_id\trefseq_summary\n"
        "TUBB\t1\tThis gene encodes a tubulin. More.\nABC1\t2\t\n"
    )
    (tmp_path / "repurposing_drugs_20200324.txt").write_text(
        '!Source\t"Hub"\r\npert_iname\tclinical_phase\tmoa\r\n'
        "Nocodazole\tPhase 1\ta|b\r\nx\tPhase 1\r\n"
    )
    big, small = "\t".join(f"G{i}" for i in range(40)), "\t".join(f"G{i}" for i in range(20))
    (tmp_path / "ReactomePathways.gmt").write_text(
        f"Big\tR-1\t{big}\nSmall\tR-2\t{small}\nTiny\tR-3\tG0\tG1\n"
    )
    known = load_knowledge(tmp_path)
    assert known.genes.at["TUBB", "function"] == "A tubulin"
    assert known.genes.at["TUBB", "pathway"] == packaged.genes.at["TUBB", "pathway"]
    assert known.genes.at["KIF11", "function"] == packaged.genes.at["KIF11", "function"]
    assert known.genes.at["G0", "pathway"] == "Small"
    assert known.genes.at["G39", "pathway"] == "Big"
    assert known.genes.at["G0", "function"] == ""
    assert "ABC1" not in known.genes.index
    assert known.compounds.at["nocodazole", "mechanism"] == "a, b"
    assert "x" not in known.compounds.index


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("refseq_gene_summaries.tsv", "gene\ttext\n", "column 'symbol' is missing"),
        ("refseq_gene_summaries.tsv", "", "column 'symbol' is missing"),
        ("repurposing_drugs_1.txt", "!a\npert_iname\tx\n", "column 'moa' is missing"),
        ("ReactomePathways.gmt", "A\tR-1\tG1\nbroken\n", "line 2 is no gene set"),
        ("refseq_gene_summaries.tsv", b"symbol\xff\xfe", "cannot be read as UTF-8"),
    ],
)
def test_a_bad_file_is_named(tmp_path, file, content, message):
    path = tmp_path / file
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message) as error:
        load_knowledge(tmp_path)
    assert file in str(error.value)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere does not exist"):
        load_knowledge(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("summary", "sentence"),
    [
        ("This gene encodes a motor protein. It moves.", "A motor protein"),
        ("The protein encoded by this gene is an enzyme (EC 1.1.1). More.", "An enzyme (EC 1.1.1)"),
        (
            "This gene encodes subunits of E. coli like pores. B.",
            "This gene encodes subunits of E. coli like pores",
        ),
        ("Binds nociceptin/orphanin FQ. This receptor", "Binds nociceptin/orphanin FQ"),
        ("", ""),
    ],
)
def test_first_sentence(summary, sentence):
    assert first_sentence(summary) == sentence


@given(st.text())
def test_first_sentence_takes_any_text(text):
    assert len(first_sentence(text)) <= len(text) + 2  # a ligature's capital is longer


def test_real_annotation_covers_cpjump1(shared):
    import pandas as pd

    known = load_knowledge(shared / "annotation")
    genes = pd.read_csv(shared / "annotation/JUMP-Target-1_crispr_metadata.tsv", sep="\t")["gene"]
    genes = genes.dropna().unique()
    drugs = pd.read_csv(shared / "annotation/JUMP-Target-1_compound_metadata.tsv", sep="\t")
    names = drugs["pert_iname"].dropna().str.lower()
    described = known.genes.reindex(genes).fillna("") != ""
    assert described["function"].sum() >= 150
    assert described["pathway"].sum() >= 140
    assert names.isin(known.compounds.index).mean() >= 0.95
