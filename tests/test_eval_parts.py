"""The small parts of the evaluation: intervals, recall, splits, report, doctests."""

import doctest
import importlib
import pkgutil

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import eval as package
from data.errors import InputError
from eval import report
from eval.bootstrap import bootstrap_means, communities, interval
from eval.published import published_fractions
from eval.recall import gene_recall, read_pairs
from eval.splits import OFFICIAL_TEST_TARGETS, held_out_targets


@pytest.mark.parametrize(
    "name", [m.name for m in pkgutil.iter_modules(package.__path__) if not m.ispkg]
)
def test_doctests(name):
    assert doctest.testmod(importlib.import_module(f"eval.{name}")).failed == 0


def test_communities_hold_labels_that_share_members():
    members = pd.Series(["a|b", "b|c", "x|y", "", "y|z", ""])
    found = communities(members)
    assert found[0] == found[1]
    assert found[2] == found[4]
    assert len(set(found)) == 4  # the two without members stand alone


def test_intervals_widen_when_labels_hang_together():
    rng = np.random.default_rng(0)
    values = np.repeat(rng.normal(size=20), 10)
    alone = interval(bootstrap_means(values, np.arange(200)))
    together = interval(bootstrap_means(values, np.repeat(np.arange(20), 10)))
    assert together[1] - together[0] > 2 * (alone[1] - alone[0])


def test_intervals_cover_the_truth():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        community = np.repeat(np.arange(30), 4)
        values = rng.normal(size=30)[community] + rng.normal(size=120)
        low, high = interval(bootstrap_means(values, community, draws=300))
        covered += low <= 0 <= high
    assert 0.86 <= covered / 200 <= 1


def test_paired_draws_cancel_what_is_common():
    rng = np.random.default_rng(2)
    common, community = rng.normal(size=60) * 5, np.arange(60)
    draws = [bootstrap_means(common + shift, community) for shift in (0.0, 0.1)]
    np.testing.assert_allclose(draws[1] - draws[0], 0.1)


def test_recall_counts_both_tails():
    # 41 genes on a half circle: cosines fall evenly from near 1 to -1
    angle = np.linspace(0, np.pi, 41)
    features = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    genes = pd.Series([f"G{i:02d}" for i in range(41)])
    near = [(f"G{i:02d}", f"G{i + 1:02d}") for i in range(20)]
    far = [("G40", "G00"), ("G39", "G00")]
    middle = [(f"G{i:02d}", f"G{i + 20:02d}") for i in range(18)]
    pairs = pd.DataFrame(near + far + middle + [("G01", "G00"), ("G01", "G01"), ("G01", "X")])
    score = gene_recall(genes, features, pairs.set_axis(["entity1", "entity2"], axis=1))
    assert score.n_pairs == 40  # a pair twice, a pair with itself and an unknown do not count
    assert score.n_missing == 1
    assert score.recall == pytest.approx(22 / 40)
    assert score.chance == pytest.approx(0.1)


def test_random_pairs_have_the_recall_of_chance():
    rng = np.random.default_rng(3)
    genes = pd.Series([f"G{i}" for i in range(120)])
    pairs = pd.DataFrame(rng.choice(genes, size=(3000, 2)), columns=["entity1", "entity2"])
    score = gene_recall(genes, rng.normal(size=(120, 16)), pairs)
    assert score.recall == pytest.approx(0.1, abs=0.03)


def test_pairs_are_read_and_checked(tmp_path):
    (tmp_path / "a.gmt").write_text("set\tlink\tB\tA\tC\nother\tlink\tA\tB\n")
    pairs = read_pairs(tmp_path / "a.gmt")
    assert pairs.to_numpy().tolist() == [["A", "B"], ["A", "C"], ["B", "C"]]
    (tmp_path / "b.csv").write_text("gene,other\nA,B\n")
    with pytest.raises(InputError, match="columns entity1 and entity2"):
        read_pairs(tmp_path / "b.csv")
    with pytest.raises(InputError, match="not found"):
        read_pairs(tmp_path / "c.csv")
    with pytest.raises(InputError, match="only 3 of 3 known pairs"):
        gene_recall(pd.Series(["A", "B", "C"]), np.eye(3), pairs)


def test_held_out_targets_come_from_the_official_list_or_the_column():
    lists = ["PLK1|BRAF", "BRAF", "TUBB3", ""]
    wells = pd.DataFrame(
        {
            "Metadata_target_list": lists,
            "Metadata_split": ["test", "train", "test", "train"],
        }
    )
    assert len(OFFICIAL_TEST_TARGETS) == 32
    assert held_out_targets(wells, "official") == {"PLK1"}
    assert held_out_targets(wells, "column") == {"PLK1", "TUBB3"}  # BRAF was trained on
    with pytest.raises(InputError, match="none of the 1 targets is held out"):
        held_out_targets(wells[1:2], "official")
    with pytest.raises(InputError, match="no column Metadata_split"):
        held_out_targets(wells[["Metadata_target_list"]], "column")
    with pytest.raises(InputError, match="unknown split"):
        held_out_targets(wells, "random")


def test_reports_escape_text_and_need_no_other_file():
    drawing = Figure()
    drawing.subplots().plot([1, 2])
    frame = pd.DataFrame({"name": ["<b>", None], "x": [1.23456, np.nan], "n": [1, 2]})
    html = report.page(
        "A & B",
        [
            ("First <i>", [report.text("x < y"), report.table(frame)]),
            ("Second", [report.figure(drawing, 'a "line"')]),
        ],
    )
    for piece in ("A &amp; B", "First &lt;i&gt;", "x &lt; y", "&lt;b&gt;", "1.235", "&ndash;"):
        assert piece in html
    assert "data:image/png;base64,iVBOR" in html
    assert "a &#34;line&#34;" in html
    assert "http" not in html


def test_the_published_table_is_the_papers():
    table = published_fractions()
    means = table.groupby("task")["published"].mean().to_dict()  # the text says .528, .010, .135
    expected = {"activity": 0.528, "gene_compound": 0.010, "matching": 0.135}
    assert means == pytest.approx(expected, abs=0.0011)
    assert table.groupby("task").size().to_dict() == {
        "activity": 12,
        "gene_compound": 16,
        "matching": 8,
    }
