"""A new model, put together from pretrained parts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase, ProcessorMixin
from transformers.utils import logging

from data.channels import CHANNELS
from data.errors import InputError
from vlm.backbone import patch_multiple
from vlm.configuration import CellPaintingVisionConfig, CellPaintingVlmConfig
from vlm.modeling import CellPaintingVlmForConditionalGeneration
from vlm.openphenom import OpenPhenomConfig
from vlm.pretrained import (
    BASE_BACKBONE,
    PACKAGED_BACKBONE,
    PACKAGED_LANGUAGE_MODEL,
    base_backbone,
    load_backbone,
    load_language_model,
    load_text_encoder,
    pixel_scale,
)
from vlm.processing import (
    CHATML_TEMPLATE,
    PLAIN_TEMPLATE,
    CellPaintingImageProcessor,
    CellPaintingProcessor,
)


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


@contextmanager
def _quiet() -> Iterator[None]:
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


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
