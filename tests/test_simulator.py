"""The simulator: layout, truth, reproducibility, and that effects show in the features."""

import numpy as np
import pandas as pd
import pytest
import tifffile

from data.channels import CHANNELS
from data.errors import InputError
from data.library import axis_vector
from data.measure import COUNT, measure_site
from data.microscope import PlateConditions, WellConditions, photograph
from data.phenotypes import (
    AXES,
    HELD_OUT_TARGETS,
    INACTIVE_COMPOUNDS,
    INACTIVE_GENES,
    OFF_TARGETS,
    SMILES,
    TARGETS,
)
from data.rendering import render_field
from data.simulator import SimulationConfig, simulate_plates, simulation_library

SMALL = SimulationConfig(
    n_targets=2,
    n_inactive_compounds=2,
    n_inactive_genes=2,
    compound_plates=1,
    crispr_plates=1,
    orf_plates=0,
    controls=4,
    sites=1,
    field_size=128,
    processes=1,
)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    out = tmp_path_factory.mktemp("simulated") / "raw"
    simulate_plates(out, SMALL)
    return out


def read(path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", keep_default_na=False, dtype=str)


def average(axis: str | None, sites: int = 2) -> pd.Series:
    """Mean features of cells that show one axis."""
    effects = np.zeros((34, len(AXES)))
    if axis:
        effects[:, AXES.index(axis)] = 1
    rng = np.random.default_rng(5)
    fields = [render_field(effects, 256, rng) for _ in range(sites)]
    return pd.concat([measure_site(field, CHANNELS) for field in fields]).mean()


@pytest.fixture(scope="module")
def untreated() -> pd.Series:
    return average(None)


@pytest.mark.parametrize(
    ("axis", "feature", "rises"),
    [
        ("nucleus_size", "Nuclei_AreaShape_Area", True),
        ("nucleus_irregularity", "Nuclei_AreaShape_FormFactor", False),
        ("dna_intensity", "Nuclei_Intensity_MeanIntensity_DNA", True),
        ("dna_condensation", "Nuclei_Intensity_MaxIntensity_DNA", True),
        ("cell_size", "Cells_AreaShape_Area", True),
        ("cell_rounding", "Cells_AreaShape_Eccentricity", False),
        ("er_intensity", "Cells_Intensity_MeanIntensity_ER", True),
        ("er_perinuclear", "Cells_RadialDistribution_MeanFrac_4of4_ER", False),
        ("rna_intensity", "Cytoplasm_Intensity_MeanIntensity_RNA", True),
        ("nucleoli", "Nuclei_Intensity_StdIntensity_RNA", True),
        ("agp_intensity", "Cells_Intensity_MeanIntensity_AGP", True),
        ("golgi_dispersal", "Cells_RadialDistribution_RadialCV_2of4_AGP", False),
        ("actin_bundles", "Cells_Texture_Contrast_3_00_256_AGP", True),
        ("mito_intensity", "Cells_Intensity_MeanIntensity_Mito", True),
        ("mito_fragmentation", "Cells_RadialDistribution_MeanFrac_4of4_Mito", False),
    ],
)
def test_every_axis_shows_in_its_feature(untreated, axis, feature, rises):
    change = average(axis)[feature] / untreated[feature]
    assert change > 1.05 if rises else change < 0.95


def test_layout_is_jumps(raw):
    assert "SIMULATED" in (raw / "SIMULATED.txt").read_text()
    channels = read(raw / "channels.tsv")
    assert dict(zip(channels["channel"], channels["stain"], strict=True)) == {
        "ch1": "Mito", "ch2": "AGP", "ch3": "RNA", "ch4": "ER", "ch5": "DNA"
    }  # fmt: skip
    experiment = read(raw / "experiment-metadata.tsv")
    assert (experiment["Simulated"] == "simulated").all()
    assert experiment["Batch"].str.contains("simulated").all()
    for plate in experiment.itertuples():
        platemap = read(raw / "platemaps" / f"{plate.Plate_Map_Name}.tsv")
        assert platemap["well_position"].is_unique
        metadata = read(raw / "metadata" / f"{plate.Perturbation}_metadata.tsv")
        assert set(platemap["broad_sample"]) <= set(metadata["broad_sample"])
        images = sorted((raw / "images" / plate.Assay_Plate_Barcode).glob("*.tiff"))
        assert len(images) == 5 * len(platemap) == int(plate.Number_of_images)
        for well in platemap["well_position"]:
            name = f"r{'ABCDEFGH'.index(well[0]) + 1:02d}c{well[1:]}f01p01-ch5sk1fk1fl1.tiff"
            assert raw / "images" / plate.Assay_Plate_Barcode / name in images
    picture = tifffile.imread(images[0])
    assert picture.dtype == np.uint16
    assert picture.shape == (128, 128)


def test_metadata_tells_the_truth(raw):
    compounds = read(raw / "metadata" / "compound_metadata.tsv").set_index("pert_iname")
    assert compounds.loc["nocodazole", "target_list"] == "TUBB"
    assert compounds.loc["nocodazole", "simulated_active"] == "True"
    assert compounds.loc["fexofenadine", "simulated_active"] == "False"
    assert compounds.loc["DMSO", ["broad_sample", "control_type"]].tolist() == ["", "negcon"]
    guides = read(raw / "metadata" / "crispr_metadata.tsv")
    assert (guides["control_type"] == "negcon").sum() == 2
    assert (guides["gene"] == "TUBB").sum() >= 2


def test_same_seed_same_pictures_and_another_seed_others(raw, tmp_path):
    simulate_plates(tmp_path / "again", SMALL)
    other = SimulationConfig(**{**vars(SMALL), "seed": SMALL.seed + 1})
    simulate_plates(tmp_path / "other", other)
    files = sorted(path.relative_to(raw) for path in raw.rglob("*.tiff"))
    assert all((raw / f).read_bytes() == (tmp_path / "again" / f).read_bytes() for f in files[:20])
    assert not all((tmp_path / "other" / f).exists() for f in files)


def test_two_processes_draw_the_same_as_one(raw, tmp_path):
    parallel = SimulationConfig(**{**vars(SMALL), "processes": 2})
    simulate_plates(tmp_path / "raw", parallel)
    for path in sorted(raw.rglob("*.tiff"))[:20]:
        assert path.read_bytes() == (tmp_path / "raw" / path.relative_to(raw)).read_bytes()


def test_a_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match="no simulated folder"):
        simulate_plates(tmp_path, SMALL)
    assert (tmp_path / "mine.txt").read_text() == "precious"


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("n_targets", 0, "n_targets: expected 1 to"),
        ("field_size", 8, "field_size: expected 32"),
        ("controls", 90, "do not fit into 96"),
    ],
)
def test_bad_settings_are_named(tmp_path, setting, value, message):
    with pytest.raises(InputError, match=message):
        simulate_plates(tmp_path / "raw", SimulationConfig(**{**vars(SMALL), setting: value}))
    assert not (tmp_path / "raw").exists()


def test_controls_lie_on_the_edge_and_inside(tmp_path):
    few_pixels = SimulationConfig(
        field_size=32, sites=1, crispr_plates=0, orf_plates=0, compound_plates=1, processes=1,
        cells=1.0,
    )  # fmt: skip
    simulate_plates(tmp_path / "raw", few_pixels)
    platemap = read(tmp_path / "raw" / "platemaps" / "simulated_compound_platemap.tsv")
    wells = platemap.loc[platemap["broad_sample"] == "", "well_position"]
    assert len(wells) == few_pixels.controls
    edge = wells.str[0].isin(["A", "H"]) | wells.str[1:].isin(["01", "12"])
    assert 2 <= edge.sum() <= len(wells) - 2
    assert wells.str[0].nunique() >= 5


def test_the_table_is_consistent():
    assert len({target.gene for target in TARGETS}) == len(TARGETS) == 24
    for effects in [target.effects for target in TARGETS] + list(OFF_TARGETS.values()):
        assert set(effects) <= set(AXES)
    compounds = [name for target in TARGETS for name in target.compounds]
    assert len({*compounds, *INACTIVE_COMPOUNDS}) == len(compounds) + len(INACTIVE_COMPOUNDS)
    assert set(SMILES) <= {*compounds, *INACTIVE_COMPOUNDS}
    assert not {target.gene for target in TARGETS} & set(INACTIVE_GENES)


def test_held_out_targets_are_new_combinations_of_known_effects():
    def signed(target):
        return {(axis, value > 0) for axis, value in target.effects.items()}

    train = [target for target in TARGETS if target.gene not in HELD_OUT_TARGETS]
    known = set().union(*map(signed, train))
    held_out = [target for target in TARGETS if target.gene in HELD_OUT_TARGETS]
    assert len(held_out) == len(HELD_OUT_TARGETS)
    for target in held_out:
        assert signed(target) <= known, target.gene
        assert all(signed(target) != signed(other) for other in train)


def test_library_says_who_is_active():
    library = simulation_library(SimulationConfig())
    inactive = {*INACTIVE_COMPOUNDS, *INACTIVE_GENES}
    for reagent in library:
        assert reagent.active == (not reagent.control and reagent.name not in inactive)
    assert len({(r.modality, r.broad_sample) for r in library}) == len(library)


def test_an_opposite_orf_is_opposite():
    config = SimulationConfig(off_target_strength=0.0)
    for reagent in simulation_library(config):
        if reagent.modality == "orf" and reagent.active:
            target = next(t for t in TARGETS if t.gene == reagent.target)
            agreement = float(reagent.effects @ axis_vector(target.effects))
            assert (agreement > 0) == target.orf_mimics


@pytest.mark.parametrize("extreme", [-4.0, 4.0])
def test_extreme_effects_stay_finite_and_never_negative(extreme):
    field = render_field(np.full((30, len(AXES)), extreme), 128, np.random.default_rng(0))
    assert np.isfinite(field).all()
    assert field.min() >= 0


def test_no_cells_no_light():
    field = render_field(np.zeros((0, len(AXES))), 64, np.random.default_rng(0))
    assert field.shape == (5, 64, 64)
    assert not field.any()


def test_camera_without_noise_shows_background_gain_and_vignette():
    ones, half = np.ones(5), np.full((5, 2), 0.5)
    plate = PlateConditions(ones, 300 * ones, half, 0.4 * ones, 0 * half)
    well = WellConditions(ones, density=1.0, blur=0.7)
    twice = WellConditions(2 * ones, density=1.0, blur=0.7)
    stains = np.full((5, 64, 64), 0.5, np.float32)
    rng = np.random.default_rng(0)
    dark = photograph(0 * stains, plate, well, 0.0, rng).astype(float)
    once = photograph(stains, plate, well, 0.0, rng) - dark
    double = photograph(stains, plate, twice, 0.0, rng) - dark
    assert dark[:, 32, 32] == pytest.approx(300, abs=2)
    assert (dark[:, 0, 0] < 0.9 * dark[:, 32, 32]).all()
    np.testing.assert_allclose(double, 2 * once, atol=2)


def test_drawn_cells_are_counted():
    field = render_field(np.zeros((10, len(AXES))), 256, np.random.default_rng(1))
    cells = measure_site(field, CHANNELS)
    assert 6 <= cells[COUNT].iloc[0] <= 10  # a cell may lie outside the border
