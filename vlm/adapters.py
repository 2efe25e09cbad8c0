"""LoRA adapters and the model folder that keeps them.

A model folder holds the base (`config.json`, `model.safetensors`, the processor's files) and one
sub-folder an adapter: `align/` (what phase align changed in the language model) and `describe/`
(what phase describe changed: LoRA and the projector). Tower and projection heads live in the
base and are frozen after phase align, so describing never damages the embedding.
"""

from pathlib import Path
from typing import TypeAlias

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText, AutoProcessor

from data.errors import InputError
from data.files import atomic_path
from vlm.configuration import CellPaintingVlmConfig
from vlm.modeling import CellPaintingVlmForConditionalGeneration
from vlm.processing import CellPaintingProcessor

ALIGN, DESCRIBE = "align", "describe"

Vlm: TypeAlias = CellPaintingVlmForConditionalGeneration | PeftModel
"""A model with or without adapters around it."""


def lora_config(
    rank: int, alpha: int, dropout: float, target_modules: str, projector: bool
) -> LoraConfig:
    """Write down a LoRA adapter.

    Parameters
    ----------
    rank, alpha, dropout
        LoRA's own.
    target_modules : str
        Regular expression on module names; it must match them whole.
    projector : bool
        Train and keep the whole multi-modal projector in this adapter.
    """
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=target_modules,
        modules_to_save=["multi_modal_projector"] if projector else None,
        task_type="CAUSAL_LM",
    )


def add_adapter(model: Vlm, name: str, config: LoraConfig) -> PeftModel:
    """Add a fresh adapter, the only trainable part, and make it the active one.

    Raises
    ------
    InputError
        When no module matches the adapter's target modules.
    """
    try:
        if isinstance(model, PeftModel):
            model.add_adapter(name, config)
        else:
            model = get_peft_model(model, config, adapter_name=name)
    except ValueError as error:
        if "target modules" not in str(error).lower():
            raise
        raise InputError(
            f"lora_target_modules {config.target_modules!r} matches no module of the model"
        ) from error
    model.set_adapter(name)
    return model


def save_base(
    model: CellPaintingVlmForConditionalGeneration, processor: CellPaintingProcessor, folder: Path
) -> None:
    """Write base weights and processor as a model folder (atomically; adapters there are lost)."""
    with atomic_path(folder) as temporary:
        model.save_pretrained(temporary)
        processor.save_pretrained(temporary)


def save_adapter(model: PeftModel, name: str, folder: Path) -> None:
    """Write one adapter into a model folder."""
    with atomic_path(Path(folder) / name) as temporary:
        model.save_pretrained(temporary, selected_adapters=[name])
        # PEFT puts an adapter that is not called "default" into a sub-folder of its name.
        for file in (temporary / name).iterdir():
            file.rename(temporary / file.name)
        (temporary / name).rmdir()


def load_model(
    folder: str | Path,
) -> tuple[Vlm, CellPaintingProcessor]:
    """Load a model folder with the adapters that it holds.

    Parameters
    ----------
    folder : path
        A model folder, or a run that has one called `model`.

    Returns
    -------
    model, processor
        In eval mode. With adapters, a PeftModel: `set_adapter(ALIGN)` before embedding prompts,
        `set_adapter(DESCRIBE)` before describing.

    Raises
    ------
    InputError
        When the folder is not one of ours.
    """
    folder = Path(folder)
    if (folder / "model").is_dir():
        folder = folder / "model"
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} is not a model folder: it has no config.json")
    try:
        kind = CellPaintingVlmConfig.get_config_dict(folder)[0].get("model_type")
        if kind == CellPaintingVlmConfig.model_type:
            return _load_parts(folder)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{folder} is not a whole model folder: {reason}") from error
    raise InputError(
        f"{folder}/config.json is a {kind!r} model, expected "
        f"{CellPaintingVlmConfig.model_type!r}: train one with scripts/train_lora.py"
    )


def _load_parts(folder: Path) -> tuple[Vlm, CellPaintingProcessor]:
    # Safe weights only: a pickle can run anything.
    model: Vlm = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True
    )
    processor = AutoProcessor.from_pretrained(folder)
    for name in (ALIGN, DESCRIBE):
        if not (folder / name / "adapter_config.json").is_file():
            continue
        if isinstance(model, PeftModel):
            model.load_adapter(str(folder / name), adapter_name=name)
        else:
            model = PeftModel.from_pretrained(model, str(folder / name), adapter_name=name)
    return model.eval(), processor


def bare(model: Vlm) -> CellPaintingVlmForConditionalGeneration:
    """Return the VLM itself, whether or not adapters wrap it."""
    return model.get_base_model() if isinstance(model, PeftModel) else model
