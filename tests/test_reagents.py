"""Reagents found in tables by identifier; what cannot be found or read is named."""

import sys

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_knowledge import compounds, genes

from captions.knowledge import describe_reagents
from captions.knowledge.join import join_records
from captions.knowledge.reagents import normalize_name
from captions.knowledge.structures import clean_structure
from data.errors import InputError

ETHANOL, METHANOL = "LFQSCWFLJHTTHZ-UHFFFAOYSA-N", "OKKJLVBELUTLKV-UHFFFAOYSA-N"


def well(**changes) -> dict:
    row = {
        "broad_sample": "BRD-K00000001-001-01-1",
        "modality": "compound",
        "pert_iname": "ethanol",
        "gene": "",
        "smiles": "CCO",
        "target_list": "",
    }
    return {f"Metadata_{key}": value for key, value in (row | changes).items()}


def describe(row: dict, *parts, clean: bool = True):
    knowledge = join_records([genes("G", {"symbol": "GBA1", "aliases": "GBA|OLD"})], parts)
    table, problems = describe_reagents(pd.DataFrame([row]), knowledge, clean)
    return table.iloc[0], problems


HUB = (
    "Hub",
    {"name": "Ethanol", "broad_id": "BRD-K00000001", "inchikey": ETHANOL, "mechanism": "by number"},
    {"name": "alcohol", "inchikey": ETHANOL, "mechanism": "by key"},
    {"name": "wood spirit", "inchikey": METHANOL, "mechanism": "other"},
)


def test_the_number_wins_then_the_key_then_the_first_block():
    found, problems = describe(well(), compounds(*HUB))
    assert (found["mechanism"], found["matched_by"]) == ("by number", "Hub: broad_id")
    assert problems == {}
    found, _ = describe(well(broad_sample="X", pert_iname="alcohol"), compounds(*HUB))
    assert (found["mechanism"], found["matched_by"]) == ("by key", "Hub: InChIKey")
    other = {"name": "EtOH", "inchikey": ETHANOL[:15] + "SOMEOTHER-N", "mechanism": "by block"}
    found, _ = describe(well(broad_sample="X"), compounds("Hub", other))
    assert (found["mechanism"], found["matched_by"]) == ("by block", "Hub: connectivity")


def test_records_that_say_different_things_are_not_chosen_between():
    found, problems = describe(well(broad_sample="X", pert_iname="?"), compounds(*HUB))
    assert found["mechanism"] == ""
    assert problems["compound_ambiguous"] == ["X (?): Ethanol, alcohol in Hub"]


def test_a_name_does_not_overrule_a_structure():
    found, problems = describe(
        well(broad_sample="X", pert_iname="wood spirit", smiles="CCCCCC"), compounds(*HUB)
    )
    assert found["mechanism"] == ""
    assert problems["compound_name_conflict"] == ["X (wood spirit): other structure in Hub"]
    found, _ = describe(
        well(broad_sample="X", pert_iname="Wood-Spirit", smiles=""), compounds(*HUB)
    )
    assert (found["mechanism"], found["matched_by"]) == ("other", "Hub: name")


def test_names_of_records_found_by_identifier_find_others():
    named = compounds("Names", {"name": "Spirit of wine", "mechanism": "drunk", "targets": "GBA1"})
    hub = compounds(
        "Hub", {"name": "Spirit-of-wine", "inchikey": ETHANOL, "synonyms": "EtOH|brandy"}
    )
    found, _ = describe(well(broad_sample="X"), hub, named)
    assert found["mechanism"] == "drunk"
    assert (found["mechanism_source"], found["targets_source"]) == ("Names", "Names")
    assert found["matched_by"] == "Hub: InChIKey|Names: name"
    assert found["synonyms"] == "Spirit-of-wine|EtOH|brandy|Spirit of wine"


def test_the_first_source_with_a_field_fills_it():
    empty = compounds("A", {"name": "ethanol", "inchikey": ETHANOL, "drugbank_id": "DB1"})
    later = compounds(
        "B", {"name": "ethanol", "inchikey": ETHANOL, "drugbank_id": "DB2", "mechanism": "m"}
    )
    found, _ = describe(well(), empty, later)
    assert (found["drugbank_id"], found["drugbank_id_source"]) == ("DB1", "A")
    assert (found["mechanism"], found["mechanism_source"]) == ("m", "B")


def test_salts_are_stripped_before_the_lookup_and_keys_given_are_used():
    record = compounds(
        "A", {"name": "x", "inchikey": "QTBSBXVTEAMEQO-UHFFFAOYSA-N", "mechanism": "m"}
    )
    found, _ = describe(well(smiles="[Na+].[O-]C(=O)C"), record)
    assert (found["smiles"], found["mechanism"]) == ("CC(=O)O", "m")
    given_key = well(smiles="", InChIKey="QTBSBXVTEAMEQO-UHFFFAOYSA-N")
    assert describe(given_key, record)[0]["mechanism"] == "m"
    kept, _ = describe(well(smiles="[Na+].[O-]C(=O)C"), record, clean=False)
    assert kept["smiles"] == "[Na+].[O-]C(=O)C"


@pytest.mark.parametrize("smiles", ["C1CC", "nonsense", "C(C)(C)(C)(C)C", "*#*#"])
def test_a_smiles_that_rdkit_refuses_is_left_out_and_named(smiles):
    found, problems = describe(well(smiles=smiles), compounds(*HUB))
    assert found["smiles"] == ""
    assert problems["smiles_refused"] == [f"BRD-K00000001-001-01-1 (ethanol): {smiles}"]
    assert found["mechanism"] == "by number"


def test_unknown_and_renamed_are_named():
    row, problems = describe(well(pert_iname="novel", smiles="", target_list="GBA|NEW|GBA1"))
    assert problems == {
        "compound_unknown": ["BRD-K00000001-001-01-1 (novel)"],
        "gene_renamed": ["GBA is now GBA1"],
        "gene_unknown": ["NEW"],
    }
    assert row["matched_by"] == ""
    control = well(modality="control", pert_iname="DMSO", target_list="")
    assert describe(control)[1] == {}
    guide = well(modality="crispr", pert_iname="NEW", gene="NEW", target_list="NEW", smiles="")
    row, problems = describe(guide)
    assert (row["name"], problems) == ("NEW", {"gene_unknown": ["NEW"]})


def test_without_rdkit_there_is_one_clear_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit", None)
    clean_structure.cache_clear()
    with pytest.raises(
        InputError, match=r"RDKit is not installed: pip install .*--clean_smiles false"
    ):
        describe(well())
    assert describe(well(smiles=""))[0]["smiles"] == ""  # nothing to clean, nothing needed
    assert describe(well(), clean=False)[0]["smiles"] == "CCO"


@settings(deadline=None, max_examples=100)
@given(st.text(alphabet="abcXYZ019", min_size=1), st.text(alphabet="-_ .()'", max_size=3))
def test_names_are_equal_however_they_are_spelt(name, separators):
    spelt = separators.join(name.swapcase())
    assert normalize_name(spelt) == normalize_name(name)
