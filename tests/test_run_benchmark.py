"""The benchmark as a command: comparison, controls, splits, audit, report, and bad input."""

import json
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers_eval import simulate_profiles

from data.errors import InputError
from eval.benchmark import Settings, run_benchmark
from eval.profiles import Profiles, profiles_from_table
from eval.wells import CONDITION

SCRIPT = Path(__file__).parent.parent / "scripts" / "run_benchmark.py"
QUICK = {"null_size": 500}
KEYS = {
    "task",
    "modality",
    "cell",
    "time",
    "protocol",
    "control",
    "votes",
    "split",
    "representation",
    "correction",
    "n_labels",
    "fraction_retrieved",
    "mean_average_precision",
    "normalized_map",
    "ci_low",
    "ci_high",
    "chance",
    "seed",
}


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    layout = [
        ("compound", "U2OS", 48, 2),
        ("crispr", "U2OS", 96, 2),
        ("orf", "U2OS", 48, 2),
    ]
    wells = simulate_profiles(layout, n_targets=16, wells=48, n_features=32, effect=1.5)
    held_out = wells["Metadata_target_list"].str.contains("GENE00[0-7]")
    return wells.assign(Metadata_split=np.where(held_out, "test", "train"))


def group(table: pd.DataFrame, name: str, noise: float = 0) -> Profiles:
    columns = table.filter(like="embedding_").columns
    noisy = table.copy()
    noisy[columns] += noise * np.random.default_rng(0).normal(size=(len(table), len(columns)))
    return profiles_from_table(noisy, name)


def find(benchmark, **names) -> list[dict]:
    return [r for r in benchmark.records if all(r.get(k) == v for k, v in names.items())]


@pytest.fixture(scope="module")
def comparison(table):
    groups = [group(table, "clean"), group(table, "noisy", noise=4)]
    return run_benchmark(
        groups, Settings(corrections=("none", "robust_z"), split="column", **QUICK)
    )


def test_every_record_has_the_keys(comparison):
    for record in comparison.records:
        assert record.keys() >= KEYS
    tasks = [r["task"] for r in find(comparison, protocol="published", control="", split="all")]
    assert sorted(set(tasks)) == ["activity", "gene_compound", "matching"]


def test_records_are_the_means_of_their_labels(comparison):
    names = ["task", "modality", "cell", "time", "protocol", "control", "votes", "split"]
    names += ["representation", "correction"]
    tables = dict(list(comparison.labels.groupby(names)))
    for record in comparison.records:
        if record["n_labels"]:
            labels = tables[tuple(record[n] for n in names)]
            assert len(labels) == record["n_labels"]
            assert record["mean_average_precision"] == pytest.approx(
                labels["mean_average_precision"].mean()
            )
            assert record["fraction_retrieved"] == pytest.approx(labels["retrieved"].mean())
            assert record["ci_low"] <= record["normalized_map"] <= record["ci_high"] or (
                record["n_labels"] < 10
            )


def test_the_fixed_pool_is_the_baselines_active_reagents(comparison):
    active = comparison.labels.query(
        "task == 'activity' and protocol == 'published' and control == '' and split == 'all' "
        "and representation == 'clean' and correction == 'none' and retrieved"
    )
    assert set(comparison.pool["Metadata_broad_sample"]) == set(active["label"])
    sizes = {
        (r["modality"], r["n_pool"])
        for r in find(comparison, protocol="fixed_pool", task="matching", control="", split="all")
    }
    assert len(sizes) == 2  # one pool for compounds and one for guides, whoever is compared


def test_differences_are_paired_and_only_against_the_baseline(comparison):
    names = {"task": "matching", "modality": "compound", "protocol": "fixed_pool", "control": ""}
    names |= {"votes": "compound_set", "split": "all", "correction": "none"}
    (first,) = find(comparison, representation="clean", **names)
    (second,) = find(comparison, representation="noisy", **names)
    assert first["difference"] is None
    gap = second["normalized_map"] - first["normalized_map"]
    assert second["difference"] == pytest.approx(gap)
    assert second["difference_low"] <= gap <= second["difference_high"] < 0


def test_held_out_labels_are_a_part_of_all(comparison):
    names = {"control": "", "task": "gene_compound", "votes": "label", "representation": "clean"}
    for record in find(comparison, split="held_out", **names):
        (whole,) = [
            r
            for r in find(comparison, split="all", **names)
            if all(r[k] == record[k] for k in ("modality", "protocol", "correction"))
        ]
        assert 0 < record["n_labels"] < whole["n_labels"]
    labels = comparison.labels.query("split == 'held_out' and task == 'gene_compound'")
    assert set(labels["label"]) <= {f"GENE{i:03d}" for i in range(8)}


def test_controls_stand_beside_the_results(comparison):
    found = {record["control"] for record in comparison.records}
    assert found == {
        "",
        "label_permuted",
        "control_positions",
        "position_excluded",
        "half_controls_fitted",
        "half_controls_held_out",
        "held_out_negatives",
    }


def test_seeded_runs_are_equal(table):
    quick = Settings(protocols=("published",), controls=False, **QUICK)
    first, second = (run_benchmark([group(table, "x")], quick) for _ in range(2))
    pd.testing.assert_frame_equal(first.labels, second.labels)
    assert first.records == second.records


def test_a_given_pool_is_used_and_checked(table):
    quick = Settings(protocols=("fixed_pool",), controls=False, **QUICK)
    names = [f"compound-{i:03d}" for i in range(10)] + [f"crispr-{i:03d}" for i in range(8)]
    pool = pd.DataFrame({"Metadata_broad_sample": names})
    matched = find(run_benchmark([group(table, "x")], quick, pool), task="matching")
    assert {r["modality"]: r["n_pool"] for r in matched} == {"compound": 10, "crispr": 8}
    with pytest.raises(InputError, match=r"1 reagents are in no condition \(first: BRD-0\)"):
        strange = pd.DataFrame({"Metadata_broad_sample": [*names, "BRD-0"]})
        run_benchmark([group(table, "x")], quick, strange)
    whole = pool.assign(**dict(zip(CONDITION, ("compound", "U2OS", "48"), strict=True)))
    with pytest.raises(InputError, match="reagents of the pool have no profile"):
        run_benchmark([group(table, "x")], quick, whole)


def test_a_target_known_from_training_stops_the_run_or_is_left_out(table):
    quick = Settings(protocols=("published",), controls=False, split="column", **QUICK)
    captions = pd.DataFrame(
        {
            "Metadata_split": ["train", "test"],
            "prompt": ["knocks out gene003 in U2OS", "names GENE004, but is not trained on"],
        }
    )
    with pytest.raises(
        InputError, match=r"1 of \d+ held-out .*: GENE003 \(gene GENE003\).*exclude"
    ):
        run_benchmark([group(table, "x")], quick, training_captions=captions)
    excluding = replace(quick, on_leak="exclude")
    benchmark = run_benchmark([group(table, "x")], excluding, training_captions=captions)
    held_out = benchmark.labels.query("split == 'held_out' and task == 'gene_compound'")
    assert "GENE003" not in set(held_out["label"])
    assert "GENE004" in set(held_out["label"])
    (notice,) = benchmark.notices.query("name == 'leaked_target'").itertuples()
    assert notice.count == 1
    assert "GENE003 are known from training" in notice.where
    assert "without synonyms" in benchmark.notices.set_index("name")["where"]["leak_audit"]
    accepting = replace(quick, accept_leaks=("gene",))
    benchmark = run_benchmark([group(table, "x")], accepting, training_captions=captions)
    held_out = benchmark.labels.query("split == 'held_out' and task == 'gene_compound'")
    assert "GENE003" in set(held_out["label"])
    assert benchmark.notices.set_index("name")["count"]["leak_accepted"] == 1
    with pytest.raises(InputError, match="needs --split"):
        run_benchmark([group(table, "x")], Settings(**QUICK), training_captions=captions)
    everything = captions.assign(
        prompt=" ".join(table["Metadata_target_list"].str.split("|").sum())
    )
    with pytest.raises(InputError, match="held-out targets are known from training"):
        run_benchmark([group(table, "x")], excluding, training_captions=everything)


def test_held_out_without_an_audit_is_noted(table):
    quick = Settings(protocols=("published",), controls=False, split="column", **QUICK)
    notices = run_benchmark([group(table, "x")], quick).notices.set_index("name")
    assert "not checked" in notices["where"]["leak_audit_missing"]


def test_plates_without_controls_are_counted_and_the_others_scored(table):
    crispr = table["Metadata_modality"] == "crispr"
    cut = table[~(crispr & (table["Metadata_control_type"] == "negcon"))]
    benchmark = run_benchmark([group(cut, "x")], Settings(**QUICK))
    assert benchmark.notices.set_index("name")["count"]["plate_without_controls"] == 2
    names = {"task": "activity", "protocol": "published", "control": ""}
    scored = {r["modality"]: r["n_labels"] for r in find(benchmark, **names)}
    assert scored["crispr"] == 0 < scored["compound"]
    with pytest.raises(InputError, match="correction sphering: plate SIM00003 has no negative"):
        run_benchmark([group(cut, "x")], Settings(corrections=("sphering",), **QUICK))


def test_nothing_to_score_is_an_error(table):
    once = table.drop_duplicates("Metadata_broad_sample")
    wells = pd.concat([once, table.query("Metadata_control_type == 'negcon'")]).drop_duplicates(
        ["Metadata_Plate", "Metadata_Well"]
    )
    with pytest.raises(InputError, match="nothing can be scored"):
        run_benchmark([group(wells, "x")], Settings(protocols=("published",), **QUICK))


def test_single_replicates_and_reagents_are_counted(table):
    quick = Settings(protocols=("fixed_pool",), controls=False, **QUICK)
    once = table["Metadata_broad_sample"] == "compound-003"
    cut = table.drop(index=table.index[once][1:]).reset_index(drop=True)
    benchmark = run_benchmark([group(cut, "x")], quick)
    counts = benchmark.notices.set_index("name")["count"]
    assert counts["single_replicate"] == 1
    assert counts["single_reagent_target"] > 0
    activity = benchmark.labels.query("task == 'activity'")["label"]
    assert "compound-003" not in set(activity)


def test_the_command_writes_everything(table, tmp_path):
    table.to_parquet(tmp_path / "first.parquet")
    noisy = table.copy()
    noisy["embedding_000"] = 1.0  # a constant: a notice
    noisy.to_csv(tmp_path / "second.csv.gz", index=False)
    sets = ["A\t-\t" + "\t".join(f"GENE{i:03d}" for i in range(8))]
    (tmp_path / "pairs.gmt").write_text("\n".join(sets))
    (tmp_path / "run.yaml").write_text("null_size: 200\nprotocols: [published, cellclip]\n")
    arguments = ["--config", "run.yaml", "--profiles", "first.parquet"]
    arguments += ["--profiles", "second.csv.gz", "--names", "one", "two", "--out", "run"]
    arguments += ["--protocols", "published", "fixed_pool", "--gene-pairs", "pairs.gmt"]
    words = [sys.executable, str(SCRIPT), *arguments, "--split", "column"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    records = json.loads((run / "metrics.json").read_text())
    assert {r["protocol"] for r in records} == {"published", "fixed_pool", "pairs"}
    assert all(r["null_size"] == 200 for r in records if r["task"] != "gene_recall")
    recall = [r for r in records if r["task"] == "gene_recall"]
    assert all(r["n_pairs"] == 28 and 0 <= r["recall"] <= 1 for r in recall)
    labels = pd.read_parquet(run / "labels.parquet")
    assert len(pd.read_csv(run / "labels.csv")) == len(labels)
    assert {"label", "mean_average_precision", "p_value", "q_value", "n_pos", "n_total"} <= set(
        labels
    )
    notices = json.loads((run / "notices.json").read_text())
    assert [n["count"] for n in notices if n["name"] == "constant_feature"] == [1]
    report = (run / "report.html").read_text()
    assert "constant_feature" in report
    assert "data:image/png;base64," in report
    assert 'src="http' not in report and 'href="http' not in report
    assert (run / "figures" / "published_activity_significance.png").stat().st_size > 1000
    assert "constant_feature (1)" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profiles", "none.csv", "--out", "run"], "profile file not found: none.csv"),
        (["--profiles", "a.parquet"], "--out is missing"),
        (["--config", "bad.yaml"], "bad.yaml: unknown key pathway"),
        (["--profiles", "a.parquet", "--out", "run", "--names", "x", "y"], "1 --profiles but 2"),
        (["--profiles", "a.parquet", "--out", "run", "--pool", "b.tsv"], "pool not found: b.tsv"),
        (["--profiles", "a.parquet", "a.parquet", "--out", "run"], "wells occur twice"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    table, tmp_path, monkeypatch, capsys, arguments, message
):
    table.to_parquet(tmp_path / "a.parquet")
    (tmp_path / "bad.yaml").write_text("pathway: true\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(SCRIPT.parent)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "run").exists()
