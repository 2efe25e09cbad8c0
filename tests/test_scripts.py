"""The whole path as a user walks it, small: plates in, matches and descriptions out."""

import io
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file
from tiny import save_tiny_language_model

SCRIPTS = sorted((ROOT / "scripts").glob("[!_]*.py"))

SIMULATION = """\
# python scripts/simulate_plates.py --config simulation.yaml --out RAW
n_targets: 3
n_inactive_compounds: 2
n_inactive_genes: 1
compound_plates: 2
crispr_plates: 2
orf_plates: 2
controls: 8
sites: 1
field_size: 64
cells: 150.0
processes: 1
"""

# Steps so few that nothing is learnt: the numbers are tested elsewhere, here the path.
TRAINING = """\
# accelerate launch scripts/train_lora.py --config training.yaml
data: prepared
out: run
phase: both
image_size: 64
hidden_size: 32
num_latents: 2
align_steps: 4
align_num_targets: 2
align_num_unlabelled: 4
align_max_prompt_tokens: 400
align_prompt_every: 2
max_steps: 3
per_device_train_batch_size: 4
max_length: 1000
report_to: none
use_cpu: true
bf16: false
seed: 0
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Everything that the path makes lies here."""
    return tmp_path_factory.mktemp("path")


@pytest.fixture
def run(run, monkeypatch, folder):
    """Run a script in this process, in the folder: (exit code, what it printed, error line)."""
    monkeypatch.chdir(folder)
    return run


@pytest.fixture
def trained(folder, run) -> Path:
    """The folder after simulating, preparing, writing captions and training, once."""
    if (folder / "run" / "model" / "describe").is_dir():
        return folder
    assert not (folder / "raw").exists(), "the path broke in an earlier test"
    (folder / "simulation.yaml").write_text(SIMULATION)
    (folder / "training.yaml").write_text(TRAINING)
    save_tiny_language_model(folder / "language")
    run("simulate_plates", "--config", "simulation.yaml", "--out", "raw")
    source = ("--source", "plates", "--input", "raw", "--processes", 1)
    run("prepare_data", *source, "--out", "prepared", "--size", 64, "--held_out_targets", 1)
    run("build_captions", "--data", "prepared")
    # The real command, from a folder that is not the project's.
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    script = str(ROOT / "scripts" / "train_lora.py")
    finished = subprocess.run(
        [*launch, script, "--config", "training.yaml", "--language_model", "language"],
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return folder


def test_training_leaves_a_model_folder_and_its_history(trained):
    model = trained / "run" / "model"
    assert {path.name for path in model.iterdir() if path.is_dir()} == {"align", "describe"}
    assert (model / "model.safetensors").is_file()
    seconds = json.loads((trained / "run" / "train_seconds.json").read_text())
    assert set(seconds) == {"align", "describe"}
    history = (trained / "run" / "align_history.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in history] == [0, 2]
    assert {path.name for path in (trained / "run").iterdir()} == {
        "model",
        "align_history.jsonl",
        "describe_history.jsonl",
        "train_seconds.json",
        "training.json",
        "training_text.parquet",
    }  # no checkpoints: a new model must not go on from these
    wells = pd.read_parquet(trained / "prepared" / "wells.parquet")
    assert wells["Metadata_simulated"].all()
    assert set(wells["Metadata_split"]) == {"train", "test"}


def test_a_finished_training_is_not_repeated(trained, run):
    weights = trained / "run" / "model" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    code, printed, _ = run("train_lora", "--config", "training.yaml")
    assert code == 0
    assert "model: run/model" in printed
    assert weights.stat().st_mtime_ns == before


def test_a_new_model_owes_nothing_to_an_older_one(trained, run):
    """Not even where the older one's phase describe was interrupted."""
    run_folder = trained / "again"
    (run_folder / "describe_checkpoints" / "checkpoint-3").mkdir(parents=True)
    settings = ("--config", "training.yaml", "--language_model", "language", "--out", "again")
    code, _, _ = run("train_lora", *settings, "--use_cpu", "true")
    assert code == 0
    for file in ("model.safetensors", "describe/adapter_model.safetensors"):
        ours, theirs = (
            load_file(run_folder / "model" / file),
            load_file(trained / "run/model" / file),
        )
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():  # and the same seed gives the same model
            assert torch.allclose(value, theirs[name], atol=1e-6), name


def test_the_audit_finds_a_run_clean_and_a_planted_leak(trained, run):
    paths = ("--run", "run", "--data", "prepared")
    code, printed, _ = run("audit_leakage", *paths)
    assert code == 0
    assert "held-out targets are clean" in printed
    path = trained / "run" / "training_text.parquet"
    honest = pd.read_parquet(path)
    wells = pd.read_parquet(trained / "prepared" / "wells.parquet")
    target = wells.loc[wells["Metadata_split"] == "test", "Metadata_target_list"].max()
    honest.assign(text=honest["text"] + f" {target} is known").to_parquet(path)
    code, _, error = run("audit_leakage", *paths)
    assert code == 2
    assert f"1 of 1 held-out targets are known from training: {target} (gene {target})" in error
    assert run("audit_leakage", *paths, "--accept_leaks", "gene")[0] == 0
    assert run("report_run", *paths)[0] == 2
    honest.to_parquet(path)


def test_wells_are_embedded(trained, run):
    common = ("--model", "run", "--data", trained / "prepared")
    out = trained / "untrained.parquet"
    code, printed, _ = run(
        "embed_wells", *common, "--out", out, "--representation", "untrained,embedding,backbone"
    )
    assert code == 0
    assert str(out) in printed
    tables = {"untrained": pd.read_parquet(out)}
    for name in ("embedding", "backbone"):
        tables[name] = pd.read_parquet(trained / f"untrained_{name}.parquet")
    wells = pd.read_parquet(trained / "prepared" / "wells.parquet")
    for table in tables.values():
        assert table["Metadata_Well"].tolist() == wells["Metadata_Well"].tolist()
    values = {name: table.filter(regex="^embedding_") for name, table in tables.items()}
    assert values["embedding"].shape[1] == 128
    assert (values["embedding"].dtypes == "float32").all()
    assert ((values["embedding"] ** 2).sum(axis=1) - 1).abs().max() < 1e-4
    assert not values["embedding"].equals(values["untrained"])

    out = trained / "held_out.parquet"
    run("embed_wells", *common, "--out", out, "--query", "Metadata_split == 'test'")
    assert set(pd.read_parquet(out)["Metadata_split"]) == {"test"}


def test_a_well_is_described(trained, run):
    common = ("--model", "run/model", "--data", "prepared", "--plate", "SIMC01")
    well = (
        pd.read_parquet(trained / "prepared" / "wells.parquet")
        .query("Metadata_Plate == 'SIMC01'")["Metadata_Well"]
        .iloc[0]
    )
    code, printed, _ = run("describe_well", *common, "--well", well, "--json", "true")
    assert code == 0
    record = json.loads(printed)
    assert (record["plate"], record["well"]) == ("SIMC01", well)
    assert {"answer", "claims", "measured", "question", "reference"} <= set(record)
    _, again, _ = run("describe_well", *common, "--well", well, "--json")
    assert json.loads(again) == record  # the same well, the same words

    code, printed, _ = run("describe_well", *common, "--well", well, "--ask", "What changed in ER?")
    assert printed.startswith(f"SIMC01 {well}: ")
    code, printed, _ = run(
        "describe_well", *common, "--well", well, "--ask", "Is ER dimmer?", "--json"
    )
    asked = json.loads(printed)
    assert asked["description"] == record["answer"]  # what it is read out of
    assert asked["answer"].startswith(("Yes. ", "No. "))
    out = trained / "descriptions.parquet"
    run("describe_well", *common, "--out", out)
    table = pd.read_parquet(out)
    assert (table["plate"] == "SIMC01").all()
    assert table["claims"].map(json.loads).map(type).eq(list).all()


def test_what_is_said_is_verified_and_explained(trained, run, monkeypatch):
    common = ("--model", "run/model", "--data", "prepared", "--plate", "SIMC01")
    wells = pd.read_parquet(trained / "prepared" / "wells.parquet")
    plate = wells[wells["Metadata_Plate"] == "SIMC01"]
    one = (*common, "--well", plate["Metadata_Well"].iloc[0])

    more = ("--verify", "true", "--cells", "true", "--hypotheses", "true", "--json", "true")
    code, printed, _ = run("describe_well", *one, *more)
    assert code == 0
    record = json.loads(printed)
    assert record["answered_by"] == "model"
    assert record["hypothesis"]["kind"] == "hypothesis, not an observation"
    assert {"verified", "not_said"} <= set(record)
    code, printed, _ = run("describe_well", *one, "--verify", "true", "--style", "table")
    assert code == 0
    assert printed.startswith("SIMC01 ")

    code, printed, _ = run("describe_well", *one, "--ask", "What changed in Actin?", "--json")
    record = json.loads(printed)
    assert (record["answer"], record["answered_by"]) == ("Actin was not imaged.", "rule")
    assert record["claims"] == []
    code, printed, _ = run("describe_well", *one, "--ask", "How sure are you?")
    assert code == 0

    two = (*common, "--well", ",".join(plate["Metadata_Well"].iloc[:2]))
    code, printed, _ = run("describe_well", *two, "--compare", "true")
    assert code == 0
    assert printed.endswith("% of claims are shared.\n")
    alike = ("--ask", "Do these two wells act alike?")
    _, compared, _ = run("describe_well", *two, *alike)
    assert compared.startswith("All: ") and printed.endswith(f"\n{compared}")
    code, printed, _ = run("describe_well", *two, *alike, "--json")
    record = json.loads(printed)
    assert f"{record['comparison']}\n" == compared
    assert list(record["wells"]) == plate["Metadata_Well"].iloc[:2].tolist()

    images = ("blank", "wrong_controls", "none")
    out = trained / "shown.parquet"
    code, _, _ = run("describe_well", *common, "--image", ",".join(images), "--out", out)
    assert code == 0
    for image in images:
        path = out if image == images[0] else out.with_stem(f"shown_{image}")
        said = pd.read_parquet(path)
        assert len(said) == len(plate)
        if image != "wrong_controls":
            assert said["answer"].nunique() == 1  # nothing is known of any well
        assert not path.with_name(f"{path.name}.parts").exists()


def test_a_talk_through_a_terminal(trained, run, monkeypatch):
    wells = pd.read_parquet(trained / "prepared" / "wells.parquet")
    names = wells.query("Metadata_Plate == 'SIMC01'")["Metadata_Well"].iloc[:2].tolist()
    common = ("--model", "run/model", "--data", "prepared", "--plate", "SIMC01", "--chat", "true")

    def talk(wells: list[str], *options: str, lines: list[str]) -> list[str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
        code, printed, _ = run("describe_well", *common, "--well", ",".join(wells), *options)
        assert code == 0
        return printed.splitlines()

    lines = ["And in GFP?", "and in ER?", "What changed in Actin?", "zebra?", "", "never read"]
    gfp, er, actin, zebra = talk(names[:1], lines=lines)  # an empty line ends
    assert (gfp, actin) == ("GFP was not imaged.", "Actin was not imaged.")
    assert "ER" in er
    assert "'zebra?' is not understood" in zebra

    lines = ["and ER?", "What changed in Mito?", "And in ER?", f"and {names[1]}?", "act alike?"]
    refused, *turns = map(json.loads, talk(names, "--json", "true", lines=lines))
    assert set(refused) == {"question", "error"}
    two = ", ".join(names)
    assert [turn["understood"] for turn in turns[:3]] == [
        f"What changed in Mito? ({two})",
        f"What changed in ER? ({two})",
        f"What changed in ER? ({names[1]})",
    ]
    assert turns[1]["wells"][names[0]]["answer"]
    assert turns[3]["comparison"].endswith("% of claims are shared.")

    one = (*common[:-2], "--well", names[0])
    code, _, error = run("describe_well", *one, "--ask", "Which is unlike the others?")
    assert code == 2 and "a comparison takes 3 wells or more, here 1" in error

    verified = talk(names[:1], "--verify", "true", lines=["What changed?", "why?"])
    assert sum("The whole description: " in line for line in verified) == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--ask", "x" * 10_000], "10000 characters, more than 500"),
        (
            ["--plate", "SIMC01", "--ask", "¿Qué cambió en este pozo?"],
            "not understood: ask in English",
        ),
        (["--image", "mirror"], "image is 'mirror'"),
        (["--image", "own,blank"], "several kinds of images need --out"),
        (["--style", "haiku"], "style is 'haiku'"),
        (["--chat", "true"], "--chat is about 96 wells at most"),
        (["--plate", "SIMC01", "--ask", "Is P24 like the others?"], "P24 is not one of the wells"),
        (
            ["--ask", "Which well is the odd one out?", "--out", "o.parquet"],
            "--out writes what is said of each well",
        ),
    ],
)
def test_questions_that_cannot_be_answered_are_one_clear_line(trained, run, arguments, expected):
    common = ("--model", "run", "--data", "prepared")
    code, _, error = run("describe_well", *common, *arguments)
    assert code == 2
    assert expected in error
    assert len(error) < 300


def test_matches_are_found(trained, run):
    wells = pd.read_parquet(trained / "prepared" / "wells.parquet")
    treated = wells[wells["Metadata_modality"] == "compound"].iloc[0]
    common = ("--model", "run", "--data", "prepared", "--top", 5)
    name = treated["Metadata_pert_iname"]
    code, by_name, _ = run("find_matches", *common, "--reagent", name)
    assert code == 0
    assert len(by_name.splitlines()) == 6
    assert by_name.split()[:5] == [
        "broad_sample",
        "modality",
        "pert_iname",
        "target_list",
        "similarity",
    ]
    assert f" {name} " not in by_name  # a reagent is not its own match

    position = ("--plate", treated["Metadata_Plate"], "--well", treated["Metadata_Well"])
    code, by_well, _ = run("find_matches", *common, *position, "--modality", "crispr")
    assert code == 0
    assert all("crispr" in line for line in by_well.splitlines()[1:])

    code, by_text, _ = run("find_matches", *common, "--text", "microtubules are gone")
    assert code == 0
    assert len(by_text.splitlines()) == 6

    run("embed_wells", "--model", "run", "--data", "prepared", "--out", "for_matches.parquet")
    saved = ("--embeddings", "for_matches.parquet", "--reagent", name)
    assert run("find_matches", *common, *saved)[1] == by_name


def test_what_drove_a_well_is_drawn(trained, run):
    wells = pd.read_parquet(trained / "prepared" / "wells.parquet")
    guides = wells[wells["Metadata_modality"] == "crispr"]
    well = wells[wells["Metadata_target_list"].isin(guides["Metadata_pert_iname"])].iloc[0]
    place = ("--plate", well["Metadata_Plate"], "--well", well["Metadata_Well"])
    common = ("--model", "run", "--data", "prepared", *place)
    against = ("--against", well["Metadata_target_list"])
    check = ("--check", "true", "--patches", 2)
    code, printed, _ = run(
        "explain_well", *common, *against, "--modality", "crispr", *check, "--out", "well.png"
    )
    assert code == 0
    assert (trained / "well.png").read_bytes().startswith(b"\x89PNG")
    lines = printed.splitlines()
    assert f"with {well['Metadata_target_list']} (crispr, " in lines[0]
    assert lines[1].split() == ["DNA", "ER", "RNA", "AGP", "Mito", "all", "channels"]
    cosine, total = float(lines[0].split()[3]), float(lines[3].split()[-1])
    assert lines[3].startswith("all sites") and total == pytest.approx(cosine, abs=0.006)
    assert "occlusion ranks 5 sites x channels alike by 1.00, 4 places by " in printed

    control = wells[wells["Metadata_modality"] == "control"].iloc[0]
    other = f"{control['Metadata_Plate']}:{control['Metadata_Well']}"
    assert run("explain_well", *common, "--against", other, "--out", "well.png")[0] == 0
    _, _, error = run("explain_well", *common, *against, "--out", "two.png")
    assert "of the modalities crispr and orf: choose one with --modality" in error
    assert not (trained / "two.png").exists()


@pytest.mark.parametrize(
    ("script", "arguments", "expected"),
    [
        ("embed_wells", "--model nowhere --data prepared --out e.parquet", "nowhere"),
        ("embed_wells", "--model language --data prepared --out e.parquet", "'llama' model"),
        ("embed_wells", "--model run --data raw --out e.parquet", "no manifest.json"),
        (
            "embed_wells",
            "--model run --data prepared --out e.parquet --query Metadata_Plate=='X'",
            "no well fits",
        ),
        ("describe_well", "--model run --data prepared --plate SIMX01", "'SIMX01'"),
        ("describe_well", "--model run --data prepared --plate SIMC01 --well P24", "'P24'"),
        ("describe_well", "--model run --data prepared --ask ", "--ask is empty"),
        ("find_matches", "--model run --data prepared --reagent aspirin", "'aspirin'"),
        ("find_matches", "--model run --data prepared --plate SIMC01 --well P24", "P24"),
        ("find_matches", "--model run --data prepared --text ", "--text is empty"),
        ("find_matches", "--model run --data prepared", "give one of"),
        ("find_matches", "--model run --data prepared --text a --modality rna", "'rna'"),
        (
            "explain_well",
            "--model run --data prepared --plate SIMC01 --well P24 --out w.png",
            "no well P24 on plate SIMC01",
        ),
        (
            "explain_well",
            "--model run --data prepared --plate SIMC01 --well C05 --out w.png --patches 1",
            "patches is 1",
        ),
        ("train_lora", "--data raw --out new --use_cpu true --bf16 false", "no manifest.json"),
        (
            "train_lora",
            "--data prepared --out new --phase describe --use_cpu true --bf16 false",
            "not a model folder",
        ),
    ],
)
def test_bad_input_is_one_clear_line(trained, run, script, arguments, expected):
    before = sorted(trained.rglob("*"))
    code, _, error = run(script, *arguments.split(" "))
    assert code == 2
    assert expected in error
    assert sorted(trained.rglob("*")) == before  # nothing half-written


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_help_says_what_each_setting_is(script, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) > 5
