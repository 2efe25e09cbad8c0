"""Fixtures that every test may use."""

import os
import runpy
import sys
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

# The same examples in every run, and no deadlines: a slow or busy machine fails nothing.
settings.load_profile("ci")

# Importing pycytominer switches this on for the whole process: no test may depend on who did.
pd.options.mode.copy_on_write = True


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data, or a skip that says why."""
    folder = Path(os.environ.get("MORPHOCLIP_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"real data not found: {folder}/data (set MORPHOCLIP_SHARED)")
    return folder / "data"


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a script in this process: (exit code, what it printed, its one error line or "")."""
    monkeypatch.syspath_prepend(ROOT / "scripts")

    def run_script(name: str, *arguments: object) -> tuple[int, str, str]:
        script = str(ROOT / "scripts" / f"{name}.py")
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        code = 0
        try:
            with patch.dict(os.environ):  # what a script sets for itself is not for later ones
                runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            code = end.code or 0
        printed = capsys.readouterr()
        errors = [line for line in printed.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == (1 if code else 0), printed.err
        return code, printed.out, "".join(errors)

    return run_script


@pytest.fixture(scope="session")
def two_plates(tmp_path_factory) -> Path:
    """Raw plates, not to be changed: P1 with compounds, P2 with guides."""
    from helpers import write_tiff_plate

    folder = tmp_path_factory.mktemp("raw")
    write_tiff_plate(folder, "P1")
    return write_tiff_plate(folder, "P2", "crispr", seed=1)


TRAINING = """\
# accelerate launch scripts/train_lora.py --config training.yaml
data: prepared
out: run
language_model: language
train_query: Metadata_Plate == Metadata_Plate
image_size: 48
hidden_size: 48
lessons: 20
num_latents: 2
align_steps: 8
align_num_targets: 2
align_num_unlabelled: 2
align_prompt_every: 2
align_max_prompt_tokens: 600
align_save_steps: 3
max_steps: 8
per_device_train_batch_size: 4
max_length: 1000
save_steps: 3
save_total_limit: 1
logging_steps: 1
report_to: none
use_cpu: true
bf16: false
gradient_checkpointing: false
seed: 0
"""


@pytest.fixture(scope="session")
def training_folder(tmp_path_factory) -> Path:
    """What training starts from: a prepared store with captions, a language model, a config."""
    from helpers import write_tiff_plate, write_tiny_store
    from processes import run_script
    from tiny import save_tiny_language_model

    folder = tmp_path_factory.mktemp("training")
    plates = (("compound", "C1"), ("compound", "C2"), ("crispr", "G1"))
    for seed, (modality, barcode) in enumerate(plates):
        write_tiff_plate(folder / "raw", barcode, modality, sites=1, size=64, seed=seed)
    write_tiny_store(folder / "raw", folder / "prepared")
    save_tiny_language_model(folder / "language")
    (folder / "training.yaml").write_text(TRAINING)
    code, printed = run_script("build_captions", "--data", "prepared", cwd=folder)
    assert code == 0, printed
    return folder


@pytest.fixture(scope="session")
def whole_run(training_folder) -> Path:
    """A run that nothing disturbed."""
    from processes import run_script

    train = ("train_lora", "--config", "training.yaml", "--out", "whole")
    code, printed = run_script(*train, cwd=training_folder)
    assert code == 0, printed[-3000:]
    return training_folder / "whole"


@pytest.fixture(scope="session")
def whole_two(training_folder) -> Path:
    """The same of two processes, with one target each in a batch."""
    from processes import run_ranks

    train = ("train_lora", "--config", "training.yaml", "--align_num_targets", 1)
    codes = run_ranks(*train, "--out", "whole_two", cwd=training_folder)
    assert codes == [0, 0], (training_folder / "printed0.txt").read_text()[-3000:]
    return training_folder / "whole_two"
