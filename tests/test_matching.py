"""The quickstart's matching scores, BBBC021's mechanism score, and the door to the protocols."""

import copairs.map as cmap
import numpy as np
import pandas as pd
import pytest
from copairs.map import multilabel
from helpers_eval import simulate_profiles
from sklearn.neighbors import KNeighborsClassifier

from data.errors import InputError
from eval.matching import (
    gene_compound_matching,
    mechanism_matching,
    replicate_matching,
    run_protocol,
)
from eval.profiles import profiles_from_table
from eval.reagents import consensus


@pytest.fixture(scope="module")
def wells() -> pd.DataFrame:
    layout = [("compound", "U2OS", 48, 2), ("crispr", "U2OS", 96, 2), ("orf", "U2OS", 48, 2)]
    table = simulate_profiles(layout, n_targets=16, wells=48, n_features=32, effect=1.5)
    table["Metadata_split"] = "train"
    held_out = table["Metadata_target_list"].str.contains("GENE00[0-7]")
    table.loc[held_out, "Metadata_split"] = "test"
    return table


def divide(table: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    return table.filter(like="Metadata_"), table.filter(like="embedding_").to_numpy()


def test_replicate_matching_equals_copairs(wells):
    meta, features = divide(wells[wells["Metadata_pert_type"] == "trt"].reset_index(drop=True))
    theirs = cmap.average_precision(
        meta,
        features,
        pos_sameby=["Metadata_broad_sample"],
        pos_diffby=[],
        neg_sameby=[],
        neg_diffby=["Metadata_broad_sample"],
        progress_bar=False,
    )
    score = replicate_matching(*divide(wells), null_size=200)
    expected = theirs.groupby("Metadata_broad_sample")["average_precision"].mean()
    found = score.labels.set_index("label")["mean_average_precision"]
    pd.testing.assert_series_equal(found, expected, check_names=False, atol=1e-9)
    assert score.n_labels == len(expected)
    assert score.map > 2 * score.chance
    assert score.map_low < score.map < score.map_high
    assert set(score.numbers()) >= {"map", "normalized_map", "fraction_retrieved", "chance"}


def test_replicate_matching_needs_replicates(wells):
    single = wells.drop_duplicates("Metadata_broad_sample")
    with pytest.raises(InputError, match="no reagent has two treated wells"):
        replicate_matching(*divide(single))


def test_gene_compound_matching_equals_copairs(wells):
    meta, features = divide(wells)
    score = gene_compound_matching(meta, features, held_out=False, null_size=200)
    rows = (meta["Metadata_pert_type"] == "trt").to_numpy()
    by = ["Metadata_modality", "Metadata_broad_sample"]
    reagents, unit = consensus(meta[rows], features[rows], by)
    reagents["side"] = (reagents["Metadata_modality"] == "compound").astype(int)
    reagents["target"] = reagents["Metadata_target_list"].str.split("|")
    theirs = multilabel.average_precision(
        reagents,
        unit,
        pos_sameby=["target"],
        pos_diffby=["side"],
        neg_sameby=[],
        neg_diffby=["target", "side"],
        multilabel_col="target",
        distance="abs_cosine",
        progress_bar=False,
    )
    expected = theirs.groupby("target")["average_precision"].mean()
    found = score.labels.set_index("label")["mean_average_precision"]
    pd.testing.assert_series_equal(found, expected, check_names=False, atol=1e-9)


def test_only_held_out_and_targetless_reagents_take_part(wells):
    meta, features = divide(wells)
    score = gene_compound_matching(meta, features, null_size=200)
    assert set(score.labels["label"]) == {f"GENE{i:03d}" for i in range(8)}
    train = (meta["Metadata_split"] == "train") & (meta["Metadata_pert_type"] == "trt")
    scrambled = features.copy()
    scrambled[train] = np.random.default_rng(0).normal(size=scrambled[train].shape)
    assert gene_compound_matching(meta, scrambled, null_size=200).map == score.map
    # a reagent without targets is a distractor: it lengthens the list, and adds no label
    idle = meta[train & (meta["Metadata_modality"] == "orf")].assign(Metadata_target_list="")
    more = gene_compound_matching(
        pd.concat([meta, idle.assign(Metadata_broad_sample="idle")], ignore_index=True),
        np.concatenate([features, features[idle.index]]),
        null_size=200,
    )
    assert more.n_labels == score.n_labels
    assert more.chance < score.chance


def test_gene_compound_matching_says_when_nothing_can_match(wells):
    compounds = wells[wells["Metadata_modality"] == "compound"]
    with pytest.raises(InputError, match="no target has both"):
        gene_compound_matching(*divide(compounds))
    with pytest.raises(InputError, match="nothing to match"):
        gene_compound_matching(*divide(wells.assign(Metadata_split="train")))


def mechanisms() -> tuple[pd.DataFrame, np.ndarray]:
    rng = np.random.default_rng(4)
    rows, features = [], []
    for number in range(18):
        moa, compound = number % 6, f"compound-{number}"
        for dose in (1, 2, 3):
            for _ in range(2):
                rows.append((compound, dose, f"moa-{moa}", f"week-{number % 4}"))
                features.append(np.eye(6)[moa] + rng.normal(size=6) * 0.6)
    columns = ("broad_sample", "concentration", "moa", "week")
    return pd.DataFrame(rows, columns=[f"Metadata_{c}" for c in columns]), np.array(features)


def test_nearest_mechanism_equals_scikit_learn():
    meta, features = mechanisms()
    score = mechanism_matching(meta, features, null_size=200)
    by = ["Metadata_broad_sample", "Metadata_concentration"]
    treatments, unit = consensus(meta, features, by, how="mean")
    for left_out, found in (
        (["broad_sample"], score.nsc_accuracy),
        (["broad_sample", "week"], score.nsc_week_accuracy),
    ):
        correct = []
        for row in range(len(treatments)):
            allowed = np.ones(len(treatments), dtype=bool)
            for column in left_out:
                values = treatments[f"Metadata_{column}"]
                allowed &= (values != values.iloc[row]).to_numpy()
            nearest = KNeighborsClassifier(1, metric="cosine")
            nearest.fit(unit[allowed], treatments.loc[allowed, "Metadata_moa"])
            guess = nearest.predict(unit[row : row + 1])[0]
            correct.append(guess == treatments["Metadata_moa"].iloc[row])
        assert found == pytest.approx(np.mean(correct))
    assert score.n_treatments == 54
    assert score.map > 2 * score.chance


def test_mechanism_queries_can_be_a_folds_held_out_compounds():
    meta, features = mechanisms()
    folds = [
        meta["Metadata_broad_sample"].isin([f"compound-{i}" for i in range(s, s + 6)])
        for s in (0, 6, 12)
    ]
    parts = [mechanism_matching(meta, features, fold.to_numpy(), null_size=200) for fold in folds]
    whole = mechanism_matching(meta, features, null_size=200)
    assert [part.n_treatments for part in parts] == [18, 18, 18]
    assert np.mean([part.nsc_accuracy for part in parts]) == pytest.approx(whole.nsc_accuracy)
    assert np.mean([part.map for part in parts]) == pytest.approx(whole.map)


def test_a_mechanism_in_one_week_is_wrong_without_that_week():
    meta, features = mechanisms()
    meta["Metadata_week"] = "week-0"
    assert mechanism_matching(meta, features, null_size=200).nsc_week_accuracy == 0


def test_run_protocol_knows_its_protocols(wells):
    profiles = profiles_from_table(wells, "simulated")
    with pytest.raises(InputError, match="unknown protocol best"):
        run_protocol(profiles, "best")
    results = run_protocol(profiles, "fixed_pool", null_size=200)
    assert [r.task for r in results] == ["activity"] * 3 + ["matching"] * 2 + ["gene_compound"] * 2
