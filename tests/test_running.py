"""Training goes wrong in every way that it does on real machines, and nothing is lost."""

import gc
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any, NoReturn

import pytest
from conftest import ROOT
from processes import FORK, run, run_ranks, run_script
from safetensors.torch import load_file

import vlm.instruct
from vlm.modeling import CellPaintingVlmForConditionalGeneration

TRAIN = ("train_lora", "--config", "training.yaml")
STEPS = {
    "align": "contrastive.align_model:AlignModel.forward",
    "describe": "vlm.instruct:WellCollator.__call__",
}
"""What each phase calls once a step."""


def history(run: Path, phase: str) -> list[dict]:
    """Losses of a phase, without what depends on the clock."""
    lines = (run / f"{phase}_history.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if "runtime" not in k and "per_second" not in k}
        for line in lines
    ]


def assert_same(
    one: Path, other: Path, phases: Iterable[str] = tuple(STEPS), losses: float = 1e-6
) -> None:
    """Two runs ended alike: losses of every step, and weights."""
    for phase in phases:
        ours, theirs = history(one, phase), history(other, phase)
        assert [r.get("step") for r in ours] == [r.get("step") for r in theirs]
        for mine, yours in zip(ours, theirs, strict=True):
            assert mine.get("loss") == pytest.approx(yours.get("loss"), abs=losses)
    for name in ("model", *(f"{phase}/adapter_model" for phase in phases)):
        ours, theirs = (load_file(run / "model" / f"{name}.safetensors") for run in (one, other))
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            assert (value - theirs[key]).abs().max() < 1e-6, (name, key)


def steps(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def line(printed: str, start: str) -> str:
    """The one line that starts so, or goes on so behind a progress bar."""
    found = re.findall(rf"{start}[^\r\n]*", printed)
    assert len(found) == 1, printed[-3000:]
    return found[0]


def test_killed_again_and_again_a_run_ends_as_if_it_had_not_been(training_folder, whole_run):
    cut = training_folder / "cut"
    train = (*TRAIN, "--out", "cut")

    def die(function: str, call: int) -> None:
        code, printed = run_script(*train, cwd=training_folder, stop=(function, call))
        assert code == -signal.SIGKILL, printed[-3000:]

    die(STEPS["align"], 6)
    assert steps(cut / "align_checkpoints") == ["checkpoint-3"]
    die("accelerate.checkpointing:save", 1)  # in the middle of writing a checkpoint
    assert steps(cut / "align_checkpoints") == ["checkpoint-3", "checkpoint-6.tmp"]
    die("vlm.adapters:load_base", 2)  # after the last step, before the model is written
    assert steps(cut / "align_checkpoints") == ["checkpoint-8"]
    assert not (cut / "model").exists()
    die(STEPS["describe"], 5)
    assert steps(cut / "describe_checkpoints") == ["checkpoint-3"]
    die("transformers.trainer_callback:TrainerState.save_to_json", 1)
    assert steps(cut / "describe_checkpoints") == ["checkpoint-3", "checkpoint-6"]  # the last: half
    code, printed = run_script(*train, cwd=training_folder)
    assert code == 0, printed[-3000:]
    assert_same(whole_run, cut)
    assert sorted(path.name for path in cut.iterdir()) == [
        "align_history.jsonl",
        "describe_history.jsonl",
        "model",
        "train_seconds.json",
        "training.json",
        "training_text.parquet",
    ]  # no checkpoints: a new model must not go on from these


def count_models(words: list[str], folder: Path, counts: SimpleQueue) -> None:
    """Count the models in memory where phase describe begins to train."""

    def counted(*args: Any) -> NoReturn:
        gc.collect()
        kind = CellPaintingVlmForConditionalGeneration
        counts.put(sum(isinstance(thing, kind) for thing in gc.get_objects()))
        sys.exit()

    vlm.instruct.train_describe = counted
    run(words, folder, folder / "printed.txt")


def test_phase_describe_begins_without_the_model_of_phase_align(training_folder):
    words = [str(ROOT / "scripts" / "train_lora.py"), *TRAIN[1:], "--out", "counted"]
    counts = FORK.SimpleQueue()
    process = FORK.Process(target=count_models, args=(words, training_folder, counts))
    process.start()
    process.join()
    assert process.exitcode == 0, (training_folder / "printed.txt").read_text()[-3000:]
    assert counts.get() == 1


def test_a_run_does_not_go_on_with_other_settings(training_folder):
    train = (*TRAIN, "--out", "changed")
    run_script(*train, cwd=training_folder, stop=(STEPS["align"], 5))
    other = ("--align_learning_rate", "0.01", "--logging_steps", "2")
    code, printed = run_script(*train, *other, cwd=training_folder)
    assert code == 2
    assert "(align_learning_rate: 0.001, now 0.01)" in line(printed, "error: ")
    code, printed = run_script(
        *train, *other, "--resume", "false", "--phase", "align", cwd=training_folder
    )
    assert code == 0, printed[-3000:]
    settings = json.loads((training_folder / "changed" / "training.json").read_text())["settings"]
    assert settings["align_learning_rate"] == 0.01


@pytest.mark.parametrize(
    ("phase", "setting"), [("align", "align_learning_rate"), ("describe", "learning_rate")]
)
def test_a_loss_that_is_not_finite_is_one_clear_line(training_folder, whole_run, phase, setting):
    out = training_folder / f"nan_{phase}"
    if phase == "describe":
        shutil.copytree(whole_run / "model", out / "model")
        shutil.rmtree(out / "model" / "describe")
    train = (*TRAIN, "--out", out.name, "--max_grad_norm", "1e30", "--warmup_steps", "0")
    code, printed = run_script(
        *train, "--align_warmup_steps", 0, f"--{setting}", 1e25, cwd=training_folder
    )
    assert code == 2, printed[-3000:]
    error = line(printed, "error: ")
    assert error.startswith(f"error: phase {phase}: the loss is nan at step")
    assert f"lower {setting}" in error


@pytest.mark.parametrize(("phase", "function"), STEPS.items())
def test_interrupted_by_ctrl_c_it_says_so_and_keeps_its_checkpoint(
    training_folder, phase, function
):
    train = (*TRAIN, "--out", f"interrupted_{phase}")
    code, printed = run_script(
        *train, cwd=training_folder, stop=(function, 6), with_signal=signal.SIGINT
    )
    assert code == 130, printed[-3000:]
    assert "finished work is kept" in line(printed, "interrupted: ")
    kept = training_folder / f"interrupted_{phase}" / f"{phase}_checkpoints"
    assert steps(kept) == ["checkpoint-3"]


class Disk:
    """A file system in memory, as large as a test wants it."""

    def __init__(self, path: Path):
        self.path = path
        self._run("mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs")

    def _run(self, *words: str) -> None:
        subprocess.run([*words, str(self.path)], capture_output=True, check=True)

    def fill(self) -> None:
        """Leave room for some small files only."""
        state = os.statvfs(self.path)
        used = (state.f_blocks - state.f_bfree) * state.f_frsize
        self._run("mount", "-o", f"remount,size={used + 16 * state.f_frsize}")

    def grow(self) -> None:
        """Make room."""
        self._run("mount", "-o", "remount,size=1g")

    def close(self) -> None:
        """Give it back."""
        self._run("umount")


@pytest.fixture
def disk(tmp_path) -> Iterator[Disk]:
    path = tmp_path / "disk"
    path.mkdir()
    try:
        disk = Disk(path)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount a file system")
    yield disk
    disk.close()


def test_a_full_disk_is_one_clear_line_and_costs_nothing(training_folder, whole_run, disk):
    run = disk.path / "run"
    train = (*TRAIN, "--out", run)
    for phase, function in STEPS.items():
        run_script(*train, cwd=training_folder, stop=(function, 5))
        disk.fill()  # the next checkpoint does not fit
        code, printed = run_script(*train, cwd=training_folder)
        assert code == 2, printed[-3000:]
        assert line(printed, "error: ").startswith("error: no space left on the disk")
        assert "checkpoint-3" in steps(run / f"{phase}_checkpoints")
        disk.grow()
    code, printed = run_script(*train, cwd=training_folder)
    assert code == 0, printed[-3000:]
    assert_same(whole_run, run)


def test_a_dead_process_ends_the_others_and_the_run_goes_on(training_folder, whole_two):
    """Two processes as users start them; then the same without a launcher, from the checkpoint."""
    launch = ("-m", "accelerate.commands.launch", "--config_file")
    config = ROOT / "configs" / "accelerate" / "cpu_two_processes.yaml"
    arguments = (*TRAIN[1:], "--align_num_targets", 1, "--out")
    script = ROOT / "scripts" / "train_lora.py"
    words = [*launch, config, ROOT / "tests" / "processes.py", script, *arguments, "cut_two"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    finished = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=training_folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert finished.returncode != 0
    assert "SIGKILL" in finished.stderr + finished.stdout
    cut = training_folder / "cut_two"
    assert json.loads((cut / "training.json").read_text())["settings"]["processes"] == 2
    assert steps(cut / "align_checkpoints") == ["checkpoint-3"]
    codes = run_ranks("train_lora", *arguments, "cut_two", cwd=training_folder)
    assert codes == [0, 0], (training_folder / "printed0.txt").read_text()[-3000:]
    assert_same(whole_two, cut)


@pytest.mark.parametrize("config", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda c: c.stem)
def test_a_config_runs_for_two_steps(training_folder, config):
    """Each on this small store and language model; everything else is the config's own."""
    script = config.read_text().partition("scripts/")[2].partition(".py")[0]
    if script == "run_benchmark":
        pytest.skip("run on profiles in test_run_benchmark.py")
    if script == "train_lora" and "use_cpu: true" not in config.read_text():
        pytest.skip("needs a GPU")
    small = {
        "train_lora": (
            "--data prepared --language_model language --num_text_layers 2 --image_size 48 "
            "--train_query Metadata_Plate==Metadata_Plate --align_label_column "
            "Metadata_target_list --align_num_targets 2 --align_prompt_targets 2 --align_steps 2 "
            "--align_max_prompt_tokens 600 --max_steps 2 --max_length 1000 --lessons 20"
        ),
        "simulate_plates": (
            "--n_targets 3 --n_inactive_compounds 1 --n_inactive_genes 1 --compound_plates 1 "
            "--crispr_plates 1 --orf_plates 1 --controls 4 --sites 1 --field_size 64 --cells 20 "
            "--processes 1"
        ),
    }[script]
    arguments = ("--config", config, *small.split(" "), "--out", f"steps_{config.stem}")
    code, printed = run_script(script, *arguments, cwd=training_folder)
    assert code == 0, printed[-3000:]


@pytest.mark.parametrize(
    "variant",
    [
        "--base_precision 4bit --bf16 true --optim adamw_bnb_8bit --align_optimizer adamw_8bit",
        "--base_precision bfloat16 --bf16 true --gradient_checkpointing true --lora_dora true",
        "--lora_init pissa --lora_rslora true",
        "--align_ema_decay 0.5 --align_chunk_wells 3 --align_field_dropout 0.3 "
        "--align_soft_label_weight 1 --align_replicate_weight 1",
    ],
)
def test_a_variant_goes_on_exactly_too(training_folder, variant):
    train = (*TRAIN, *variant.split(" "), "--max_steps", 4, "--align_steps", 4)
    stops = {"whole_variant": [None], "cut_variant": [*((f, 4) for f in STEPS.values()), None]}
    for out, signals in stops.items():
        shutil.rmtree(training_folder / out, ignore_errors=True)
        for stop in signals:
            code, printed = run_script(*train, "--out", out, cwd=training_folder, stop=stop)
            assert code == (0 if stop is None else -signal.SIGKILL), printed[-3000:]
    assert_same(training_folder / "whole_variant", training_folder / "cut_variant")
