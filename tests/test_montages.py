"""Wells as pictures: what is drawn adds up to what was found."""

import numpy as np
import pandas as pd
import pytest
from helpers import draw_site
from hypothesis import given, settings
from hypothesis import strategies as st

from data.channels import CHANNELS
from eval.montages import MAX_SITES, attribution_figure, described_figure, find_cells, sum_by_cell
from eval.run_report import explained_blocks


def draw_fields(sites: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    fields = np.stack([draw_site(rng, size=64, cells=5)[::-1] for _ in range(sites)])
    return np.maximum(fields, 300) - 300


def shares(sites: int, columns: list[str]) -> pd.DataFrame:
    values = np.random.default_rng(1).normal(size=(sites, len(columns)))
    return pd.DataFrame(values, [f"site {s}" for s in range(sites)], columns)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99), st.sampled_from([(8, 8), (5, 7), (16, 4)]))
def test_cells_and_background_add_up_to_the_field(seed, shape):
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 4, (8, 8)).astype(np.int32)
    cells[0, 0] = 3  # labels 1..n
    heat = rng.normal(size=shape)
    by_cell = sum_by_cell(heat, cells)
    assert by_cell.shape == (3,)
    outside = sum_by_cell(heat, np.where(cells == 0, 1, 0).astype(np.int32))
    np.testing.assert_allclose(by_cell.sum() + outside.sum(), heat.sum(), atol=1e-9)


def test_cells_of_a_prepared_field_are_found():
    field = draw_fields(1)[0]
    assert 2 <= find_cells(field, CHANNELS).max() <= 8
    assert find_cells(np.zeros_like(field), CHANNELS).max() == 0


@pytest.mark.parametrize("sites", [1, MAX_SITES + 2])
def test_a_row_a_site_and_a_column_a_channel_beside_the_cells(sites):
    parts = shares(sites, list(CHANNELS))
    heat = np.random.default_rng(2).normal(size=(sites, 5, 32, 32))
    drawing = attribution_figure(draw_fields(sites), CHANNELS, heat, parts, "P1 A01")
    rows = min(sites, MAX_SITES)
    assert len(drawing.axes) == rows * 6
    assert drawing.axes[0].get_title() == f"DNA  {parts['DNA'].sum():+.2f}"
    strongest = parts.sum(axis=1).abs().nlargest(rows).index
    shown = {axes.get_ylabel().split("\n")[0] for axes in drawing.axes[::6]}
    assert shown == set(strongest)
    if rows < sites:
        assert drawing.get_suptitle() == f"P1 A01 (the strongest {rows} of {sites} sites)"


def test_described_wells_are_drawn_a_row_each_with_what_was_not_imaged():
    fields = draw_fields(2)
    fields[1, 2] = 0
    drawing = described_figure(list(fields), CHANNELS, ["P1 A01\nsaid", "P1 A02"])
    assert len(drawing.axes) == 2 * 6
    assert [axes.get_title() for axes in drawing.axes[:5]] == list(CHANNELS)
    written = [[text.get_text() for text in axes.texts] for axes in drawing.axes]
    assert written[5] == ["P1 A01\nsaid"] and written[11] == ["P1 A02"]
    assert written[8] == ["not imaged"] and written[2] == []


def test_one_stream_of_all_channels_is_drawn_over_each():
    heat = np.ones((2, 1, 32, 32))
    drawing = attribution_figure(draw_fields(2), CHANNELS, heat, shares(2, ["all channels"]), "")
    assert [axes.get_title() for axes in drawing.axes[:6]] == [*CHANNELS, "cells"]


def test_the_report_shows_the_pictures_that_are_there(tmp_path):
    assert len(explained_blocks(tmp_path)) == 1  # only words: the section is left out
    (tmp_path / "explained").mkdir()
    (tmp_path / "explained" / "P1-A01.png").write_bytes(b"picture")
    assert 'alt="P1-A01"' in explained_blocks(tmp_path)[1]
