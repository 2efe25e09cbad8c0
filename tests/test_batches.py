"""Which wells meet in a batch of phase align: properties of TargetBatches."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contrastive.batches import TargetBatches
from data.errors import InputError

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


def batches_of(wells: pd.DataFrame, targets: int, unlabelled: int, seed: int, **more):
    return TargetBatches(wells, LABEL, targets, unlabelled, seed, **more)


def draw_batch(wells: pd.DataFrame, targets: int, unlabelled: int, seed: int, step: int, **more):
    batch = batches_of(wells, targets, unlabelled, seed, **more).draw(step)
    return batch.rows, batch.reagents


def shared_targets(wells: pd.DataFrame, reagents: list[str]) -> set[str]:
    """Targets that all of some reagents have."""
    lists = wells.drop_duplicates("Metadata_broad_sample").set_index("Metadata_broad_sample")[LABEL]
    return set.intersection(*(set(lists[reagent].split("|")) for reagent in reagents))


sizes = {
    "targets": st.integers(1, 6),
    "unlabelled": st.integers(0, 5),
    "seed": st.integers(0, 99),
    "step": st.integers(0, 999),
}
fast = settings(max_examples=30, deadline=None)


per_target = st.integers(1, 4)


@fast
@given(wells=screens(), per_target=per_target, **sizes)
def test_a_batch_is_made_of_targets_reagents_and_wells(
    wells, per_target, targets, unlabelled, seed, step
):
    rows, reagents = draw_batch(
        wells, targets, unlabelled, seed, step, reagents_per_target=per_target
    )
    names = wells[LABEL].str.split("|")
    n_labels = len({name for found in names for name in found if name})
    n_targets = min(targets, n_labels)
    n_unlabelled = min(unlabelled, int((wells[LABEL] == "").sum()))
    assert len(reagents) == per_target * n_targets
    assert len(rows) == 2 * len(reagents) + n_unlabelled

    drawn = wells.iloc[rows].reset_index(drop=True)
    for number, reagent in enumerate(reagents):
        assert set(drawn["Metadata_broad_sample"][2 * number : 2 * number + 2]) == {reagent}
    groups = [set(reagents[i : i + per_target]) for i in range(0, len(reagents), per_target)]
    assert all(shared_targets(wells, list(group)) - {""} for group in groups)
    assert sum(map(len, groups)) == len(set(reagents))  # no reagent is drawn for two targets
    assert (drawn[LABEL][2 * len(reagents) :] == "").all()
    assert len(set(rows[2 * len(reagents) :])) == n_unlabelled


@fast
@given(wells=screens(), **sizes)
def test_labels_are_target_lists_over_their_lengths(wells, targets, unlabelled, seed, step):
    batches = batches_of(wells, targets, unlabelled, seed)
    for row, names in enumerate(wells[LABEL].str.split("|")):
        known = dict(zip(batches.names, batches.labels[batches.reagent_of[row]], strict=True))
        listed = {name: 1 / len(names) for name in names if name}
        assert {name: value for name, value in known.items() if value} == pytest.approx(listed)
    same = wells["Metadata_Plate"].to_numpy()[:, None] == wells["Metadata_Plate"].to_numpy()
    assert np.array_equal(batches.plate_of[:, None] == batches.plate_of, same)


@fast
@given(wells=screens(), per_target=st.integers(2, 3), **sizes)
def test_replicates_lie_on_two_plates_and_reagents_cross_modalities_where_they_can(
    wells, per_target, targets, unlabelled, seed, step
):
    rows, reagents = draw_batch(
        wells, targets, unlabelled, seed, step, reagents_per_target=per_target
    )
    plates = wells["Metadata_Plate"].to_numpy()
    modality = dict(zip(wells["Metadata_broad_sample"], wells["Metadata_modality"], strict=True))
    plates_of = wells.groupby("Metadata_broad_sample")["Metadata_Plate"].nunique()
    for number, reagent in enumerate(reagents):
        first, second = plates[rows[2 * number]], plates[rows[2 * number + 1]]
        assert (first != second) == (plates_of[reagent] > 1)
    for number in range(0, len(reagents), per_target):
        group = reagents[number : number + per_target]
        # Of some shared target, as many reagents and modalities as there were.
        enough = []
        for label in shared_targets(wells, group) - {""}:
            sisters = {
                reagent
                for reagent, names in zip(wells["Metadata_broad_sample"], wells[LABEL], strict=True)
                if label in names.split("|")
            } - set(reagents[:number])  # a reagent of several targets is drawn for one of them
            kinds = {modality[sister] for sister in sisters}
            enough.append(
                len(set(group)) == min(per_target, len(sisters))
                and len({modality[one] for one in group}) == min(per_target, len(kinds))
            )
        assert any(enough)


@fast
@given(wells=screens(), count=st.integers(0, 9), **sizes)
def test_hard_negatives_share_plates_but_no_target(wells, count, targets, unlabelled, seed, step):
    more = {"num_same_plate": count}
    rows, reagents = draw_batch(wells, targets, unlabelled, seed, step, **more)
    without, again = draw_batch(wells, targets, unlabelled, seed, step)
    assert reagents == again
    assert np.array_equal(rows[: len(without)], without)
    pulled, hard = wells.iloc[rows[: 2 * len(reagents)]], wells.iloc[rows[len(without) :]]
    targeted = {name for names in pulled[LABEL] for name in names.split("|")}
    free = wells[
        wells["Metadata_Plate"].isin(pulled["Metadata_Plate"])
        & (wells[LABEL] != "")
        & np.array([not targeted & set(names.split("|")) for names in wells[LABEL]])
    ]
    assert len(hard) == len(set(hard.index)) == min(count, len(free))
    assert set(hard.index) <= set(free.index)


@fast
@given(wells=screens(), ranks=st.integers(1, 3), count=st.integers(0, 9), **sizes)
def test_ranks_share_a_batch_whole_and_evenly(wells, ranks, count, targets, unlabelled, seed, step):
    n_targets = len({name for names in wells[LABEL] for name in names.split("|") if name})
    arguments = (wells, LABEL, targets, unlabelled, seed, 2, count, ranks)
    if min(targets, n_targets) < ranks:
        with pytest.raises(InputError, match=f"{ranks} process.*too few targets"):
            TargetBatches(*arguments)
        return
    batches = TargetBatches(*arguments)
    batch = batches.draw(step)
    shares = [batches.share(batch, rank) for rank in range(ranks)]
    assert sorted(row for share in shares for row in share.rows) == sorted(batch.rows)
    assert [reagent for share in shares for reagent in share.reagents] == batch.reagents
    assert len({(len(share.rows), len(share.reagents)) for share in shares}) == 1
    names = wells["Metadata_broad_sample"].to_numpy()
    for share in shares:
        pulled = names[share.rows[: 2 * len(share.reagents)]]
        assert pulled.tolist() == [reagent for reagent in share.reagents for _ in range(2)]
        assert len(share.reagents) % 2 == 0


@fast
@given(wells=screens(), **sizes)
def test_seed_and_step_say_it_all(wells, targets, unlabelled, seed, step):
    batches = batches_of(wells, targets, unlabelled, seed)
    batches.draw(step + 1)  # what was drawn before leaves no trace
    rows, reagents = draw_batch(wells, targets, unlabelled, seed, step)
    assert np.array_equal(batches.draw(step).rows, rows)
    assert batches.draw(step).reagents == reagents


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
    seen = {row for step in range(100) for row in batches.draw(step).rows}
    assert seen == set(range(len(screen)))


def test_a_reagent_of_two_targets_is_drawn_for_one_of_them():
    columns = ["Metadata_broad_sample", "Metadata_Plate", "Metadata_modality", LABEL]
    wells = pd.DataFrame([("R", "P1", "compound", "A|B"), ("S", "P1", "orf", "B")], columns=columns)
    for step in range(8):
        rows, reagents = draw_batch(wells, 2, 0, 0, step)
        assert len(reagents) == len(rows) / 2
        assert set(reagents[:2]) & set(reagents[2:]) == set()
