"""Statistics of cells: measured as facts are, averaged cell by cell, painted for attributions."""

import numpy as np
import pandas as pd
import pytest
import torch

from data.channels import CHANNELS, STAINS
from data.measure import measure_site
from data.spread import column_means
from vlm.cells import FINE_ENOUGH, STATISTICS, encode_cells, measure_cells, paint_cells


def field(side: int = FINE_ENOUGH, cells: int = 9, seed: int = 0) -> np.ndarray:
    """Round cells on a grid: nuclei in DNA, the other stains around them, each its own way."""
    rng = np.random.default_rng(seed)
    places = (np.arange(3) + 0.5) * side / 3
    y, x = np.mgrid[:side, :side]
    planes = np.zeros((len(CHANNELS), side, side))
    for number in range(cells):
        cy, cx = places[number // 3] + rng.normal(), places[number % 3]
        away = np.hypot(y - cy, (x - cx) * rng.uniform(0.8, 1.2)) / side
        planes[0] += np.clip((0.05 - away) * 80, 0, 1)
        for stain in range(1, len(CHANNELS)):
            planes[stain] += np.exp(-((away / (0.05 + 0.008 * stain)) ** 2))
    return planes + 0.01 * rng.random(planes.shape)


def test_what_facts_measure_too_is_the_same():
    planes = field()
    _, statistics = measure_cells(planes, CHANNELS)
    expected = measure_site(planes, CHANNELS)
    assert len(statistics) == len(expected) == 9
    found = pd.DataFrame(statistics[:, CHANNELS.index("ER")], columns=list(STATISTICS))
    own = {
        "Correlation_DNA": "Cells_Correlation_Correlation_DNA_ER",
        "Correlation_Mito": "Cells_Correlation_Correlation_ER_Mito",
        "MeanFrac_3of4": "Cells_RadialDistribution_MeanFrac_3of4_ER",
        "MeanIntensity_Cells": "Cells_Intensity_MeanIntensity_ER",
        "Texture_Cells": "Cells_Texture_Correlation_3_00_256_ER",
        "FormFactor": "Cells_AreaShape_FormFactor",
    }
    for name, feature in own.items():
        np.testing.assert_allclose(found[name], expected[feature], rtol=1e-4, err_msg=name)
    nuclei = statistics[:, CHANNELS.index("DNA"), STATISTICS.index("Area")]
    np.testing.assert_allclose(nuclei, expected["Nuclei_AreaShape_Area"], rtol=1e-4)
    assert found["Correlation_Actin"].isna().all()  # not imaged
    assert found["Correlation_ER"].isna().all()  # with itself


def test_each_cell_counts_alike_and_painted_it_gives_the_same_average():
    labels, statistics = measure_cells(field(FINE_ENOUGH // 2), CHANNELS)
    assert labels.shape == (FINE_ENOUGH, FINE_ENOUGH)
    column = STATISTICS.index("MeanFrac_4of4")
    statistics[2, 1, column] = np.nan  # one cell has no value
    average = column_means(statistics)
    known = np.isfinite(average)
    others = np.delete(statistics[:, 1, column], 2)
    assert average[1, column] == pytest.approx(others.mean(), rel=1e-5)
    weight, values = paint_cells(labels, statistics)
    assert weight.sum().item() == pytest.approx(len(statistics), rel=1e-5)
    painted = (weight * values).sum(dim=(-2, -1)) / weight.sum()
    np.testing.assert_allclose(painted.numpy()[known], average[known], rtol=1e-3)


def test_a_smaller_field_is_enlarged_and_gives_about_the_same():
    large = field()
    small = large.reshape(len(large), FINE_ENOUGH // 2, 2, FINE_ENOUGH // 2, 2).mean(axis=(2, 4))
    one, other = (column_means(measure_cells(planes, CHANNELS)[1]) for planes in (large, small))
    for name in ("Area", "MeanIntensity_Cells", "MeanFrac_1of4"):
        column = STATISTICS.index(name)
        np.testing.assert_allclose(one[:, column], other[:, column], rtol=0.1, err_msg=name)


@pytest.mark.parametrize("lost", ["cells", "DNA"])
def test_without_cells_or_dna_there_are_no_statistics(lost):
    planes = field(cells=0 if lost == "cells" else 9)
    if lost == "DNA":
        planes[0] = 0.3
    labels, statistics = measure_cells(planes, CHANNELS)
    assert not labels.any()
    assert statistics.shape == (0, len(CHANNELS), len(STATISTICS))
    average = column_means(statistics)
    assert np.isnan(average).all()
    weight, _ = paint_cells(labels, statistics)
    assert not torch.any(weight)


def test_a_plane_without_an_image_is_left_out_and_changes_no_other():
    planes = field()
    planes[CHANNELS.index("AGP")] = 0.7
    statistics = column_means(measure_cells(planes, CHANNELS)[1])
    assert np.isnan(statistics[CHANNELS.index("AGP")]).all()
    without = [stain for stain in CHANNELS if stain != "AGP"]
    rows = [CHANNELS.index(stain) for stain in without]
    alone = column_means(measure_cells(planes[rows], without)[1])
    np.testing.assert_array_equal(statistics[rows], alone)
    assert np.isnan(statistics[:, STAINS.index("AGP")]).all()


def test_what_rounding_leaves_of_a_flat_plane_is_no_image():
    planes = torch.from_numpy(field(FINE_ENOUGH // 2)).float().sqrt()
    agp = CHANNELS.index("AGP")
    planes[agp] = 0.7
    flat = encode_cells(planes[None, None], CHANNELS, (0.5, 0.0, 1.0))
    planes[agp, ::3] += 1e-6
    rounded = encode_cells(planes[None, None], CHANNELS, (0.5, 0.0, 1.0))
    torch.testing.assert_close(rounded, flat, rtol=0, atol=0, equal_nan=True)
    assert rounded[0, 0, :, STAINS.index("AGP")].isnan().all()
