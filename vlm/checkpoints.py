"""Checkpoints of both phases: folders `checkpoint-STEP`, of which the last whole one counts."""

import json
import re
import shutil
import zipfile
from pathlib import Path

NAME = re.compile(r"checkpoint-(\d+)")


def last_checkpoint(folder: Path, processes: int = 1) -> Path | None:
    """Find the newest whole checkpoint of a folder; half-written ones are removed.

    Parameters
    ----------
    folder : Path
        Holds `checkpoint-STEP` folders, or does not exist.
    processes : int
        How many took part: each keeps its own random state.
    """
    found = [path for path in folder.glob("checkpoint-*") if NAME.fullmatch(path.name)]
    for path in sorted(found, key=checkpoint_step, reverse=True):
        if is_whole(path, processes):
            return path
        shutil.rmtree(path, ignore_errors=True)
    return None


def checkpoint_step(path: Path) -> int:
    """Return the optimizer steps that were done when a checkpoint was written."""
    return int(path.name.rpartition("-")[2])


def is_whole(checkpoint: Path, processes: int) -> bool:
    """Tell whether all of a checkpoint was written.

    `trainer_state.json` is the last file that the first process writes, in both phases; the other
    processes' random states may still be missing. A file of torch that was cut off has lost the
    directory at its end.
    """
    try:
        json.loads((checkpoint / "trainer_state.json").read_text())
    except (OSError, ValueError):
        return False
    random_states = [*checkpoint.glob("rng_state*.pth"), *checkpoint.glob("random_states_*.pkl")]
    tensors = [*random_states, *checkpoint.glob("*.pt"), *checkpoint.glob("*.bin")]
    return len(random_states) >= processes and all(map(zipfile.is_zipfile, tensors))
