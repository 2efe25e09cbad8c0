"""Other scripts as commands, as a user would type them."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent


def script(name: str, *words: str) -> list[str]:
    """Return the words that run a script with this Python."""
    return [sys.executable, str(SCRIPTS / name), *words]


def training(*words: str) -> list[str]:
    """Return the words that train in one process on a CPU, through accelerate's launcher."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--cpu"]
    return [*launcher, str(SCRIPTS / "train_lora.py"), *words]


def run(command: list[str]) -> None:
    """Run a command; end with its exit code when it fails.

    Its threads sleep where they wait for each other, unless the user says otherwise: GNU's OpenMP
    lets them spin, which on two cores and beside one other busy program made training ten times
    slower, and on idle cores gains nothing.
    """
    finished = subprocess.run(command, env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ})
    if finished.returncode:
        sys.exit(finished.returncode)
