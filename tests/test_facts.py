"""Feature names to slots, and profiles to facts."""

import re

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from captions import effects as effects_module
from captions import facts as facts_module
from captions.effects import EFFECT_COLUMNS, measure_effects
from captions.facts import (
    FACT_COLUMNS,
    FACT_SLOTS,
    MIN_EFFECT,
    facts_by_well,
    measure_facts,
)
from captions.slots import REFERENCE_FEATURES, feature_slot, feature_vote
from data import spread as spread_module
from data.errors import InputError
from data.spread import MAX_Q_VALUE

FEATURES = [
    "Image_Count_Nuclei",
    "Nuclei_AreaShape_Area",
    "Nuclei_AreaShape_Perimeter",
    "Nuclei_AreaShape_FormFactor",
    "Nuclei_AreaShape_Eccentricity",
    "Cells_AreaShape_Area",
    "Cells_Intensity_MeanIntensity_Mito",
    "Cells_Intensity_UpperQuartileIntensity_Mito",
    "Cytoplasm_Intensity_MeanIntensity_Mito",
    "Cells_Texture_Correlation_3_00_256_Mito",
    "Cells_Granularity_1_Mito",
    "Cells_RadialDistribution_MeanFrac_1of4_ER",
    "Cells_RadialDistribution_MeanFrac_4of4_ER",
    "Cells_Correlation_Correlation_AGP_Mito",
]


def gaussian_plates(
    n_controls: int, n_treated: int, seed: int, features=FEATURES, plates=("P1",)
) -> pd.DataFrame:
    """Robust z of wells that nothing was done to."""
    rng = np.random.default_rng(seed)
    parts = []
    for plate in plates:
        n = n_controls + n_treated
        raw = pd.DataFrame(rng.normal(size=(n, len(features))), columns=features)
        controls = raw.iloc[:n_controls]
        centre = controls.median()
        z = (raw - centre) / (1.4826 * (controls - centre).abs().median())
        z.insert(0, "Metadata_Plate", plate)
        z.insert(1, "Metadata_Well", [f"W{i:03d}" for i in range(n)])
        z.insert(2, "Metadata_control_type", ["negcon"] * n_controls + [""] * n_treated)
        parts.append(z)
    return pd.concat(parts, ignore_index=True)


def claims(facts: pd.DataFrame, well: str) -> list[tuple[str, ...]]:
    mine = facts[facts["Metadata_Well"] == well].sort_values("rank")
    return list(
        mine[["compartment", "channel", "property", "direction"]].itertuples(index=False, name=None)
    )


@pytest.mark.parametrize(
    ("name", "slot"),
    [
        ("Image_Count_Nuclei", ("cells", "", "count")),
        ("Nuclei_AreaShape_Area", ("nuclei", "", "size")),
        ("Cells_AreaShape_Zernike_2_2", ("cells", "", "shape")),
        ("Cytoplasm_Texture_Contrast_3_00_256_ER", ("cytoplasm", "ER", "texture")),
        ("Cytoplasm_Texture_Contrast_ER_3_00_256", ("cytoplasm", "ER", "texture")),
        ("Cells_Granularity_10_AGP", ("cells", "AGP", "granularity")),
        ("Cells_Correlation_RWC_Mito_AGP", ("cells", "AGP/Mito", "correlation")),
        ("Nuclei_Intensity_MassDisplacement_DNA", ("nuclei", "DNA", "distribution")),
        ("Nuclei_Texture_SumAverage_LowZBF_10_00_256", ("nuclei", "Brightfield", "texture")),
        ("Cells_Neighbors_PercentTouching_Adjacent", ("cells", "", "crowding")),
        ("Cells_Intensity_MeanIntensity_Tubulin", ("cells", "Tubulin", "intensity")),
        ("Nuclei_Location_CenterMassIntensity_X_DNA", None),
        ("Nuclei_AreaShape_Orientation", None),
    ],
)
def test_feature_slot_knows(name, slot):
    assert feature_slot(name) == slot


@pytest.mark.parametrize(
    "name",
    ["embedding_001", "", "Cells_AreaShape", "Cells_Intensity_MeanIntensity_GFP", "Cells_Zap_X_ER"],
)
def test_feature_slot_refuses_what_is_not_cellprofilers(name):
    with pytest.raises(InputError, match=re.escape(repr(name))):
        feature_slot(name)


def test_all_904_features_of_cpjump1_are_mapped(shared):
    path = next((shared / "cpjump1_profiles").glob("BR00117010*.csv.gz"))
    names = [n for n in pd.read_csv(path, nrows=0) if not n.startswith("Metadata_")]
    slots = {name: feature_slot(name) for name in names}
    assert len(slots) == 904
    assert sorted(name for name, slot in slots.items() if slot is None) == [
        "Cells_AreaShape_BoundingBoxMaximum_Y",
        "Cells_Parent_Nuclei",
        "Cytoplasm_AreaShape_Orientation",
        "Nuclei_AreaShape_BoundingBoxMinimum_X",
        "Nuclei_AreaShape_Orientation",
        "Nuclei_Neighbors_AngleBetweenNeighbors_1",
    ]
    voted = {vote[0] for vote in map(feature_vote, names) if vote}
    # These plates' feature selection dropped every area of cells; counts are kept elsewhere.
    assert {slot for slot in FACT_SLOTS if slot not in voted} == {
        ("cells", "", "count"),
        ("cells", "", "size"),
        *(s for s in FACT_SLOTS if s.channel in ("Tubulin", "Actin")),
    }


def test_fact_slots_are_the_agreed_few():
    assert len(FACT_SLOTS) == len(set(FACT_SLOTS)) == 31
    assert sum(s.channel not in ("Tubulin", "Actin") for s in FACT_SLOTS) == 25
    assert all(slot in FACT_SLOTS for slot in REFERENCE_FEATURES)


def test_our_own_features_give_every_slot_of_their_stains():
    from data.channels import CHANNELS
    from data.measure import measure_site

    rng = np.random.default_rng(0)
    yy, xx = np.mgrid[:96, :96]
    spot = np.exp(-((yy - 48) ** 2 + (xx - 48) ** 2) / 150)
    pixels = np.stack([spot + rng.normal(0, 0.01, spot.shape) for _ in CHANNELS]).clip(0)
    names = list(measure_site(pixels, CHANNELS))
    voted = {vote[0] for vote in map(feature_vote, names) if vote}
    missing = {s for s in FACT_SLOTS if s not in voted and s.channel not in ("Tubulin", "Actin")}
    # The stain's place in the nucleus is not measured.
    assert missing == {("nuclei", "DNA", "distribution")}
    assert all(
        name in names
        for name in REFERENCE_FEATURES.values()
        if "bulin" not in name and "Actin" not in name
    )


@pytest.mark.parametrize("n_controls", [8, 16, 64])
def test_few_controls_and_few_untreated_wells_get_a_fact(n_controls):
    features = [
        f"{s.compartment.capitalize()}_Intensity_MeanIntensity_{c}"
        for s in FACT_SLOTS
        if s.property == "intensity"
        for c in [s.channel]
    ]
    features = sorted({*FEATURES, *features})
    plates = tuple(f"P{i}" for i in range(20))
    profiles = gaussian_plates(n_controls, 40, 1, features, plates)
    found = facts_by_well(measure_facts(profiles))
    has_fact = np.array(
        [
            key in found
            for key in zip(profiles["Metadata_Plate"], profiles["Metadata_Well"], strict=True)
        ]
    )
    is_control = (profiles["Metadata_control_type"] == "negcon").to_numpy()
    # By construction at most one control of eight, one of sixteen, four of 64.
    assert has_fact[is_control].mean() <= max(0.07, 1 / n_controls)
    assert has_fact[~is_control].mean() <= 0.12


def test_planted_changes_are_found_with_direction_strength_and_order():
    profiles = gaussian_plates(16, 4, 2)
    mito = [name for name in FEATURES if "Intensity" in name]
    profiles.loc[16, mito] += 30
    profiles.loc[16, "Image_Count_Nuclei"] -= 15
    profiles.loc[17, ["Cells_Texture_Correlation_3_00_256_Mito"]] -= 40
    profiles.loc[17, ["Cells_Granularity_1_Mito"]] += 40
    profiles.loc[17, "Cells_RadialDistribution_MeanFrac_1of4_ER"] -= 60
    profiles.loc[17, "Cells_RadialDistribution_MeanFrac_4of4_ER"] += 60
    facts = measure_facts(profiles)
    # The loss of cells is smaller, and said first all the same.
    assert claims(facts, "W016") == [
        ("cells", "", "count", "decreased"),
        ("cells", "Mito", "intensity", "increased"),
    ]
    assert claims(facts, "W017") == [
        ("cells", "ER", "distribution", "increased"),
        ("cells", "Mito", "texture", "increased"),
    ]
    assert set(facts.loc[facts["Metadata_Well"] == "W016", "strength"]) == {"strongly"}
    row = facts[(facts["Metadata_Well"] == "W016") & (facts["channel"] == "Mito")].iloc[0]
    assert row["feature"] in mito
    assert row["q_value"] < MAX_Q_VALUE
    assert row["effect"] > MIN_EFFECT
    assert tuple(facts) == FACT_COLUMNS


def test_a_size_whose_plain_area_disagrees_is_no_fact():
    profiles = gaussian_plates(16, 1, 3, [*FEATURES, "Nuclei_AreaShape_MeanRadius"])
    profiles.loc[16, ["Nuclei_AreaShape_Perimeter", "Nuclei_AreaShape_MeanRadius"]] = 50.0
    profiles.loc[16, "Nuclei_AreaShape_Area"] = 50.0
    assert ("nuclei", "", "size", "increased") in claims(measure_facts(profiles), "W016")
    profiles.loc[16, "Nuclei_AreaShape_Area"] = -2.0
    assert claims(measure_facts(profiles), "W016") == []


def test_one_dead_control_hides_nothing():
    profiles = gaussian_plates(16, 1, 12)
    profiles.loc[16, "Image_Count_Nuclei"] = -15.0
    profiles.loc[0, FEATURES] = -300.0
    assert ("cells", "", "count", "decreased") in claims(measure_facts(profiles), "W016")


def test_a_control_is_compared_with_the_others():
    profiles = gaussian_plates(9, 0, 4)
    profiles.loc[0, "Image_Count_Nuclei"] = -50.0
    assert claims(measure_facts(profiles), "W000")[0] == ("cells", "", "count", "decreased")


def test_plates_have_their_own_controls():
    profiles = gaussian_plates(16, 1, 5, plates=("P1", "P2"))
    second = profiles["Metadata_Plate"] == "P2"
    profiles.loc[second, "Image_Count_Nuclei"] -= 20.0  # all of the plate: no change within it
    assert not (measure_facts(profiles)["property"] == "count").any()


def test_few_controls_fall_back_to_z_itself():
    profiles = gaussian_plates(3, 1, 6)
    profiles[FEATURES] = 0.0
    profiles.loc[3, "Image_Count_Nuclei"] = -6.5
    facts = measure_facts(profiles)
    assert facts["effect"].tolist() == [-6.5]
    assert facts["strength"].tolist() == ["clearly"]


def test_without_controls_replicates_say_what_is_noise():
    n = 40
    rng = np.random.default_rng(13)
    treatment = np.repeat(np.arange(n // 2), 2)
    area = rng.normal(size=n // 2)[treatment]  # treatments differ much, replicates little
    profiles = pd.DataFrame(
        {
            "Metadata_Plate": [f"P{i % 4}" for i in range(n)],
            "Metadata_Well": [f"W{i:03d}" for i in range(n)],
            "Metadata_control_type": "",
            "Metadata_broad_sample": "one",
            "Metadata_concentration": treatment.astype(float),
            "Nuclei_AreaShape_Area": area + 0.05 * rng.normal(size=n),
            "Cells_AreaShape_Area": rng.normal(size=n),
        }
    )
    facts = measure_facts(profiles)
    changed = set(facts.loc[facts["compartment"] == "nuclei", "Metadata_Well"])
    assert {f"W{i:03d}" for i in np.flatnonzero(np.abs(area) > 0.5)} <= changed
    assert {f"W{i:03d}" for i in np.flatnonzero(np.abs(area) < 0.05)}.isdisjoint(changed)
    assert (facts["compartment"] == "cells").sum() <= 2
    # Without the concentration all wells are one treatment, and its spread is all there is.
    assert len(measure_facts(profiles.drop(columns="Metadata_concentration"))) <= 2


def test_missing_values_and_flat_features_are_no_facts():
    profiles = gaussian_plates(16, 2, 7)
    profiles.loc[16, FEATURES] = np.nan
    profiles.loc[16, "Image_Count_Nuclei"] = -40.0
    profiles.loc[17, "Cells_AreaShape_Area"] = np.inf
    profiles["Cells_Correlation_Correlation_AGP_Mito"] = 0.0
    profiles.loc[17, "Cells_Correlation_Correlation_AGP_Mito"] = 99.0
    facts = measure_facts(profiles)
    assert claims(facts, "W016") == [("cells", "", "count", "decreased")]
    assert claims(facts, "W017") == []


def test_no_wells_and_no_features_give_an_empty_table():
    profiles = gaussian_plates(8, 1, 8)
    for empty in (profiles.iloc[:0], profiles.drop(columns=FEATURES)):
        facts = measure_facts(empty)
        assert tuple(facts) == FACT_COLUMNS
        assert len(facts) == 0
    assert facts_by_well(facts) == {}


@pytest.mark.parametrize("column", ["Metadata_Plate", "Metadata_Well", "Metadata_control_type"])
def test_a_missing_column_is_named(column):
    with pytest.raises(InputError, match=column):
        measure_facts(gaussian_plates(8, 1, 9).drop(columns=column))


@settings(max_examples=20, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_wells_and_features_does_not_matter(random):
    profiles = gaussian_plates(12, 6, 10)
    profiles.loc[12:, FEATURES] *= 8
    expected = measure_facts(profiles)
    columns = FEATURES.copy()
    random.shuffle(columns)
    rows = list(range(len(profiles)))
    random.shuffle(rows)
    shuffled = pd.concat([profiles.filter(like="Metadata_"), profiles[columns]], axis=1).iloc[rows]
    key = ["Metadata_Well", "rank"]
    pd.testing.assert_frame_equal(
        measure_facts(shuffled).sort_values(key, ignore_index=True),
        expected.sort_values(key, ignore_index=True),
    )


def test_effects_are_those_of_the_facts_and_of_all_other_slots():
    profiles = gaussian_plates(16, 3, 11)
    profiles.loc[17, FEATURES] *= 60
    effects = measure_effects(profiles.sample(frac=1.0, random_state=0))
    assert list(effects.columns[2:]) == list(EFFECT_COLUMNS)
    assert len(effects) == len(profiles)
    mine = facts_by_well(measure_facts(profiles))["P1", "W017"]
    row = effects.set_index("Metadata_Well").loc["W017"]
    assert mine
    for fact in mine:
        assert row[EFFECT_COLUMNS[FACT_SLOTS.index(fact.claim.slot)]] == pytest.approx(fact.effect)


def test_facts_on_real_profiles_spare_the_controls(shared):
    path = next((shared / "cpjump1_profiles").glob("BR00117010*.csv.gz"))
    profiles = pd.read_csv(path)
    has_fact = profiles["Metadata_Well"].isin(measure_facts(profiles)["Metadata_Well"])
    assert has_fact[profiles["Metadata_control_type"] == "negcon"].mean() <= 0.10
    assert has_fact[profiles["Metadata_pert_type"] == "trt"].mean() >= 0.30


def test_redundant_features_are_one_fact():
    profiles = gaussian_plates(16, 1, 14)
    profiles.loc[16, "Nuclei_AreaShape_Area"] = profiles.loc[16, "Nuclei_AreaShape_Perimeter"] = 30
    one = measure_facts(profiles)
    copies = {
        f"Nuclei_AreaShape_{kind}": profiles["Nuclei_AreaShape_Area"]
        for kind in ("MeanRadius", "EquivalentDiameter", "MajorAxisLength", "ConvexArea")
    }
    many = measure_facts(profiles.assign(**copies))
    assert claims(many, "W016") == claims(one, "W016") == [("nuclei", "", "size", "increased")]


def test_slots_are_no_copies_of_each_other_on_real_profiles(shared):
    path = next((shared / "cpjump1_profiles").glob("BR00117010*.csv.gz"))
    effects = measure_effects(pd.read_csv(path)).iloc[:, 2:].dropna(axis=1, how="all")
    alike = effects.corr(method="spearman").abs().to_numpy()
    assert len(alike) == 23
    assert np.triu(alike, 1).max() < 0.9


def test_the_page_on_facts_has_every_constant():
    page = (ROOT / "docs" / "facts.md").read_text(encoding="utf-8")
    constants = vars(spread_module) | vars(effects_module) | vars(facts_module)
    for name in (
        "MAX_Q_VALUE",
        "MIN_EFFECT",
        "CLEAR_EFFECT",
        "STRONG_EFFECT",
        "MIN_CONTROLS",
        "CLIP_CONTROLS",
        "CONTROLS_UNCHANGED",
        "MAX_FACTS",
    ):
        assert re.search(rf"`{name}` = {constants[name]:g}\b", page), name
