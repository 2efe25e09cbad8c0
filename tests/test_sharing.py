"""What leaves the machine: merged models, the model card, the hub."""

import json
import shutil
from pathlib import Path

import huggingface_hub.constants
import pandas as pd
import pytest
import torch
import yaml
from hub import local_hub
from transformers import AutoModelForImageTextToText

from data.store import load_wells
from eval.leaks import TRAINING_TEXT
from eval.model_card import write_model_card
from vlm.adapters import DESCRIBE, bare, load_model
from vlm.describe import describe
from vlm.instruct import well_embeddings, well_tokens
from vlm.wells import open_wells

METRICS = {
    "matching": {
        "gene_compound": {
            "embedding": {"map": 0.5, "map_low": 0.4, "map_high": 0.6, "chance": 0.15},
        },
        "chance": {"gene_compound": 0.15},
    },
    "claims": {
        "model": {"precision": 0.3, "recall": 0.2, "intervals": {"precision": [0.25, 0.35]}}
    },
    "command": "python scripts/report_run.py --run RUN",
}


def test_a_merged_model_loads_and_speaks_without_peft(training_folder, whole_run, run, tmp_path):
    code, printed, _ = run("merge_adapters", "--model", whole_run, "--out", tmp_path / "merged")
    assert code == 0
    assert "merged describe" in printed
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged")
    assert not any("lora_" in name for name, _ in plain.named_parameters())
    said = []
    for folder in (whole_run, tmp_path / "merged"):
        model, processor = load_model(folder)
        bank = open_wells(training_folder / "prepared", bare(model), processor)
        tokens = well_tokens(model, bank)
        words = describe(model, processor, tokens[:4], "What changed?", max_new_tokens=12)
        said.append((well_embeddings(model, bank), [answer.text for answer in words]))
    assert abs(said[0][0] - said[1][0]).max() < 1e-5
    assert said[0][1] == said[1][1]


def test_merging_does_not_replace_what_it_merges(whole_run, run):
    code, _, error = run("merge_adapters", "--model", whole_run, "--out", whole_run / "model")
    assert code == 2
    assert "would replace the model" in error
    assert (whole_run / "model" / DESCRIBE).is_dir()


def test_a_smaller_dtype_is_kept(whole_run, run, tmp_path):
    run("merge_adapters", "--model", whole_run, "--out", tmp_path / "m", "--dtype", "bfloat16")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "m", dtype="auto")
    assert model.lm_head.weight.dtype == torch.bfloat16


@pytest.fixture
def carded(whole_run, tmp_path) -> Path:
    """A copy of the run with numbers, as after report_run.py."""
    run = Path(shutil.copytree(whole_run, tmp_path / "carded"))
    (run / "metrics.json").write_text(json.dumps(METRICS))
    return run


def test_the_card_says_what_the_run_says(training_folder, carded):
    text = write_model_card(carded, training_folder / "prepared").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert head["license"] == "other"  # nobody says what the tiny language model's is
    assert "| gene compound mAP | embedding | 0.500 | 0.400 to 0.600 | 0.150 |" in text
    assert "| claims: precision | model | 0.300 | 0.250 to 0.350 | - |" in text
    assert "| claims: recall | model | 0.200 | - | - |" in text
    assert "| language model | language | unknown |" in text
    trained = load_wells(training_folder / "prepared").query("Metadata_split == 'train'")
    assert f"trained on | {len(trained)} wells" in text
    assert "nothing to audit, no target was held out" in text
    assert "Trained on simulated plates" in text
    assert METRICS["command"] in text
    settings = json.loads(text.split("```json")[1].split("```")[0])
    assert settings["align_steps"] == 8


def test_a_held_out_target_that_a_text_names_is_a_leak(training_folder, carded):
    data = Path(shutil.copytree(training_folder / "prepared", carded / "prepared"))
    manifest = json.loads((data / "manifest.json").read_text())
    (data / "manifest.json").write_text(json.dumps(manifest | {"held_out_targets": ["AURKB"]}))
    seen = pd.DataFrame({"text": ["no gene is named"], "Metadata_split": "train"})
    seen.to_parquet(carded / TRAINING_TEXT)
    clean = write_model_card(carded, data).read_text()
    assert "none of the 1 held-out targets is known from 1 texts" in clean
    seen.assign(text="an inhibitor of AURKB").to_parquet(carded / TRAINING_TEXT)
    assert "LEAK: training knew AURKB" in write_model_card(carded, data).read_text()


@pytest.fixture
def hub(monkeypatch):
    """A hub on this machine."""
    with local_hub() as (address, repositories):
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setenv("HF_TOKEN", "hf_stand_in")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        yield repositories


def pushed(model: Path, only: tuple[str, ...] = ("",)) -> dict[str, bytes]:
    return {
        str(path.relative_to(model)): path.read_bytes()
        for path in model.rglob("*")
        if path.is_file() and str(path.relative_to(model)).startswith(only)
    }


def test_a_model_folder_is_pushed_whole(training_folder, carded, hub, run):
    data = ("--data", training_folder / "prepared")
    code, printed, error = run("push_to_hub", "--model", carded, "--repo_id", "lab/m", *data)
    assert code == 0, error
    assert "uploaded" in printed
    assert hub["lab/m"]["private"]
    assert hub["lab/m"]["files"] == pushed(carded / "model")
    assert b"MorphoCLIP" in hub["lab/m"]["files"]["README.md"]


def test_adapters_are_pushed_alone(training_folder, carded, hub, run):
    write_model_card(carded, training_folder / "prepared")
    words = (
        "--model",
        carded,
        "--repo_id",
        "lab/a",
        "--adapters_only",
        "true",
        "--private",
        "false",
    )
    code, _, error = run("push_to_hub", *words)
    assert code == 0, error
    assert not hub["lab/a"]["private"]
    wanted = pushed(carded / "model", ("README.md", "align/", "describe/"))
    assert hub["lab/a"]["files"] == wanted
    assert len(wanted) == 5


def test_what_must_not_be_pushed_is_not(carded, hub, run):
    code, _, error = run("push_to_hub", "--model", carded, "--repo_id", "lab/n")
    assert code == 2
    assert "no model card" in error
    (carded / "model" / "README.md").write_text("x")
    (carded / "model" / "optimizer.pt").write_bytes(b"x")
    code, _, error = run("push_to_hub", "--model", carded, "--repo_id", "lab/n")
    assert code == 2
    assert "optimizer.pt is a pickle" in error
    (carded / "model" / "optimizer.pt").unlink()
    code, _, error = run("push_to_hub", "--model", carded, "--repo_id", "forbidden/n")
    assert code == 2
    assert "did not take forbidden/n" in error
    assert hub == {}
