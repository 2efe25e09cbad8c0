"""The dictionary of facts: whole, and as the page says."""

import pandas as pd
from conftest import ROOT

from captions.dictionary import COMMAND, STRUCTURES, dictionary_page, explain
from captions.slots import FACT_SLOTS, Slot, feature_slot
from data.channels import STAINS
from data.normalize import feature_columns


def test_every_stain_and_every_fact_is_explained():
    assert set(STRUCTURES) == set(STAINS)
    sentences = [explain(slot) for slot in FACT_SLOTS]
    assert len(set(sentences)) == len(FACT_SLOTS)
    for sentence in sentences:
        what, _, reading = sentence.partition(". ")
        assert what.startswith(("How ", "Whether "))
        assert reading.endswith(".")  # every fact has a reading too
    assert explain(Slot("cytoplasm", "DNA/ER", "correlation")) == (
        "Whether DNA (chromatin) and ER (endoplasmic reticulum) lie in the same places in the "
        "cytoplasm."
    )


def test_the_page_lists_every_fact_without_any_features():
    page = dictionary_page([])
    rows = [line for line in page.splitlines() if line.startswith(("| cells", "| nuclei"))]
    assert len(rows) == len(FACT_SLOTS)
    assert all(row.endswith("| 0 | 0 |") for row in rows)


def test_the_page_is_up_to_date_and_counts_all_904_features(shared):
    path = next((shared / "cpjump1_profiles").glob("BR00117010*.csv.gz"))
    names = feature_columns(pd.read_csv(path, nrows=0))
    page = dictionary_page(names)
    page_file = ROOT / "docs" / "fact_dictionary.md"
    assert page_file.read_text(encoding="utf-8") == page, f"run {COMMAND}"
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines()]
    counts = [int(row[-2]) for row in rows if len(row) in (6, 7) and row[-2].isdigit()]
    no_morphology = sum(feature_slot(name) is None for name in names)
    assert sum(counts) + no_morphology == len(names) == 904
