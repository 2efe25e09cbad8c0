"""FSDP2 over two CPU processes, as configs/accelerate/fsdp2.yaml spreads a model over GPUs."""

import shutil
import signal

import pytest
import yaml
from conftest import ROOT
from processes import run_ranks
from test_running import STEPS, TRAIN, assert_same, history, line, steps

from vlm.adapters import load_model

TWO = (*TRAIN, "--align_num_targets", 1)
CONFIG = yaml.safe_load((ROOT / "configs" / "accelerate" / "fsdp2.yaml").read_text())
FSDP = {key.upper(): str(value) for key, value in CONFIG["fsdp_config"].items()}
FSDP |= {"ACCELERATE_USE_FSDP": "true"}


@pytest.mark.parametrize("phase", STEPS)
def test_killed_and_resumed_it_ends_like_processes_with_whole_models(
    training_folder, whole_two, phase
):
    cut = training_folder / f"fsdp_{phase}"
    if phase == "describe":  # of the same model: what sums in another order change, this makes more
        shutil.copytree(whole_two / "model", cut / "model")
        shutil.rmtree(cut / "model" / "describe")
    train = (*TWO, "--out", cut.name, "--phase", phase)
    codes = run_ranks(*train, cwd=training_folder, stop=(STEPS[phase], 6), environment=FSDP)
    assert codes[1] == -signal.SIGKILL, (training_folder / "printed1.txt").read_text()[-3000:]
    kept = cut / f"{phase}_checkpoints"
    assert steps(kept) == ["checkpoint-3"]
    assert (kept / "checkpoint-3" / "pytorch_model_fsdp.bin").is_file()  # it was no DDP
    codes = run_ranks(*train, cwd=training_folder, environment=FSDP)
    assert codes == [0, 0], (training_folder / "printed0.txt").read_text()[-3000:]
    assert_same(whole_two, cut, [phase], losses=2e-5)  # the history is rounded to 1e-5
    load_model(cut)  # whole


def test_in_bf16_it_computes_as_processes_with_whole_models_do(training_folder):
    """The config's own precision, a language model in bfloat16, and gradient caching."""
    short = (*TWO, "--align_steps", 2, "--max_steps", 2, "--bf16", "true")
    train = (*short, "--base_precision", "bfloat16", "--align_chunk_wells", 3)
    ends = {}
    for out, environment in (("bf16_ddp", None), ("bf16_fsdp", FSDP)):
        shutil.rmtree(training_folder / out, ignore_errors=True)
        codes = run_ranks(*train, "--out", out, cwd=training_folder, environment=environment)
        assert codes == [0, 0], (training_folder / "printed0.txt").read_text()[-3000:]
        ends[out] = [record["loss"] for record in history(training_folder / out, "describe")[:2]]
    runs = (training_folder / out for out in ends)
    assert_same(*runs, ["align"], losses=2e-5)
    assert ends["bf16_fsdp"] == pytest.approx(ends["bf16_ddp"], abs=0.02)  # in bf16, of 9


def test_an_optimizer_of_8_bits_is_refused(training_folder):
    train = (*TWO, "--optim", "adamw_bnb_8bit", "--out", "fsdp_8bit")
    assert run_ranks(*train, cwd=training_folder, environment=FSDP) == [2, 2]
    printed = (training_folder / "printed0.txt").read_text()
    assert line(printed, "error: ").endswith("does not work with FSDP2: set optim: adamw_torch")
