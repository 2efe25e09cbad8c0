"""What phase align keeps on disk while it trains, so that an interruption costs few steps."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from data.files import atomic_path
from vlm.checkpoints import checkpoint_step, last_checkpoint


class Checkpoints:
    """Save and load models, optimizers, the schedule and random states as they are after a step.

    Of the model only trained parameters are kept (the frozen ones are in the base); where
    parameters are spread over processes (FSDP, DeepSpeed), accelerate writes its own format.

    Parameters
    ----------
    accelerator : Accelerator
        Has prepared the model and the optimizer.
    schedule
        Of the learning rate.
    folder : Path
        Gets `checkpoint-STEP`, the newest only.
    """

    def __init__(self, accelerator: Accelerator, schedule: Any, folder: Path):
        self.accelerator = accelerator
        self.folder = folder
        accelerator.register_for_checkpointing(schedule)
        accelerator.register_save_state_pre_hook(self._save_trained)
        accelerator.register_load_state_pre_hook(self._load_trained)

    def save(self, step: int) -> None:
        """Write a checkpoint beside the last one; when it is whole, the last one goes."""
        whole = self.folder / f"checkpoint-{step}"
        fresh = self.folder / f"{whole.name}.tmp"
        if self.accelerator.is_main_process:
            shutil.rmtree(fresh, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        try:
            self.accelerator.save_state(str(fresh))
        except BaseException:  # a full disk must not stay full
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            (fresh / "trainer_state.json").write_text(json.dumps({"global_step": step}))
            fresh.rename(whole)
            for other in self.folder.iterdir():
                if other != whole:
                    shutil.rmtree(other)
        self.accelerator.wait_for_everyone()

    def resume(self) -> int:
        """Load the last checkpoint if there is one; return the step to go on with."""
        last = last_checkpoint(self.folder, self.accelerator.num_processes)
        if last is None:
            return 0
        self.accelerator.load_state(str(last))
        return checkpoint_step(last)

    def _save_trained(self, models: list, weights: list, folder: str) -> None:
        if not weights:  # FSDP or DeepSpeed: already written
            return
        weights.clear()  # accelerate would write the frozen ones too
        if self.accelerator.is_main_process:
            save_file(self._trained(models[0]), Path(folder) / "trained.safetensors")

    def _load_trained(self, models: list, folder: str) -> None:
        if not models:  # FSDP or DeepSpeed: already loaded
            return
        kept = load_file(Path(folder) / "trained.safetensors")
        with torch.no_grad():
            for name, parameter in self._trained(models.pop()).items():
                parameter.copy_(kept[name])

    def _trained(self, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        named = self.accelerator.unwrap_model(model).named_parameters()
        return {name: parameter for name, parameter in named if parameter.requires_grad}


def cut_history(history: Path, first: int) -> None:
    """Forget what was recorded of steps from `first` on: they are done again."""
    kept = []
    for line in history.read_text().splitlines() if history.exists() else []:
        try:
            record = json.loads(line)
        except ValueError:  # cut off by the interruption
            continue
        if record["step"] < first:
            kept.append(line)
    with atomic_path(history) as path:
        path.write_text("".join(line + "\n" for line in kept))
