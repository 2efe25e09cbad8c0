"""Annotation files into one gene table and the records of compounds."""

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captions.knowledge import describe_reagents, load_knowledge
from captions.knowledge.join import join_records
from captions.knowledge.tables import (
    COMPOUND_COLUMNS,
    GENE_COLUMNS,
    Records,
    Source,
    fill,
    first_sentence,
)
from data.errors import InputError
from data.phenotypes import INACTIVE_COMPOUNDS, INACTIVE_GENES, TARGETS


def records(name: str, columns: tuple[str, ...], *rows: dict) -> Records:
    return Records(Source(name, "1", "CC0", "here"), fill(pd.DataFrame(list(rows)), columns))


def genes(name: str, *rows: dict) -> Records:
    return records(name, GENE_COLUMNS, *rows)


def compounds(name: str, *rows: dict) -> Records:
    return records(name, COMPOUND_COLUMNS, *rows)


def mechanism_of(known, name: str) -> str:
    rows = known.compounds
    return rows.loc[rows["name"] == name, "mechanism"].iloc[0]


def test_the_packaged_table_knows_everything_simulated():
    known = load_knowledge()
    genes = [*(target.gene for target in TARGETS), *INACTIVE_GENES]
    compounds = [*(c for target in TARGETS for c in target.compounds), *INACTIVE_COMPOUNDS]
    assert (known.genes.loc[genes, ["function", "pathway"]] != "").all(axis=None)
    assert set(compounds) <= set(known.compounds["name"])
    assert (known.compounds["mechanism"] != "").all()
    assert known.genes.index.is_unique
    assert known.compounds["name"].is_unique


def test_annotation_files_win_and_each_is_optional(tmp_path):
    packaged = load_knowledge()
    pd.testing.assert_frame_equal(load_knowledge(tmp_path).genes, packaged.genes)
    (tmp_path / "refseq_gene_summaries.tsv").write_text(
        "symbol\tentrez_id\trefseq_summary\n"
        "TUBB\t1\tThis gene encodes a tubulin. More.\nABC1\t2\t\n"
    )
    (tmp_path / "repurposing_drugs_20200324.txt").write_text(
        '!Source\t"Hub"\r\n!File_date\t3/24/2020\r\npert_iname\tclinical_phase\tmoa\ttarget\r\n'
        "Nocodazole\tPhase 1\ta|b\tTUBB\r\nx\tPhase 1\r\n"
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
    assert known.genes.at["TUBB", "function_source"] == "NCBI RefSeq"
    assert known.genes.at["TUBB", "pathway_source"] == "packaged sentences"
    assert known.genes.at["TUBB", "entrez"] == "1"
    assert mechanism_of(known, "Nocodazole") == "a|b"
    assert mechanism_of(known, "x") == ""
    assert known.sources.at["Drug Repurposing Hub", "version"] == "3/24/2020"
    assert known.sources.at["NCBI RefSeq", "version"].startswith("sha256:")
    assert (known.sources[["version", "licence", "url"]] != "").all(axis=None)


def test_genes_are_joined_by_entrez_number_and_accession_not_by_older_symbols():
    known = join_records(
        [
            genes(
                "A", {"symbol": "GBA1", "entrez": "2629", "aliases": "GC|OLD", "uniprot": "P04062"}
            ),
            genes("B", {"symbol": "GBA", "entrez": "2629", "function": "Splits lipids"}),
            genes("C", {"symbol": "GLUC", "uniprot": "P04062", "names": "Glucosylceramidase"}),
            # MAL is a gene of its own, and an older symbol of another: no identifier, no join.
            genes("D", {"symbol": "TIRAP", "entrez": "114609", "aliases": "MAL|OLD"}),
            genes("E", {"symbol": "MAL", "pathway": "Myelin"}),
        ],
        [],
    )
    assert known.genes.at["GBA1", "function"] == "Splits lipids"
    assert known.genes.at["GBA1", "function_source"] == "B"
    assert known.genes.at["GBA1", "names"] == "Glucosylceramidase"
    assert known.genes.at["MAL", "pathway"] == "Myelin"
    assert known.genes.at["TIRAP", "pathway"] == ""
    symbols = ["GBA1", "GBA", "GLUC", "GC", "MAL", "OLD", "NONE"]
    current = [known.current_symbol(symbol) for symbol in symbols]
    assert current == ["GBA1", "GBA1", "GBA1", "GBA1", "MAL", "", ""]
    assert known.ambiguous == {"OLD"}
    assert known.problems["table_gene_renamed"] == ["GBA is now GBA1", "GLUC is now GBA1"]
    found = known.look_up_genes(["GBA", "MAL", "NONE"])
    assert found.index.tolist() == ["GBA", "MAL"]
    assert found.at["GBA", "current_symbol"] == "GBA1"


def test_identifiers_that_disagree_are_named():
    known = join_records(
        [
            genes("A", {"symbol": "X", "entrez": "1"}, {"symbol": "Y", "uniprot": "P1"}),
            genes("B", {"symbol": "Z", "entrez": "1", "uniprot": "P1", "function": "of X"}),
        ],
        [],
    )
    (text,) = known.problems["table_gene_identifiers_disagree"]
    assert text == "Z: Entrez 1 is X, UniProt P1 is Y"
    assert known.genes.at["X", "function"] == "of X"


@settings(deadline=None, max_examples=20)
@given(st.permutations(range(4)), st.lists(st.sampled_from("abc"), min_size=4, max_size=4))
def test_the_first_source_that_knows_a_field_wins(order, texts):
    parts = [genes(str(i), {"symbol": "G", "function": texts[i] if i % 2 else ""}) for i in order]
    first = next(i for i in order if i % 2)
    known = join_records(parts, [])
    assert known.genes.at["G", "function"] == texts[first]
    assert known.genes.at["G", "function_source"] == str(first)


def test_an_empty_table_is_named_and_not_fatal(tmp_path):
    (tmp_path / "refseq_gene_summaries.tsv").write_text("symbol\tentrez_id\trefseq_summary\n")
    (tmp_path / "repurposing_drugs_1.txt").write_text("")
    (tmp_path / "ReactomePathways.gmt").write_text("")
    (tmp_path / "drugbank_vocabulary.csv").write_text("")
    known = load_knowledge(tmp_path)
    assert sorted(known.problems["table_empty"]) == [
        "Drug Repurposing Hub",
        "DrugBank vocabulary",
        "NCBI RefSeq",
        "Reactome",
    ]
    assert known.genes.at["TUBB", "function"] != ""


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("refseq_gene_summaries.tsv", "gene\ttext\n", "column 'symbol' is missing"),
        ("drugbank_vocabulary.csv", "a,b\n1,2\n", "column 'Common name' is missing"),
        ("drug.target.interaction.tsv", "a\tb\n", "column 'DRUG_NAME' is missing"),
        ("drug.target.interaction.tsv.gz", "no gzip", "cannot be read as UTF-8"),
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
    """The counts that docs/prompts.md shows."""
    known = load_knowledge(shared / "annotation")
    symbols = pd.read_csv(shared / "annotation/JUMP-Target-1_orf_metadata.tsv", sep="\t")["gene"]
    found = known.look_up_genes(symbols.dropna())
    counts = (found[["function", "pathway", "entrez", "uniprot"]] != "").sum()
    assert symbols.nunique() == 175
    assert counts["function"] >= 169
    assert counts["pathway"] >= 170
    assert counts["uniprot"] >= 134  # DrugCentral has accessions where UniProt's table is a part
    listed = pd.read_csv(
        shared / "cpjump1_profiles/JUMP-Target-1_compound_metadata_additional_annotations.tsv",
        sep="\t",
        keep_default_na=False,
    )
    names = {"pert_iname": "pert_iname", "smiles": "smiles", "target_list": "target_list"}
    names |= {"broad_sample": "broad_sample", "InChIKey": "InChIKey"}
    drugs = listed[listed["broad_sample"] != ""].rename(
        columns={k: f"Metadata_{v}" for k, v in names.items()}
    )
    table, problems = describe_reagents(drugs.assign(Metadata_modality="compound"), known)
    assert len(table) == 306
    assert (table["mechanism"] != "").sum() == 299
    assert (table["drugbank_id"] != "").sum() == 189
    assert len(problems["compound_unknown"]) == 1
    assert "smiles_refused" not in problems
    # Quinine and quinidine have one InChIKey in JUMP's tables: number and name tell them apart.
    named = table.set_index("name")
    assert "sodium channel blocker" in named.at["quinidine", "mechanism"]
    assert "hemozoin" in named.at["quinine", "mechanism"]
