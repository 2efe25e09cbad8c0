"""A backbone that is being trained: wells as pixels, gradients through the tower's LoRA."""

from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from helpers import write_tiff_plate, write_tiny_store
from test_align import prompts_of
from tiny import READOUT_GROUPS, tiny_model
from tiny_bases import save_tiny_base

from contrastive.configuration import AlignConfig
from contrastive.trainer import align
from vlm.adapters import ALIGN, bare, load_model, save_aligned, save_base
from vlm.assembly import build_model
from vlm.instruct import well_embeddings
from vlm.lora import LoraSettings, add_adapter, lora_config
from vlm.pixels import backbone_learns, encode_batch, with_pixels
from vlm.wells import fit_reference, open_wells

BOTH = (
    r".*(language_model.*\.(q|v)_proj"
    r"|vision_tower\.backbone.*(patch_embed\.proj|attn\.qkv|attn\.proj|patch_embedding|q_proj))"
)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pixels")
    raw = write_tiff_plate(folder / "raw", "P1")
    write_tiff_plate(raw, "K1", modality="crispr", seed=1)
    write_tiny_store(raw, folder / "prepared", measure=False)
    return folder / "prepared"


def test_pixels_give_the_features_of_the_sites_that_were_drawn(store):
    model, processor = tiny_model()
    kept = open_wells(store, model, processor)
    bank = with_pixels(kept.query("Metadata_Plate == 'K1'"), store, processor, 2, 3)
    rows = [0, 1, 3]
    batch = bank.batch(rows, np.random.default_rng(0))
    drawn = torch.cat([batch["site_rows"].flatten(), batch["control_rows"].flatten()])
    assert len(batch["site_pixels"]) == len(drawn.unique())  # every site once
    assert batch["control_rows"].unique(dim=0).shape == (1, 3)  # one plate, the same controls
    with torch.no_grad():
        inputs = encode_batch(model.model.vision_tower, batch)
    assert inputs["channel_features"].shape[:3] == (3, 2, 5)

    def among(features: torch.Tensor, sites: np.ndarray) -> bool:
        known = torch.from_numpy(kept.site_features[sites]).nan_to_num()
        features = features.nan_to_num()
        distance = (features[:, None] - known[None]).abs().amax(dim=(2, 3))
        return bool((distance.min(dim=1).values < 1e-4).all())

    control = (bank.wells["Metadata_control_type"] == "negcon").to_numpy()
    controls = np.concatenate([bank.sites_of[row] for row in np.flatnonzero(control)])
    for features, own in zip(inputs["channel_features"], rows, strict=True):
        assert among(features, bank.sites_of[own])
        assert not among(features, bank.sites_of[2])
    for features in inputs["control_features"]:
        assert among(features, controls)
    again = bank.batch(rows, np.random.default_rng(0))
    for name, value in batch.items():
        np.testing.assert_array_equal(again[name].numpy(), value.numpy())
    kept_batch = kept.batch(rows)
    assert encode_batch(model.model.vision_tower, kept_batch) is kept_batch


@pytest.mark.parametrize(
    ("kind", "stem"), [("qwen3_vl", "inflated"), ("qwen2_5_vl", "shared"), ("llava", "inflated")]
)
def test_lora_in_the_backbone_learns_and_is_merged(kind, stem, store, tmp_path):
    torch.manual_seed(0)
    model, processor = build_model(
        str(save_tiny_base(kind, tmp_path / kind)),
        "base",
        image_size=64 if kind == "qwen3_vl" else 56,
        stem=stem,
        hidden_size=32,
        num_attention_heads=2,
        readout_groups=READOUT_GROUPS,
    )
    bank = open_wells(store, model, processor)
    fit_reference(model, bank)
    save_base(model, processor, tmp_path / "base")
    assert not backbone_learns(model)
    chosen = LoraSettings(lora_rank=4, lora_dropout=0.0, lora_target_modules=BOTH)
    model = add_adapter(model, ALIGN, lora_config(chosen, describe=False))
    assert backbone_learns(bare(model))
    bank = with_pixels(bank, store, processor, 1, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    effects = np.zeros((len(bank), len(READOUT_GROUPS)), np.float32)
    settings = AlignConfig(
        align_steps=3, align_warmup_steps=1, align_num_targets=2, align_num_unlabelled=2
    )
    arguments = (processor.tokenizer, bank, prompts_of(bank), effects, settings)
    state = align(model, *arguments, tmp_path, 0, Accelerator(cpu=True))
    changed = {
        name for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    }
    backbone = {name for name in changed if "vision_tower.backbone" in name}
    stem_name = "patch_embedding" if kind == "llava" else "patch_embed"
    assert any("lora_B" in name and stem_name in name for name in backbone)
    # At the end it was merged into the weights that it sits on, and into no others.
    assert all("lora_" in name or ".base_layer." in name for name in backbone)
    assert any("vision_tower.fusion" in name for name in changed)

    save_aligned(tmp_path / "base", model, processor, tmp_path / "model", state)
    again, processor = load_model(tmp_path / "model")
    assert not backbone_learns(bare(again))
    trained = well_embeddings(again, open_wells(store, bare(again), processor))
    ours = well_embeddings(model, open_wells(store, bare(model), processor))
    assert np.allclose(trained, ours, atol=1e-4)
