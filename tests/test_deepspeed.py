"""DeepSpeed ZeRO-3 over two CPU processes, as configs/accelerate/zero3.yaml spreads over GPUs."""

import signal
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from processes import run_ranks
from test_running import STEPS, TRAIN, assert_same, history, line, steps

from vlm.adapters import load_model

pytestmark = pytest.mark.skipif(
    find_spec("deepspeed") is None,
    reason="needs DeepSpeed, which is built where it runs and not in the lock",
)

TWO = (*TRAIN, "--align_num_targets", 1)
ZERO = (*TWO, "--align_prompt_every", 1, "--use_cpu", "false")
CONFIG = yaml.safe_load((ROOT / "configs" / "accelerate" / "zero3.yaml").read_text())
DEEPSPEED = {
    f"ACCELERATE_DEEPSPEED_{key.upper()}": str(value).lower()
    for key, value in CONFIG["deepspeed_config"].items()
}
DEEPSPEED |= {
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_USE_CPU": "false",
    "DS_ACCELERATOR": "cpu",
}


@pytest.fixture(scope="module")
def whole_zero(training_folder) -> Path:
    """Both phases in one command, which nothing disturbed."""
    codes = run_ranks(*ZERO, "--out", "zero", cwd=training_folder, environment=DEEPSPEED)
    assert codes == [0, 0], (training_folder / "printed0.txt").read_text()[-3000:]
    return training_folder / "zero"


def test_it_ends_like_processes_with_whole_models(training_folder, whole_zero):
    train = (*TWO, "--align_prompt_every", 1, "--out", "ddp")
    codes = run_ranks(*train, cwd=training_folder)
    assert codes == [0, 0], (training_folder / "printed0.txt").read_text()[-3000:]
    assert_same(training_folder / "ddp", whole_zero, ["align"], losses=2e-5)  # rounded to 1e-5
    ours, theirs = (history(training_folder / out, "describe") for out in ("ddp", "zero"))
    losses = [record["loss"] for record in ours[:-1]]
    assert [record["loss"] for record in theirs[:-1]] == pytest.approx(losses, abs=1e-3)  # of 9
    load_model(whole_zero)  # whole


def test_killed_and_resumed_it_ends_as_if_it_had_not_been(training_folder, whole_zero):
    cut = training_folder / "cut_zero"
    train = (*ZERO, "--out", cut.name)
    for phase, function in STEPS.items():
        codes = run_ranks(*train, cwd=training_folder, stop=(function, 6), environment=DEEPSPEED)
        assert codes[1] == -signal.SIGKILL, (training_folder / "printed1.txt").read_text()[-3000:]
        assert steps(cut / f"{phase}_checkpoints") == ["checkpoint-3"]
    codes = run_ranks(*train, cwd=training_folder, environment=DEEPSPEED)
    assert codes == [0, 0], (training_folder / "printed0.txt").read_text()[-3000:]
    assert_same(whole_zero, cut)


def test_steps_without_prompts_are_refused(training_folder):
    train = (*TWO, "--align_prompt_every", 2, "--use_cpu", "false", "--out", "few_prompts")
    assert run_ranks(*train, cwd=training_folder, environment=DEEPSPEED) == [2, 2]
    error = line((training_folder / "printed0.txt").read_text(), "error: ")
    assert error.startswith("error: align_prompt_every is 2: in steps without prompts DeepSpeed")
