"""Cliff's delta of single cells, against counting pairs, and on cells of a small store."""

import numpy as np
import pandas as pd
import pytest
from helpers import write_tiff_plate, write_tiny_store
from hypothesis import given
from hypothesis import strategies as st

from captions.cells import cliffs_delta, slot_deltas
from captions.slots import Slot
from data.cells import measure_stored_cells

values = st.lists(st.integers(-3, 3).map(float), min_size=5, max_size=9).map(np.array)


@given(values, values)
def test_cliffs_delta_counts_pairs(x, y):
    pairs = np.sign(x[:, None] - y[None])
    assert cliffs_delta(x, y) == pytest.approx(pairs.mean())
    assert cliffs_delta(y, x) == pytest.approx(-pairs.mean())
    with_nan = np.append(x, np.nan)
    assert cliffs_delta(with_nan, y) == pytest.approx(pairs.mean())


def test_few_cells_say_nothing():
    assert np.isnan(cliffs_delta(np.ones(4), np.ones(50)))


def test_slots_are_medians_of_signed_features():
    rng = np.random.default_rng(0)
    controls = pd.DataFrame(
        rng.normal(size=(200, 3)),
        columns=[
            "Nuclei_AreaShape_Area",
            "Nuclei_AreaShape_Eccentricity",
            "Image_Count_Nuclei",
        ],
    )
    cells = controls + 10
    cells["Cells_Intensity_MeanIntensity_ER"] = 1.0  # the controls lack it
    assert slot_deltas(cells, controls) == {
        Slot("nuclei", "", "size"): 1.0,
        Slot("nuclei", "", "shape"): -1.0,  # eccentricity counts against roundness
    }


def test_cells_of_a_store_are_measured(tmp_path):
    write_tiff_plate(tmp_path / "raw", wells={"A01": "", "A02": "BRD-1", "A03": ""}, sites=2)
    write_tiny_store(tmp_path / "raw", tmp_path / "store", size=96, measure=False)
    cells = measure_stored_cells(tmp_path / "store", [("P1", "A02")])
    controls = measure_stored_cells(tmp_path / "store", [("P1", "A01"), ("P1", "A03")], max_sites=2)
    assert len(cells) > 5
    assert cells["Image_Count_Nuclei"].nunique() <= 2  # one value a site
    deltas = slot_deltas(cells, controls)
    assert Slot("cells", "Mito", "intensity") in deltas
    assert all(-1 <= delta <= 1 for delta in deltas.values())
