"""Splits: no held-out target is ever on a training reagent."""

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings

from data.errors import InputError
from data.splits import assign_splits, check_no_overlap, choose_held_out_targets, list_targets

TARGETS = ("AURKB", "BRD4", "CDK1", "TUBB", "MTOR")


@st.composite
def wells_tables(draw: st.DrawFn) -> pd.DataFrame:
    """Reagents with any targets, each in one or more wells, beside two kinds of controls."""
    rows = [("DMSO", "control", "negcon", "")]
    for number in range(draw(st.integers(2, 8))):
        targets = sorted(draw(st.sets(st.sampled_from(TARGETS), max_size=3)))
        modality = draw(st.sampled_from(("compound", "crispr", "orf")))
        control = draw(st.sampled_from(("", "", "poscon")))
        rows += [(f"R{number}", modality, control, "|".join(targets))] * draw(st.integers(1, 3))
    names = ["broad_sample", "modality", "control_type", "target_list"]
    wells = pd.DataFrame(rows, columns=[f"Metadata_{name}" for name in names])
    return wells.sample(frac=1, random_state=draw(st.integers(0, 99)), ignore_index=True)


@settings(max_examples=60, deadline=None)
@given(wells_tables(), st.sets(st.sampled_from(TARGETS)), st.integers(0, 5))
def test_no_held_out_target_is_in_training(wells: pd.DataFrame, held: set[str], seed: int) -> None:
    held &= set(list_targets(wells))
    split = assign_splits(wells, held, seed=seed)
    check_no_overlap(split, held)
    for row in split.to_dict("records"):
        targets = set(row["Metadata_target_list"].split("|")) - {""}
        if row["Metadata_control_type"] == "negcon":
            assert row["Metadata_split"] == "train"
        elif targets:
            assert (row["Metadata_split"] == "test") == bool(targets & held)
    assert split.groupby("Metadata_broad_sample")["Metadata_split"].nunique().max() == 1


@settings(max_examples=60, deadline=None)
@given(wells_tables(), st.floats(0.05, 0.95), st.integers(0, 5))
def test_the_choice_depends_on_the_seed_alone(
    wells: pd.DataFrame, fraction: float, seed: int
) -> None:
    pairs = wells.drop_duplicates("Metadata_broad_sample")["Metadata_target_list"]
    counts = pairs.str.split("|").explode().loc[lambda target: target != ""].value_counts()
    assume((counts >= 2).any())
    chosen = choose_held_out_targets(wells, fraction, seed)
    assert chosen == choose_held_out_targets(wells.iloc[::-1], fraction, seed)
    assert 1 <= len(chosen) <= max(1, round(fraction * len(counts)))
    assert all(counts[target] >= 2 for target in chosen)
    assign_splits(wells, chosen)


def make_wells(rows: list[tuple[str, str, str, str]]) -> pd.DataFrame:
    names = ["broad_sample", "modality", "control_type", "target_list"]
    return pd.DataFrame(rows, columns=[f"Metadata_{name}" for name in names])


def test_targets_with_compound_and_gene_come_first() -> None:
    wells = make_wells(
        [(f"C{i}{j}", "compound", "", f"ONLY{i}") for i in range(9) for j in range(2)]
        + [("C", "compound", "", "BOTH"), ("G", "crispr", "", "BOTH")]
    )
    for seed in range(5):
        assert choose_held_out_targets(wells, 0.1, seed) == {"BOTH"}


def test_reagents_without_target_are_divided_by_name() -> None:
    wells = make_wells([(f"R{i}", "compound", "", "") for i in range(400)])
    half = assign_splits(wells, set())
    assert 150 < (half["Metadata_split"] == "test").sum() < 250
    fewer = assign_splits(wells.iloc[:50], set())
    assert fewer["Metadata_split"].equals(half["Metadata_split"].iloc[:50])
    other = assign_splits(wells, set(), seed=1)
    assert not other["Metadata_split"].equals(half["Metadata_split"])
    assert (assign_splits(wells, set(), inactive_test=0)["Metadata_split"] == "train").all()


def test_leaks_are_named() -> None:
    wells = make_wells([("C", "compound", "", "TUBB|MTOR"), ("G", "crispr", "", "TUBB")])
    with pytest.raises(InputError, match="held-out target TUBB occurs on training reagent G"):
        check_no_overlap(wells.assign(Metadata_split=["test", "train"]), {"TUBB"})
    check_no_overlap(wells.assign(Metadata_split=["test", "train"]), {"MTOR"})
    both = pd.concat([wells.iloc[:1]] * 2).assign(Metadata_split=["test", "train"])
    with pytest.raises(InputError, match="reagent C is in both"):
        check_no_overlap(both)


def test_misspelt_targets_and_bad_fractions_are_refused() -> None:
    wells = make_wells([("C", "compound", "", "TUBB"), ("N", "control", "negcon", "MTOR")])
    with pytest.raises(InputError, match="TUBULIN occur in no well"):
        assign_splits(wells, {"TUBULIN"})
    for fraction in (0, 1, -0.1, np.nan):
        with pytest.raises(InputError, match="expected between 0 and 1"):
            choose_held_out_targets(wells, fraction, 0)
    with pytest.raises(InputError, match="no target is shared by two reagents"):
        choose_held_out_targets(wells, 0.5, 0)
