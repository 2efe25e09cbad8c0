"""Reading profiles, and what is said about bad ones: a named notice with a count, or one line."""

import numpy as np
import pandas as pd
import pytest
from helpers_eval import simulate_profiles

from data.errors import InputError
from eval.profiles import align, load_profiles, profiles_from_table, read_profiles

META = [
    "Metadata_Plate",
    "Metadata_Well",
    "Metadata_broad_sample",
    "Metadata_control_type",
    "Metadata_target_list",
]


@pytest.fixture
def table() -> pd.DataFrame:
    layout = [("compound", "U2OS", 48, 2)]
    wells = simulate_profiles(layout, n_targets=12, wells=48, n_features=8)
    return wells.drop(columns="Metadata_simulated")


def notices(profiles) -> dict[str, int]:
    return {notice.name: notice.count for notice in profiles.notices}


def test_clean_profiles_have_no_notices(table):
    profiles = profiles_from_table(table, "simulated")
    assert profiles.features.shape == (96, 8)
    assert notices(profiles) == {}
    assert profiles.meta["Metadata_Time"].dtype == int


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.tsv", "a.parquet", "a.h5ad"])
def test_every_format_reads_the_same(table, tmp_path, name):
    path = tmp_path / name
    if name.endswith("parquet"):
        table.to_parquet(path)
    elif name.endswith("h5ad"):
        anndata = pytest.importorskip("anndata")
        obs = table.filter(like="Metadata_").astype(str).set_axis(table.index.astype(str))
        obs = obs.rename(columns=lambda c: c.removeprefix("Metadata_"))
        features = table.filter(like="embedding_")
        anndata.AnnData(
            features.to_numpy(), obs=obs, var=pd.DataFrame(index=features.columns)
        ).write_h5ad(path)
    else:
        table.to_csv(path, index=False, sep="\t" if "tsv" in name else ",")
    meta, features = read_profiles(path)
    np.testing.assert_allclose(features, table.filter(like="embedding_"), rtol=1e-12)
    assert features.dtype == np.float64
    assert meta[META].equals(table[META].astype("object"))


def test_what_cannot_be_read_is_said(table, tmp_path):
    with pytest.raises(InputError, match="not found"):
        read_profiles(tmp_path / "none.csv")
    (tmp_path / "a.xlsx").touch()
    with pytest.raises(InputError, match=r"expected \.csv"):
        read_profiles(tmp_path / "a.xlsx")
    table.filter(like="Metadata_").to_parquet(tmp_path / "b.parquet")
    with pytest.raises(InputError, match="there are no features"):
        read_profiles(tmp_path / "b.parquet")
    table.assign(comment="dead").to_parquet(tmp_path / "c.parquet")
    with pytest.raises(InputError, match="column comment is not numeric"):
        read_profiles(tmp_path / "c.parquet")


def test_nan_features_are_left_out_and_counted(table):
    wide = simulate_profiles([("compound", "U2OS", 48, 2)], 12, 48, n_features=40)
    del wide["Metadata_simulated"]
    wide.loc[[3, 7], "embedding_002"] = [np.nan, np.inf]
    profiles = profiles_from_table(wide, "x")
    assert notices(profiles) == {"nan_feature": 1}
    assert profiles.features.shape == (96, 39)
    assert profiles.notices[0].where == "embedding_002 left out (2 wells)"
    table.loc[0, "embedding_002"] = np.nan  # one feature in eight is too many
    with pytest.raises(InputError, match=r"1 of 8 features hold NaN.*embedding_002, 1 wells"):
        profiles_from_table(table, "x")


def test_a_profile_of_nothing_but_nan_is_an_error(table):
    table.loc[5, table.columns.str.startswith("embedding_")] = np.nan
    with pytest.raises(InputError, match=r"1 profiles are all NaN \(first: SIM00001 A06\)"):
        profiles_from_table(table, "x")


def test_constant_features_are_left_out_and_counted(table):
    profiles = profiles_from_table(table.assign(embedding_004=2.5), "x")
    assert notices(profiles) == {"constant_feature": 1}
    assert profiles.features.shape[1] == 7
    same = table.copy()
    same.loc[:, same.columns.str.startswith("embedding_")] = 1.0
    with pytest.raises(InputError, match="all profiles are the same"):
        profiles_from_table(same, "x")


def test_zero_vectors_are_left_out_and_counted(table):
    table.loc[[0, 50], table.columns.str.startswith("embedding_")] = 0.0
    profiles = profiles_from_table(table, "x")
    assert notices(profiles) == {"zero_vector": 2}
    assert len(profiles.meta) == len(profiles.features) == 94


def test_identical_profiles_are_counted(table):
    embedding = table.columns.str.startswith("embedding_")
    table.loc[1, embedding] = table.loc[0, embedding]
    assert notices(profiles_from_table(table, "x")) == {"identical_profile": 2}


def test_a_well_twice_is_an_error_that_names_the_files(table, tmp_path):
    table.to_parquet(tmp_path / "a.parquet")
    table.assign(embedding_000=0.5).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(
        InputError, match=r"192 wells occur twice.*A01.*a\.parquet and .*b\.parquet"
    ):
        load_profiles([tmp_path / "a.parquet", tmp_path / "b.parquet"], "x")
    with pytest.raises(InputError, match="2 wells occur twice"):
        profiles_from_table(pd.concat([table, table.iloc[[4]]]), "x")


def test_mixed_dimensions_are_an_error_or_counted(table, tmp_path):
    first = table[table["Metadata_Plate"] == "SIM00001"]
    second = table[table["Metadata_Plate"] == "SIM00002"].drop(columns="embedding_007")
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for part, path in zip((first, second), paths, strict=True):
        part.to_parquet(path)
    with pytest.raises(InputError, match=r"mixed dimensions: .*b\.parquet has 7.*a\.parquet 8"):
        load_profiles(paths, "x")
    for part, path in zip((first, second), paths, strict=True):
        part.rename(columns=lambda c: c.replace("embedding", "Cells_AreaShape")).to_parquet(path)
    assert notices(load_profiles(paths, "x")) == {"features_not_in_all_files": 1}


def test_controls_have_to_be_there(table):
    with pytest.raises(InputError, match="there are no controls"):
        profiles_from_table(table.assign(Metadata_control_type=""), "x")
    one = table["Metadata_Plate"] == "SIM00002"
    table.loc[one & (table["Metadata_control_type"] == "negcon"), "Metadata_control_type"] = ""
    assert notices(profiles_from_table(table, "x"))["plate_without_controls"] == 1


def test_empty_wells_are_left_out_and_controls_get_a_name(table):
    table.loc[0, "Metadata_broad_sample"] = ""
    negcon = table["Metadata_control_type"] == "negcon"
    table.loc[negcon, "Metadata_broad_sample"] = ""
    profiles = profiles_from_table(table, "x")
    assert notices(profiles) == {"empty_well": 1}
    assert (profiles.meta["Metadata_broad_sample"] == "DMSO").sum() == negcon.sum()


def test_annotations_that_match_nothing_are_an_error(table):
    annotations = pd.DataFrame({"broad_sample": ["BRD-1"], "target_list": ["TUBB"]})
    with pytest.raises(InputError, match=r"match none of the compounds \(first: compound-000\)"):
        profiles_from_table(table, "x", annotations)
    annotations["broad_sample"] = "compound-000"
    profiles = profiles_from_table(table, "x", annotations)
    reagents = table.query("Metadata_pert_type == 'trt'")["Metadata_broad_sample"].nunique()
    assert notices(profiles) == {"compound_without_target": reagents - 1}


def test_plates_are_selected_as_in_the_paper(table):
    row = {
        "Batch": "2020_11_04_CPJUMP1",
        "Assay_Plate_Barcode": "SIM00001",
        "Perturbation": "compound",
        "Cell_type": "A549",
        "Time": 24,
        "Density": 100,
        "Antibiotics": "absent",
        "Cell_line": "Parental",
    }
    other = {**row, "Assay_Plate_Barcode": "SIM00002", "Cell_line": "Cas9"}
    profiles = profiles_from_table(table, "x", experiment=pd.DataFrame([row, other]))
    assert notices(profiles) == {"plate_not_selected": 1}
    assert profiles.meta["Metadata_Plate"].unique().tolist() == ["SIM00001"]
    assert profiles.meta["Metadata_Cell_type"].unique().tolist() == ["A549"]
    with pytest.raises(InputError, match="none of the 2 plates"):
        profiles_from_table(table, "x", experiment=pd.DataFrame([other]))


def test_simulated_wells_are_called_so(table):
    simulated = table.assign(Metadata_simulated=True)
    assert notices(profiles_from_table(simulated, "x")) == {"simulated": 96}


def test_control_wells_belong_to_their_plates_modality(table):
    negcon = table["Metadata_control_type"] == "negcon"
    marked = table.copy()
    marked.loc[negcon, "Metadata_modality"] = "control"
    profiles = profiles_from_table(marked, "x")
    assert profiles.meta["Metadata_modality"].unique().tolist() == ["compound"]


def test_a_time_that_is_no_number_is_an_error(table):
    with pytest.raises(InputError, match="Metadata_Time is 'two days' in 96 wells"):
        profiles_from_table(table.assign(Metadata_Time="two days"), "x")


def test_a_column_that_is_missing_is_named(table):
    with pytest.raises(InputError, match=r"Metadata_target_list is missing .*--annotations"):
        profiles_from_table(table.drop(columns="Metadata_target_list"), "x")
    with pytest.raises(InputError, match="Metadata_Well is missing"):
        profiles_from_table(table.drop(columns="Metadata_Well"), "x")


def test_representations_are_cut_to_common_wells_in_one_order(table):
    whole = profiles_from_table(table, "a")
    part = profiles_from_table(table.iloc[:0:-1], "b")  # reversed, without the first well
    first, second = align([whole, part])
    assert first.meta[["Metadata_Plate", "Metadata_Well"]].equals(
        second.meta[["Metadata_Plate", "Metadata_Well"]]
    )
    np.testing.assert_array_equal(first.features, second.features)
    assert notices(first) == {"well_not_in_all_groups": 1}
    assert notices(second) == {}
    elsewhere = profiles_from_table(table.assign(Metadata_Plate=table["Metadata_Plate"] + "x"), "c")
    with pytest.raises(InputError, match="no well is in all of a, c"):
        align([whole, elsewhere])
