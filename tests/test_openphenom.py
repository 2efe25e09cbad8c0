"""OpenPhenom's encoder out of a checkpoint laid out as the published one, with random weights."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer
from tiny_bases import save_tiny_base
from torch import nn

from data.errors import InputError
from vlm.adapters import ALIGN, load_model, save_base
from vlm.assembly import build_model
from vlm.backbone import feature_maps, map_widths
from vlm.lora import LoraSettings, add_adapter, lora_config, merge_tower
from vlm.model_config import model_config
from vlm.openphenom import ENCODER, OpenPhenomConfig
from vlm.pixels import backbone_learns
from vlm.pretrained import load_backbone

PLANES = 11  # as many as the published position embeddings are made for
DIM, SIDE = 384, 16


def sines() -> torch.Tensor:
    """Sines and cosines of row and column, (256, 384)."""
    weights = 10000 ** -(torch.arange(DIM // 4) / (DIM // 4))
    row, column = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    angles = [place.flatten()[:, None] * weights for place in (row, column)]
    return torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], dim=1)


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> tuple[Path, VisionTransformer]:
    """A folder as on the hub, and the encoder in it."""
    torch.manual_seed(0)
    vit = VisionTransformer(
        img_size=256, patch_size=16, in_chans=1, num_classes=0, global_pool="avg", embed_dim=DIM,
        depth=12, num_heads=6, qkv_bias=False, qk_norm=True, init_values=1e-4,
        block_fn=ParallelScalingBlock,
    )  # fmt: skip
    for name, parameter in vit.named_parameters():
        nn.init.normal_(parameter, mean=float("norm.weight" in name), std=0.2)
    vit.pos_embed.data = torch.cat([torch.zeros(1, DIM), sines()])[None]
    state = {f"{ENCODER}{key}": value for key, value in vit.state_dict().items()}
    state[f"{ENCODER}pos_embed"] = torch.cat([torch.zeros(1, DIM), sines().repeat(PLANES, 1)])[None]
    state["decoder.mask_token"] = torch.zeros(1, 1, 512)
    state["encoder_decoder_proj.weight"] = torch.zeros(512, DIM)
    folder = tmp_path_factory.mktemp("openphenom")
    save_file(state, folder / "model.safetensors")
    config = {
        "architectures": ["MAEModel"],
        "auto_map": {"AutoConfig": "mae.MAEConfig", "AutoModel": "mae.MAEModel"},
        "model_type": "MAE",
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder, vit.eval()


def planes(side: int = 256) -> torch.Tensor:
    return torch.randn(2, 1, side, side, generator=torch.Generator().manual_seed(0)) * 3 + 7


def test_the_last_map_averaged_is_the_published_embedding_of_a_channel(published):
    folder, vit = published
    backbone, layers = load_backbone(str(folder), layers=[3, 11])
    with torch.inference_mode():
        found = feature_maps(backbone.eval(), planes(), layers)
        normalised = planes() - planes().mean(dim=(2, 3), keepdim=True)
        normalised = normalised / (normalised.square().mean(dim=(2, 3), keepdim=True) + 1e-5).sqrt()
        expected = vit.forward_features(normalised)[:, 1:].mean(dim=1)
    assert [one.shape for one in found] == [(2, DIM, SIDE, SIDE)] * 2
    assert map_widths(backbone, layers) == [DIM, DIM]
    assert torch.allclose(found[1].mean(dim=(2, 3)), expected, atol=1e-4)
    assert not torch.allclose(found[0], found[1], atol=1e-2)


def test_brighter_and_larger_fields_are_taken(published):
    backbone, layers = load_backbone(str(published[0]))
    assert layers == [3, 7, 10]
    with torch.inference_mode():
        one, brighter, large = (
            feature_maps(backbone.eval(), seen, layers)
            for seen in (planes(), 5 * planes() - 2, planes(320))
        )
    assert torch.allclose(one[2], brighter[2], atol=1e-3)
    assert large[0].shape == (2, DIM, 20, 20)


@pytest.mark.parametrize("stem", ["shared", "inflated"])
def test_a_model_folder_needs_no_remote_code(published, stem, tmp_path):
    language, channels = save_tiny_base("llava", tmp_path / "language"), ("DNA", "ER", "Mito")
    parts = {"language_model": str(language), "backbone": str(published[0]), "channels": channels}
    model, processor = build_model(**parts, stem=stem, image_size=64)
    save_base(model, processor, tmp_path / "model")
    again, _ = load_model(tmp_path / "model")
    fields = F.relu(torch.randn(1, 1, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
    with torch.inference_mode():
        found = model.model.vision_tower.eval().encode_channels(fields)
        same = again.model.vision_tower.encode_channels(fields)
        torch.testing.assert_close(same, found, rtol=0, atol=0, equal_nan=True)
    features = 2 * 3 * DIM + model.model.vision_tower.cell_statistics
    assert found.shape == (1, 1, 1 if stem == "inflated" else 3, features)
    assert found.nan_to_num().abs().max() > 0.1
    planned = model_config(**parts, stem=stem).vision_config.backbone_config
    built = model.config.vision_config.backbone_config
    assert isinstance(planned, OpenPhenomConfig)
    assert (planned.num_channels, planned.out_indices) == (built.num_channels, built.out_indices)


def test_a_pickle_under_that_name_is_not_opened(published, tmp_path):
    (tmp_path / "config.json").write_text((published[0] / "config.json").read_text())
    torch.save({"state_dict": {}}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="is a pickle under any name"):
        load_backbone(str(tmp_path))


def test_other_weights_are_refused(published, tmp_path):
    (tmp_path / "config.json").write_text((published[0] / "config.json").read_text())
    save_file({f"{ENCODER}pos_embed": torch.zeros(1, 257, DIM)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="does not hold OpenPhenom's ViT-S/16"):
        load_backbone(str(tmp_path))


def test_lora_in_its_blocks_learns_and_is_merged(published, tmp_path):
    language, channels = save_tiny_base("llava", tmp_path / "language"), ("DNA", "ER")
    model, _ = build_model(str(language), str(published[0]), channels=channels, image_size=32)
    chosen = LoraSettings(
        lora_rank=2,
        lora_dropout=0.0,
        lora_target_modules=r".*vision_tower\.backbone.*(in_proj|attn_out_proj|mlp_out_proj)",
    )
    peft_model = add_adapter(model, ALIGN, lora_config(chosen, describe=False))
    assert backbone_learns(model)
    tower = model.model.vision_tower
    learnt = {
        name: parameter
        for name, parameter in tower.backbone.named_parameters()
        if "lora_B" in name and ".blocks.11." not in name  # after the last map that is taken
    }
    assert len(learnt) == 3 * 11
    pixels = torch.randn(1, 1, 2, 32, 32, generator=torch.Generator().manual_seed(2))
    cells = torch.zeros(1, 1, 2, tower.cell_statistics)  # no part of the backbone
    before = tower.eval().encode_channels(pixels, cells)
    before.square().mean().backward()
    assert not [n for n, p in learnt.items() if p.grad is None or not p.grad.any()]
    with torch.no_grad():
        for parameter in learnt.values():
            parameter -= 0.05 * parameter.grad.sign()
        trained = tower.encode_channels(pixels, cells)
        assert not torch.allclose(trained, before, atol=1e-3)
        merge_tower(peft_model, ALIGN)
        again = tower.encode_channels(pixels, cells)
        torch.testing.assert_close(again, trained, rtol=1e-3, atol=1e-3)
