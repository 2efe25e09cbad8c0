"""The model folder: a base, the adapters on it, and what is made of them.

A model folder holds the base (`config.json`, `model.safetensors`, the processor's files) and one
sub-folder an adapter: `align/` (what phase align changed in the language model) and `describe/`
(what phase describe changed: LoRA and the projector). Tower and projection heads live in the
base and are frozen after phase align, so describing never damages the embedding. Weights are
safetensors only: a pickle can run anything.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.utils.constants import DUMMY_TARGET_MODULES
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from data.errors import InputError
from data.files import atomic_path
from vlm.configuration import CellPaintingVlmConfig
from vlm.lora import NOT_TOWER, Vlm, quantization, settle_pissa, unquantized_modules
from vlm.modeling import CellPaintingVlmForConditionalGeneration
from vlm.processing import CellPaintingProcessor

ALIGN, DESCRIBE = "align", "describe"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")


def save_base(
    model: CellPaintingVlmForConditionalGeneration, processor: CellPaintingProcessor, folder: Path
) -> None:
    """Write base weights and processor as a model folder (atomically; adapters there are lost)."""
    with atomic_path(folder) as temporary:
        model.save_pretrained(temporary)
        processor.save_pretrained(temporary)


def adapter_state(
    model: PeftModel, name: str, state: dict[str, torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """One adapter's tensors, on the CPU, keys as in an adapter file.

    Parameters
    ----------
    model : PeftModel
    name : str
    state : dict of Tensor, optional
        The model's state where its own parameters are spread over processes (FSDP, ZeRO-3).
    """
    found = get_peft_model_state_dict(
        model, state_dict=state, adapter_name=name, save_embedding_layers=False
    )
    # Cloned: training would go on changing what was kept.
    return {key: value.detach().cpu().clone().contiguous() for key, value in found.items()}


def save_adapter(
    model: PeftModel,
    name: str,
    folder: Path,
    state: dict[str, torch.Tensor] | None = None,
    start: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write one adapter into a model folder.

    Parameters
    ----------
    model : PeftModel
    name : str
    folder : Path
    state : dict of Tensor, optional
        As in `adapter_state`.
    start : dict of Tensor, optional
        The adapter before training, where it started from the base's weights (PiSSA).
    """
    tensors, config = adapter_state(model, name, state), copy.deepcopy(model.peft_config[name])
    if start is not None:
        tensors, config = settle_pissa(tensors, start, config)
    if any("vision_tower" in key for key in tensors):  # merged: `vlm.lora.merge_tower`
        tensors = {key: value for key, value in tensors.items() if "vision_tower" not in key}
        config.target_modules = f"{NOT_TOWER}(?:{config.target_modules})"
        if not any("lora_" in key for key in tensors):  # nothing is left to load
            config.target_modules = DUMMY_TARGET_MODULES
    config.inference_mode = True
    config.base_model_name_or_path = None  # it lies beside the base, wherever that is
    with atomic_path(Path(folder) / name) as temporary:
        temporary.mkdir()
        save_file(tensors, temporary / "adapter_model.safetensors", metadata={"format": "pt"})
        config.save_pretrained(temporary)


def save_aligned(
    base: Path,
    model: PeftModel,
    processor: CellPaintingProcessor,
    folder: Path,
    state: dict[str, torch.Tensor],
    start: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write what phase align made as a whole model folder: base and adapter `align`.

    The language model comes from the untrained base on disk: in memory it may be quantised,
    spread over processes, or without the directions that PiSSA took out.

    Parameters
    ----------
    base : Path
        Folder of the untrained base.
    model, processor
        What was trained.
    folder : Path
        Replaced as a whole.
    state : dict of Tensor
        The trained model's state, gathered.
    start : dict of Tensor, optional
        As in `save_adapter`.
    """
    fresh = load_base(base)
    trained = {}
    for key, value in state.items():
        plain = key.removeprefix("base_model.model.").replace(".base_layer.", ".")
        frozen = plain.startswith(("model.language_model.", "lm_head."))
        if "lora_" not in plain and not frozen:
            trained[plain] = value
    unknown = fresh.load_state_dict(trained, strict=False).unexpected_keys
    assert not unknown, unknown
    with atomic_path(folder) as temporary:
        fresh.save_pretrained(temporary)
        processor.save_pretrained(temporary)
        save_adapter(model, ALIGN, temporary, state, start)


def load_model(
    folder: str | Path, precision: str = "float32", device: torch.device | None = None
) -> tuple[Vlm, CellPaintingProcessor]:
    """Load a model folder with the adapters that it holds.

    Parameters
    ----------
    folder : path
        A model folder, or a run that has one called `model`.
    precision : str
        Of the language model: see `LoraSettings.base_precision`.
    device : torch.device, optional
        The CPU by default.

    Returns
    -------
    model, processor
        In eval mode. With adapters, a PeftModel: `set_adapter(ALIGN)` before embedding prompts,
        `set_adapter(DESCRIBE)` before describing.

    Raises
    ------
    InputError
        When the folder is not one of ours, or holds pickles.
    """
    folder = find_model(folder)
    try:
        model: Vlm = load_base(folder, precision, device)
        processor = AutoProcessor.from_pretrained(folder)
        for name in (ALIGN, DESCRIBE):
            if not (folder / name / "adapter_config.json").is_file():
                continue
            if isinstance(model, PeftModel):
                model.load_adapter(str(folder / name), adapter_name=name)
            else:
                model = PeftModel.from_pretrained(model, str(folder / name), adapter_name=name)
    except InputError:
        raise
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{folder} is not a whole model folder: {reason}") from error
    return model.eval(), processor


def find_model(folder: str | Path) -> Path:
    """Return a model folder, given it or its run.

    Raises
    ------
    InputError
        When it is not one of ours, or holds pickles.
    """
    folder = Path(folder)
    if (folder / "model").is_dir():
        folder = folder / "model"
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} is not a model folder: it has no config.json")
    pickles = sorted(path for path in folder.rglob("*") if path.suffix in PICKLES)
    if pickles:
        raise InputError(
            f"{pickles[0]} is a pickle, which can run anything when it is opened: a model folder "
            "holds safetensors only; convert it, or remove it"
        )
    try:
        kind = CellPaintingVlmConfig.get_config_dict(folder)[0].get("model_type")
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{folder} is not a whole model folder: {reason}") from error
    if kind != CellPaintingVlmConfig.model_type:
        raise InputError(
            f"{folder}/config.json is a {kind!r} model, expected "
            f"{CellPaintingVlmConfig.model_type!r}: train one with scripts/train_lora.py"
        )
    return folder


def load_base(
    folder: Path, precision: str = "float32", device: torch.device | None = None
) -> CellPaintingVlmForConditionalGeneration:
    """Load a folder's base without its adapters; all but the language model is float32."""
    quantized: dict[str, Any] = {}
    if precision in ("4bit", "8bit"):
        config = CellPaintingVlmConfig.from_pretrained(folder)
        with torch.device("meta"):
            skip = unquantized_modules(CellPaintingVlmForConditionalGeneration(config))
        quantized = {
            "quantization_config": quantization(precision, skip),
            "device_map": {"": device or torch.device("cpu")},  # where it is quantised
        }
    model = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, **quantized
    )
    if precision != "float32":  # what is quantised holds whole numbers and stays as it is
        model.model.language_model.to(torch.bfloat16)
        model.lm_head.to(torch.bfloat16)
    return model if quantized or device is None else model.to(device)


def merge_adapter(
    folder: str | Path, name: str
) -> tuple[CellPaintingVlmForConditionalGeneration, CellPaintingProcessor]:
    """Load a model folder and write one adapter into the base's weights.

    Parameters
    ----------
    folder : path
    name : str
        `DESCRIBE` for a model that describes, `ALIGN` for one that embeds prompts; wells are
        embedded alike by both.

    Raises
    ------
    InputError
        When the folder has no such adapter.
    """
    model, processor = load_model(folder)
    if name not in getattr(model, "peft_config", {}):
        raise InputError(f"{folder} has no adapter {name!r} to merge")
    for other in set(model.peft_config) - {name}:
        model.delete_adapter(other)
    model.set_adapter(name)
    merged = model.merge_and_unload(safe_merge=True)
    head = merged.lm_head.weight
    if head is not merged.get_input_embeddings().weight:  # lm_head was trained by itself
        merged.config.tie_word_embeddings = merged.config.text_config.tie_word_embeddings = False
    merged.config.merged_adapter = name
    return merged.eval(), processor


def use_adapter(model: Vlm, name: str) -> None:
    """Make an adapter the active one; a merged model has it already.

    Raises
    ------
    InputError
        When the model has no such adapter.
    """
    if isinstance(model, PeftModel) and name in model.peft_config:
        model.set_adapter(name)
    elif isinstance(model, PeftModel) or model.config.merged_adapter != name:
        raise InputError(f"this model has no adapter {name!r}: train it with scripts/train_lora.py")


def bare(model: Vlm) -> CellPaintingVlmForConditionalGeneration:
    """Return the VLM itself, whether or not adapters wrap it."""
    return model.get_base_model() if isinstance(model, PeftModel) else model
