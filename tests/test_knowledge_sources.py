"""Each source as its owner publishes it: small files of the real layout, written here."""

import gzip
import io
import zipfile
from pathlib import Path

import pandas as pd
import pytest
import responses

from captions.knowledge import drugcentral
from captions.knowledge.drugbank import find_drugbank, read_full, read_vocabulary
from captions.knowledge.drugcentral import read_drugcentral
from captions.knowledge.gene_sets import read_gene_ontology
from captions.knowledge.repurposing_hub import read_repurposing_hub
from captions.knowledge.uniprot import (
    ask_uniprot,
    function_sentence,
    protein_names,
    read_uniprot,
)
from data.errors import InputError

DRUGBANK = """<?xml version="1.0" encoding="UTF-8"?>
<drugbank xmlns="http://www.drugbank.ca" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
 version="5.1" exported-on="2025-01-02">
<drug type="small molecule" created="2005-06-13" updated="2024-01-02">
  <drugbank-id primary="true">DB00563</drugbank-id>
  <drugbank-id>APRD00353</drugbank-id>
  <name>Methotrexate</name>
  <mechanism-of-action>Inhibits the enzyme.</mechanism-of-action>
  <synonyms>
    <synonym language="english" coder="">Amethopterin</synonym>
    <synonym language="english" coder="inn">Methotrexate</synonym>
  </synonyms>
  <calculated-properties>
    <property><kind>logP</kind><value>-0.5</value><source>ChemAxon</source></property>
    <property><kind>InChIKey</kind><value>FBOZXECLQNJBKD-ZDUSSCGKSA-N</value><source/></property>
  </calculated-properties>
  <pathways><pathway><smpdb-id>SMP1</smpdb-id><name>Folate</name>
    <drugs><drug><drugbank-id>DB99999</drugbank-id><name>Not a record</name></drug></drugs>
  </pathway></pathways>
  <targets>
    <target position="1"><id>BE1</id><name>Dihydrofolate reductase</name>
      <organism>Humans</organism><actions><action>inhibitor</action></actions>
      <known-action>yes</known-action>
      <polypeptide id="P00374" source="Swiss-Prot"><gene-name>DHFR</gene-name></polypeptide>
    </target>
    <target position="2"><id>BE2</id><name>Thymidylate synthase</name>
      <organism>Escherichia coli</organism><actions><action>inhibitor</action></actions>
      <known-action>yes</known-action></target>
    <target position="3"><id>BE3</id><name>Albumin</name><organism>Humans</organism>
      <actions/><known-action>unknown</known-action></target>
  </targets>
</drug>
<drug type="biotech" created="2005-06-13" updated="2024-01-02">
  <drugbank-id primary="true">DB00001</drugbank-id><name>Lepirudin</name>
  <synonyms/><targets/>
</drug>
</drugbank>
"""

UNIPROT_HEADER = "Entry\tProtein names\tGene Names\tFunction [CC]\tGeneID\n"
MTOR = (
    "P42345\tSerine/threonine-protein kinase mTOR (EC 2.7.11.1) (FRAP)\tMTOR FRAP FRAP1\t"
    "FUNCTION: Kinase that regulates growth (PubMed:1, PubMed:2). More. {ECO:0000269|PubMed:1}.\t"
    "2475;\n"
)


@pytest.mark.parametrize("packed", [False, True])
def test_drugbank_is_read_drug_by_drug(tmp_path, packed):
    path = tmp_path / ("full database.xml" + ".zip" * packed)
    if packed:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("full database.xml", DRUGBANK)
    else:
        path.write_text(DRUGBANK)
    source, rows = read_full(path)
    assert source.version == "5.1 of 2025-01-02"
    assert rows["name"].tolist() == ["Methotrexate", "Lepirudin"]
    first = rows.iloc[0]
    assert first["drugbank_id"] == "DB00563"
    assert first["inchikey"] == "FBOZXECLQNJBKD-ZDUSSCGKSA-N"
    assert first["synonyms"] == "Amethopterin|Methotrexate"
    assert first["mechanism"] == "Dihydrofolate reductase inhibitor"
    assert first["targets"] == "DHFR"
    assert rows.loc[1, ["mechanism", "targets", "inchikey"]].tolist() == ["", "", ""]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (DRUGBANK[:900], "not a readable DrugBank XML .*line"),
        ("<other/>", "its root is <other>"),
        ("", "not a readable DrugBank XML"),
    ],
)
def test_a_damaged_drugbank_is_named(tmp_path, text, message):
    path = tmp_path / "full database.xml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        read_full(path)
    assert str(path) in str(error.value)


def test_drugbank_is_a_file_or_a_release(tmp_path, monkeypatch):
    path = tmp_path / "mine.xml"
    path.write_text(DRUGBANK)
    assert find_drugbank(str(path)) == path
    with pytest.raises(InputError, match=r"neither a file .* nor a release"):
        find_drugbank("nowhere.xml")
    for name in ("DRUGBANK_USERNAME", "DRUGBANK_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match=r"release 5\.1\.13 was not downloaded: set DRUGBANK_USER"):
        find_drugbank("5.1.13")


def test_the_open_vocabulary(tmp_path):
    path = tmp_path / "drugbank vocabulary.csv"
    path.write_text(
        "DrugBank ID,Accession Numbers,Common name,CAS,UNII,Synonyms,Standard InChI Key\n"
        'DB00001,BIOD1,Lepirudin,1-2,Y4,"[Leu1, Thr2]-63 | Hirudin",AAAAAAAAAAAAAA-BBBBBBBBBB-N\n'
    )
    source, rows = read_vocabulary(path)
    assert source.licence == "CC0 1.0"
    assert rows.loc[0, "synonyms"] == "[Leu1, Thr2]-63|Hirudin"
    assert rows.loc[0, "inchikey"] == "AAAAAAAAAAAAAA-BBBBBBBBBB-N"


def test_the_repurposing_hub_is_joined_to_its_samples(tmp_path):
    drugs, samples = tmp_path / "repurposing_drugs_1.txt", tmp_path / "repurposing_samples_1.txt"
    drugs.write_text(
        "!File_date\t3/24/2020\npert_iname\tmoa\ttarget\nquinine\tx inhibitor|y\tG1|G2\nlone\t\t\n"
    )
    header = "broad_id\tpert_iname\tvendor_name\tInChIKey\n"
    samples.write_text(
        "!Source\thub\n" + header + "BRD-K00000001-001-01-1\tquinine\tQuinine HCl\tAAA-B-C\n"
        "BRD-A00000002-003-01-1\tquinine\tQuinine HCl\tAAA-D-C\n"
    )
    source, rows = read_repurposing_hub(drugs, samples)
    assert source.version == "3/24/2020"
    first = rows.set_index("name").loc["quinine"]
    assert first["broad_id"] == "BRD-K00000001|BRD-A00000002"
    assert first["inchikey"] == "AAA-B-C|AAA-D-C"
    assert first["synonyms"] == "Quinine HCl"
    assert rows.set_index("name").loc["lone"].tolist() == [""] * 6


def test_drugcentral_gives_mechanisms_and_names_of_proteins(tmp_path):
    columns = drugcentral._COLUMNS
    rows = [
        ["a", "1", "Kinase X", "P1", "X", "1", "INHIBITOR", "Homo sapiens"],
        ["a", "1", "Complex", "P1|P2", "X|Y", "1", "OTHER", "Homo sapiens"],
        ["a", "1", "Kinase Z", "P3", "Z", "", "INHIBITOR", "Homo sapiens"],
        ["a", "1", "Kinase X", "P9", "X", "1", "INHIBITOR", "Mus musculus"],
    ]
    path = tmp_path / "drug.target.interaction.tsv.gz"
    with gzip.open(path, "wt") as file:
        quoted = [[f'"{cell}"' if cell else "" for cell in row] for row in [columns, *rows]]
        file.write("\n".join("\t".join(row) for row in quoted))
    structures = tmp_path / "structures.smiles.tsv"
    structures.write_text("SMILES\tInChI\tInChIKey\tID\tINN\nC\tx\tKEY-A-N\t1\ta\n")
    (_, drugs), (_, genes) = read_drugcentral(path, structures)
    assert drugs.loc[0, ["name", "mechanism", "targets", "inchikey"]].tolist() == [
        "a",
        "Kinase X inhibitor|Complex ligand",
        "X|Y",
        "KEY-A-N",
    ]
    assert genes[["symbol", "uniprot", "names"]].to_numpy().tolist() == [
        ["X", "P1", "Kinase X"],
        ["Z", "P3", "Kinase Z"],
    ]
    assert read_drugcentral(path)[0].rows.loc[0, "inchikey"] == ""


def test_gene_ontology_loses_its_numbers_and_keeps_its_year(tmp_path):
    path = tmp_path / "GO_Biological_Process_2021.gmt"
    path.write_text("cell growth (GO:0016049)\t\t" + "\t".join(f"G{i}" for i in range(15)) + "\n")
    source, rows = read_gene_ontology(path)
    assert source.version == "2021"
    assert set(rows["pathway"]) == {"cell growth"}


def test_a_saved_uniprot_table(tmp_path):
    path = tmp_path / "uniprot_human.tsv"
    path.write_text(UNIPROT_HEADER + MTOR)
    row = read_uniprot(path).rows.iloc[0]
    assert row["symbol"] == "MTOR"
    assert row["aliases"] == "FRAP|FRAP1"
    assert row["entrez"] == "2475"
    assert row["names"] == "Serine/threonine-protein kinase mTOR|FRAP"
    assert row["protein"] == "Kinase that regulates growth"
    path.write_text("Entry\tProtein names\tGene Names\tFunction [CC]\nP1\tX\tG\t\n")
    assert read_uniprot(path).rows.iloc[0]["entrez"] == ""


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("X", ["X"]),
        (
            "Poly(ADP-ribose) polymerase 1 (PARP-1) (EC 2.4.2.30)",
            ["Poly(ADP-ribose) polymerase 1", "PARP-1"],
        ),
        ("A (B (C) d) [Cleaved into: E (F)]", ["A", "B (C) d"]),
        ("", []),
    ],
)
def test_protein_names(text, names):
    assert list(protein_names(text)) == names


def test_function_sentence():
    assert function_sentence("FUNCTION: Moves cells (PubMed:1). More. {ECO:1}.") == "Moves cells"
    assert function_sentence("") == ""


def answer(rows: str) -> tuple[int, dict, bytes]:
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="w") as file:
        file.write((UNIPROT_HEADER + rows).encode())
    return 200, {"X-UniProt-Release": "2025_04"}, packed.getvalue()


@responses.activate
def test_uniprot_is_asked_once_for_each_gene(tmp_path):
    asked = []

    def reply(request):
        asked.append(request.params["query"])
        return answer(MTOR if "MTOR" in request.params["query"] else "")

    responses.add_callback(responses.GET, "https://rest.uniprot.org/uniprotkb/search", reply)
    source, rows = ask_uniprot({"MTOR", "NOSUCH"}, tmp_path)
    assert source.version == "release 2025_04"
    assert rows["symbol"].tolist() == ["MTOR"]
    assert len(asked) == 1
    assert "organism_id:9606" in asked[0]
    again = ask_uniprot({"MTOR", "NOSUCH"}, tmp_path)
    assert len(asked) == 1  # the gene without an answer is remembered too
    pd.testing.assert_frame_equal(again.rows, rows)
    ask_uniprot({"MTOR", "TUBB"}, tmp_path)
    assert len(asked) == 2
    assert "MTOR" not in asked[1]


@responses.activate
def test_a_silent_uniprot_is_named_and_what_was_answered_is_kept(tmp_path):
    responses.add_callback(
        responses.GET, "https://rest.uniprot.org/uniprotkb/search", lambda _: answer(MTOR)
    )
    ask_uniprot({"MTOR"}, tmp_path)
    responses.replace(responses.GET, "https://rest.uniprot.org/uniprotkb/search", status=503)
    with pytest.raises(InputError, match="UniProt did not answer for TUBB"):
        ask_uniprot({"TUBB", "MTOR"}, tmp_path)
    assert ask_uniprot({"MTOR"}, tmp_path).rows["symbol"].tolist() == ["MTOR"]
    assert [path.name for path in Path(tmp_path).iterdir()] == ["uniprot_human_asked.tsv"]
