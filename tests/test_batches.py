"""Which wells meet in a batch of phase align: properties of TargetBatches."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contrastive.batches import TargetBatches

LABEL = "Metadata_target_list"


@st.composite
def screens(draw) -> pd.DataFrame:
    """Wells of a random screen: reagents with 0 to 2 targets, on 1 to 3 plates."""
    n_targets = draw(st.integers(1, 5))
    rows = []
    for number in range(draw(st.integers(n_targets, 12))):
        if number < n_targets:
            targets = [number]  # so that every target has a reagent
        else:
            targets = draw(st.lists(st.integers(0, n_targets - 1), max_size=2, unique=True))
        modality = draw(st.sampled_from(["compound", "crispr", "orf"]))
        for plate in draw(st.lists(st.integers(0, 2), min_size=1, max_size=3)):
            rows.append((f"R{number}", f"P{plate}", modality, "|".join(f"T{t}" for t in targets)))
    rows += [("DMSO", f"P{i % 3}", "control", "") for i in range(draw(st.integers(0, 4)))]
    columns = ["Metadata_broad_sample", "Metadata_Plate", "Metadata_modality", LABEL]
    return pd.DataFrame(rows, columns=columns)


def draw_batch(wells: pd.DataFrame, targets: int, unlabelled: int, seed: int, step: int):
    return TargetBatches(wells, LABEL, targets, unlabelled, seed).draw(step)


sizes = {
    "targets": st.integers(1, 6),
    "unlabelled": st.integers(0, 5),
    "seed": st.integers(0, 99),
    "step": st.integers(0, 999),
}
fast = settings(max_examples=60, deadline=None)


@fast
@given(wells=screens(), **sizes)
def test_a_batch_is_made_of_targets_reagents_and_wells(wells, targets, unlabelled, seed, step):
    rows, labels, reagents = draw_batch(wells, targets, unlabelled, seed, step)
    names = wells[LABEL].str.split("|")
    n_labels = len({name for found in names for name in found if name})
    n_targets = min(targets, n_labels)
    n_unlabelled = min(unlabelled, int((wells[LABEL] == "").sum()))
    assert len(reagents) == 2 * n_targets
    assert len(rows) == len(labels) == 4 * n_targets + n_unlabelled

    drawn = wells.iloc[rows].reset_index(drop=True)
    for number, reagent in enumerate(reagents):
        assert set(drawn["Metadata_broad_sample"][2 * number : 2 * number + 2]) == {reagent}
    label_names = sorted({name for found in names for name in found if name})
    for i in range(4 * n_targets):
        assert label_names[labels[i]] in drawn[LABEL][i].split("|")
    # Four wells a target, each target once; wells without a target are like nothing else.
    counts = pd.Series(labels).value_counts()
    assert sorted(counts.tolist()) == [1] * n_unlabelled + [4] * n_targets
    assert (drawn[LABEL][4 * n_targets :] == "").all()
    assert len(set(rows[4 * n_targets :])) == n_unlabelled


@fast
@given(wells=screens(), **sizes)
def test_replicates_lie_on_two_plates_and_pairs_cross_modalities_where_they_can(
    wells, targets, unlabelled, seed, step
):
    rows, labels, reagents = draw_batch(wells, targets, unlabelled, seed, step)
    plates = wells["Metadata_Plate"].to_numpy()
    modality = dict(zip(wells["Metadata_broad_sample"], wells["Metadata_modality"], strict=True))
    plates_of = wells.groupby("Metadata_broad_sample")["Metadata_Plate"].nunique()
    for number, reagent in enumerate(reagents):
        first, second = plates[rows[2 * number]], plates[rows[2 * number + 1]]
        assert (first != second) == (plates_of[reagent] > 1)
    label_names = sorted({name for found in wells[LABEL].str.split("|") for name in found if name})
    for number in range(0, len(reagents), 2):
        one, other = reagents[number : number + 2]
        label = label_names[labels[2 * number]]
        sisters = {
            r
            for r, names in zip(wells["Metadata_broad_sample"], wells[LABEL], strict=True)
            if label in names.split("|")
        } - set(reagents[:number])  # a reagent of several targets is drawn for one of them
        assert (one != other) == (len(sisters) > 1)
        elsewhere = any(modality[sister] != modality[one] for sister in sisters)
        assert (modality[one] != modality[other]) == elsewhere


@fast
@given(wells=screens(), **sizes)
def test_seed_and_step_say_it_all(wells, targets, unlabelled, seed, step):
    batches = TargetBatches(wells, LABEL, targets, unlabelled, seed)
    batches.draw(step + 1)  # what was drawn before leaves no trace
    for one, again in zip(
        batches.draw(step), draw_batch(wells, targets, unlabelled, seed, step), strict=True
    ):
        assert np.array_equal(one, again)


@pytest.fixture
def screen() -> pd.DataFrame:
    rows = [(f"R{i}", f"P{p}", "compound", f"T{i // 2}") for i in range(20) for p in range(2)]
    columns = ["Metadata_broad_sample", "Metadata_Plate", "Metadata_modality", LABEL]
    return pd.DataFrame(rows, columns=columns)


def test_other_steps_and_seeds_draw_other_batches(screen):
    drawn = {
        (seed, step): tuple(draw_batch(screen, 4, 0, seed, step)[0])
        for seed in range(3)
        for step in range(3)
    }
    assert len(set(drawn.values())) == 9


def test_every_well_has_its_turn(screen):
    batches = TargetBatches(screen, LABEL, 4, 0, 0)
    seen = {row for step in range(100) for row in batches.draw(step)[0]}
    assert seen == set(range(len(screen)))


def test_a_reagent_of_two_targets_is_drawn_for_one_of_them():
    columns = ["Metadata_broad_sample", "Metadata_Plate", "Metadata_modality", LABEL]
    wells = pd.DataFrame([("R", "P1", "compound", "A|B"), ("S", "P1", "orf", "B")], columns=columns)
    for step in range(8):
        rows, labels, _ = draw_batch(wells, 2, 0, 0, step)
        assert 0 in rows
        assert len(set(labels[rows == 0])) == 1
