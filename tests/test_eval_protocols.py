"""The protocols on the paper's own plates (where they are here) and on simulated ones."""

import copairs.map as cmap
import numpy as np
import pandas as pd
import pytest
from copairs.map import multilabel
from helpers_eval import simulate_profiles
from threadpoolctl import threadpool_limits

from data.errors import InputError
from eval import controls
from eval.corrections import correct
from eval.matching import run_protocol
from eval.profiles import Profiles, load_profiles, profiles_from_table
from eval.protocols import (
    activity,
    conditions,
    gene_compound,
    match_reagents,
    matching,
    prepare,
    reagent_profiles,
    unique_sets,
)


@pytest.fixture(scope="module")
def real(shared) -> Profiles:
    """The four U2OS 48 h compound plates, as published."""
    folder = shared / "cpjump1_profiles"
    annotations = folder / "JUMP-Target-1_compound_metadata_additional_annotations.tsv"
    return load_profiles(
        sorted(folder.glob("*.csv.gz")),
        "cellprofiler",
        pd.read_csv(annotations, sep="\t"),
        pd.read_csv(folder / "experiment-metadata.tsv", sep="\t"),
    )


@pytest.fixture(scope="module")
def published(real):
    return {result.task: result.labels for result in run_protocol(real)}


@pytest.fixture(scope="module")
def simulated() -> Profiles:
    layout = [
        ("compound", "U2OS", 48, 2),
        ("crispr", "U2OS", 96, 2),
        ("orf", "U2OS", 48, 2),
        ("compound", "A549", 48, 2),
    ]
    table = simulate_profiles(layout, n_targets=16, wells=48, n_features=64, effect=1.2)
    return profiles_from_table(table, "simulated")


def test_published_activity_of_the_real_plates(published):
    labels = published["activity"]
    assert len(labels) == 306
    assert labels["retrieved"].mean() == pytest.approx(0.660, abs=0.004)
    assert labels["mean_average_precision"].mean() == pytest.approx(0.578, abs=0.002)


def test_published_matching_of_the_real_plates(published):
    labels = published["matching"]
    assert len(labels) == 279
    assert labels["retrieved"].mean() == pytest.approx(0.251, abs=0.004)
    assert labels["mean_average_precision"].mean() == pytest.approx(0.195, abs=0.002)


def test_fixed_pool_of_the_real_plates(real, published):
    active = published["activity"].query("retrieved")["label"]
    assert len(active) == 202
    (condition, _) = next(conditions(real))
    _, result = run_protocol(real, "fixed_pool", {condition: set(active)})
    labels = result.labels
    assert labels["mean_average_precision"].mean() == pytest.approx(0.195, abs=0.003)
    assert labels["normalized_map"].mean() == pytest.approx(0.167, abs=0.003)
    once = unique_sets(labels)
    assert once["normalized_map"].mean() == pytest.approx(0.111, abs=0.003)
    assert once["retrieved"].mean() == pytest.approx(0.124, abs=0.007)


def test_control_positions_of_the_real_plates(real):
    condition, wells = next(conditions(real))
    raw = controls.control_position_activity(condition, wells)
    assert len(raw.labels) == 64
    assert raw.labels["retrieved"].mean() == pytest.approx(0.09, abs=0.03)


def test_sphering_looks_better_on_the_controls_that_it_saw(real):
    retrieved = {}
    for fitted in (True, False):
        halved = controls.half_controls(real, "sphering", fitted)
        condition, wells = next(conditions(halved))
        labels = activity(condition, wells, null_size=20_000).labels
        retrieved[fitted] = labels["retrieved"].mean()
    assert retrieved[True] > retrieved[False] + 0.05


def test_activity_equals_copairs(simulated):
    for condition, wells in conditions(simulated):
        meta = wells.meta.assign(negcon=wells.meta["Metadata_control_type"] == "negcon")
        theirs = cmap.average_precision(
            meta,
            wells.features,
            pos_sameby=["Metadata_broad_sample"],
            pos_diffby=[],
            neg_sameby=["Metadata_Plate"],
            neg_diffby=["negcon"],
            progress_bar=False,
        )
        treated = theirs[~theirs["negcon"] & theirs["average_precision"].notna()]
        expected = treated.groupby("Metadata_broad_sample")["average_precision"].mean()
        ours = activity(condition, wells, null_size=100).labels.set_index("label")
        np.testing.assert_allclose(ours["mean_average_precision"], expected, atol=1e-9)


def test_matching_equals_copairs(simulated):
    for condition, wells in conditions(simulated):
        if condition.modality == "orf":
            continue
        reagents = reagent_profiles(condition, wells)
        meta = reagents.meta.assign(target=reagents.meta["Metadata_target_list"].str.split("|"))
        theirs = multilabel.average_precision(
            meta,
            reagents.unit,
            pos_sameby=["target"],
            pos_diffby=[],
            neg_sameby=[],
            neg_diffby=["target"],
            multilabel_col="target",
            distance="abs_cosine" if condition.modality == "compound" else "cosine",
            progress_bar=False,
        )
        expected = theirs.groupby("target")["average_precision"].mean()
        ours = matching(reagents, null_size=100).labels.set_index("label")
        np.testing.assert_allclose(ours["mean_average_precision"], expected, atol=1e-9)


def test_gene_compound_takes_only_targets_on_both_sides(simulated):
    by_name = {(p.condition.modality, p.condition.cell): p for p in prepare(simulated, 100)}
    compounds = by_name["compound", "U2OS"].reagents
    guides = by_name["crispr", "U2OS"].reagents
    few = guides.keep([n for n in guides.meta["Metadata_broad_sample"] if n < "crispr-010"])
    result = gene_compound(compounds, few, null_size=100)
    assert result.labels["label"].tolist() == [f"GENE{i:03d}" for i in range(5)]
    assert result.condition.modality == "compound+crispr"
    assert result.condition.time == "48+96"
    # each compound ranks the guides, each guide the compounds: 10 of each are in the pool
    assert result.n_pool == 20
    assert result.labels["n_queries"].tolist() == [4] * 5
    assert result.labels["n_total"].tolist() == [10] * 5


def test_a_pool_with_strangers_is_refused(simulated):
    plates = prepare(simulated, 100)
    pool = {p.condition: {"nobody"} for p in plates}
    with pytest.raises(InputError, match="1 reagents of the pool have no profile"):
        match_reagents(plates, pool, 100, 0)
    with pytest.raises(InputError, match="the pool has no reagents for"):
        match_reagents(plates, {}, 100, 0)


def test_an_empty_pool_gives_empty_tables(simulated):
    plates = prepare(simulated, 100)
    results = match_reagents(plates, {p.condition: set() for p in plates}, 100, 0)
    assert [len(r.labels) for r in results] == [0] * len(results)


def test_position_excluded_pairs_have_no_position_effect():
    layout = [("compound", "U2OS", 48, 4)]
    table = simulate_profiles(layout, n_targets=10, wells=96, n_features=64, effect=0)
    embedding = table.filter(like="embedding_").columns
    # a strong effect of the position, none of the reagent
    effect = np.random.default_rng(1).normal(size=(96, 64)) * 2
    table[embedding] += np.tile(effect, (4, 1))
    condition, wells = next(conditions(profiles_from_table(table, "x")))
    with_position = activity(condition, wells, null_size=1000)
    without = activity(condition, wells, null_size=1000, exclude_position=True)
    assert with_position.labels["normalized_map"].mean() > 0.15
    assert abs(without.labels["normalized_map"].mean()) < 0.1
    as_compounds = controls.control_position_activity(condition, wells, null_size=1000)
    assert as_compounds.labels["retrieved"].mean() > 0.9


def test_permuted_labels_are_chance(simulated):
    for condition, wells in conditions(simulated):
        permuted = controls.label_permuted_activity(condition, wells, null_size=1000)
        true = activity(condition, wells, null_size=1000)
        assert permuted.labels["normalized_map"].mean() < 0.2
        assert true.labels["normalized_map"].mean() > 0.3
        assert permuted.labels["n_queries"].sum() == true.labels["n_queries"].sum()
    reagents = reagent_profiles(*next(conditions(simulated)))
    assert (
        abs(controls.label_permuted_matching(reagents, 1000).labels["normalized_map"].mean()) < 0.1
    )


def test_results_do_not_depend_on_the_number_of_cores(simulated):
    tables = []
    for cores in (1, 2):
        with threadpool_limits(cores):
            results = run_protocol(correct(simulated, "sphering"), null_size=500)
        tables.append(pd.concat([r.labels for r in results], ignore_index=True))
    pd.testing.assert_frame_equal(*tables, check_exact=False, rtol=1e-12)


def test_cellclips_protocol_gates_compounds_alone(simulated):
    results = run_protocol(simulated, "cellclip", null_size=500)
    assert [r.task for r in results[:4]] == ["activity"] * 4
    assert results[0].n_pool == 2 * 12  # a quarter of 48 positions on two plates
