"""Tiny models of the real classes and a tiny prepared bank of wells, made in a second."""

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from peft import PeftModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, ResNetConfig

from data.channels import CHANNELS
from vlm import (
    CellPaintingImageProcessor,
    CellPaintingProcessor,
    CellPaintingVisionConfig,
    CellPaintingVlmConfig,
    CellPaintingVlmForConditionalGeneration,
)
from vlm.lora import LoraSettings, Vlm, add_adapter, lora_config
from vlm.wells import WellBank

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"]
TEXTS = [
    "What changed in this well? Mito: clearly dimmer, more granular. Nuclei: strongly larger.",
    "No significant change from controls. Cell count: lower.",
    "U2OS cells, 48 h, compound: nocodazole.",
]

READOUT_GROUPS = (0, 1, 1)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with ChatML's tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=SPECIAL[1:2] + SPECIAL[3:],
    )


def tiny_text_config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """Two layers of SmolLM2's architecture."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=0.2,  # with the usual 0.02 its logits could never say much
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def save_tiny_language_model(folder: Path) -> Path:
    """Write a random language model with its tokenizer, to be named as `--language_model`."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    config = tiny_text_config(tokenizer)
    config.hidden_size, config.head_dim = 160, 80  # the projector needs a unit a word
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_model(
    channels: tuple[str, ...] = CHANNELS, seed: int = 0
) -> tuple[CellPaintingVlmForConditionalGeneration, CellPaintingProcessor]:
    """A model of the real classes with about 60,000 parameters, and its processor."""
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    backbone = ResNetConfig(
        num_channels=1,
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        layer_type="basic",
        out_features=["stage1", "stage2"],
    )
    vision = CellPaintingVisionConfig(
        backbone_config=backbone.to_dict(),
        channels=channels,
        hidden_size=32,
        readout_groups=READOUT_GROUPS,
        num_latents=2,
        num_hidden_layers=1,
        num_attention_heads=2,
        dropout=0.0,
        feature_dropout=0.0,
    )
    config = CellPaintingVlmConfig(
        vision_config=vision,
        text_config=tiny_text_config(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=vision.num_tokens,
        projection_dim=16,
    )
    model = CellPaintingVlmForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    processor = CellPaintingProcessor(
        CellPaintingImageProcessor(size=32), tokenizer, image_seq_length=vision.num_tokens
    )
    return model, processor


def tiny_adapter(model: Vlm, name: str, projector: bool = False, dropout: float = 0.0) -> PeftModel:
    """Add a fresh LoRA adapter on the whole language model."""
    settings = LoraSettings(lora_rank=4, lora_alpha=8, lora_dropout=dropout)
    return add_adapter(model, name, lora_config(settings, describe=projector))


def tiny_wells(n_targets: int = 4) -> pd.DataFrame:
    """Metadata of two plates: per target a compound and a guide, one well a plate, and controls."""
    rows = []
    for plate in ("P1", "P2"):
        reagents = [
            (f"{kind}-{i}", kind, f"T{i}")
            for i in range(n_targets)
            for kind in ("compound", "crispr")
        ]
        reagents += [("DMSO", "control", "")] * 4
        for number, (reagent, modality, target) in enumerate(reagents):
            rows.append(
                {
                    "Metadata_Plate": plate,
                    "Metadata_Well": f"{'ABCDEFGH'[number // 12]}{number % 12 + 1:02d}",
                    "Metadata_broad_sample": reagent,
                    "Metadata_pert_iname": reagent,
                    "Metadata_modality": modality,
                    "Metadata_pert_type": "control" if modality == "control" else "trt",
                    "Metadata_control_type": "negcon" if modality == "control" else "",
                    "Metadata_target_list": target,
                    "Metadata_split": "train",
                }
            )
    return pd.DataFrame(rows)


@cache
def tiny_feature_size() -> int:
    """How many features a channel of the tiny model has."""
    return tiny_model()[0].model.vision_tower.reference_center.shape[1]


def tiny_bank(noise: float = 0.3) -> WellBank:
    """Random features for `tiny_wells`, with two sites a well and an effect a target."""
    rng = np.random.default_rng(0)
    channels, feature_size = len(CHANNELS), tiny_feature_size()
    wells = tiny_wells()
    targets = sorted(set(wells["Metadata_target_list"]) - {""})
    effect = {t: rng.normal(size=(channels, feature_size)) for t in targets} | {"": 0.0}
    features = np.concatenate(
        [
            effect[t] + noise * rng.normal(size=(2, channels, feature_size))
            for t in wells["Metadata_target_list"]
        ]
    ).astype(np.float32)
    plate_of = (wells["Metadata_Plate"] == "P2").to_numpy().astype(int)
    return WellBank(
        wells=wells,
        site_features=features,
        sites_of=[np.array([2 * i, 2 * i + 1]) for i in range(len(wells))],
        control_median=np.zeros((2, channels, feature_size), np.float32),
        plate_of=plate_of,
        channel_mask=np.ones((len(wells), channels), bool),
    )
