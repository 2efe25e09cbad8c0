"""Vision models as backbones: feature maps of each kind, where the image is."""

from pathlib import Path

import pytest
import timm
import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    DINOv3ConvNextConfig,
    DINOv3ConvNextModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from vlm.backbone import feature_maps, map_widths
from vlm.pretrained import load_backbone

VISION = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}


def save_clip(folder: Path) -> None:
    config = CLIPConfig(
        vision_config={**VISION, "intermediate_size": 32, "image_size": 28, "patch_size": 14},
        text_config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    )
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessor(image_mean=[0.4, 0.5, 0.6], image_std=[0.2] * 3).save_pretrained(folder)


def save_siglip(folder: Path) -> None:
    config = SiglipVisionConfig(**VISION, intermediate_size=32, image_size=28, patch_size=14)
    SiglipVisionModel(config).save_pretrained(folder)


def save_siglip2(folder: Path) -> None:
    """As SigLIP 2's checkpoints of a fixed resolution are: a SigLIP, with text and sigmoid."""
    config = SiglipConfig(
        vision_config={**VISION, "intermediate_size": 32, "image_size": 28, "patch_size": 14},
        text_config={**VISION, "intermediate_size": 32, "vocab_size": 50},
    )
    SiglipModel(config).save_pretrained(folder)


def save_dinov2(folder: Path) -> None:
    config = Dinov2Config(**VISION, mlp_ratio=2, image_size=28, patch_size=14)
    Dinov2Model(config).save_pretrained(folder)


def save_dinov3(folder: Path) -> None:
    config = DINOv3ViTConfig(
        **VISION, intermediate_size=32, image_size=28, patch_size=14, num_register_tokens=2
    )
    DINOv3ViTModel(config).save_pretrained(folder)


@pytest.mark.parametrize("save", [save_clip, save_siglip, save_siglip2, save_dinov2, save_dinov3])
def test_a_vision_model_serves_as_backbone(save, tmp_path):
    torch.manual_seed(0)
    save(tmp_path / "vision")
    backbone, layers = load_backbone(str(tmp_path / "vision"))
    backbone.eval()
    planes = torch.randn(2, 1, 56, 56, generator=torch.Generator().manual_seed(0))
    other = planes.clone()
    other[1, 0, :14, 14:28] += 1
    with torch.inference_mode():
        before = feature_maps(backbone, planes, layers)
        after = feature_maps(backbone, other, layers)
    assert [one.shape for one in before] == [(2, 16, 4, 4)] * 3
    changed = (before[0] - after[0]).abs().amax(dim=1) > 1e-4
    assert changed.nonzero().tolist() == [[1, 0, 1]]


def test_a_convolutional_dinov3_serves_as_backbone(tmp_path):
    config = DINOv3ConvNextConfig(hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1])
    DINOv3ConvNextModel(config).save_pretrained(tmp_path)
    backbone, layers = load_backbone(str(tmp_path))
    maps = feature_maps(backbone.eval(), torch.randn(2, 1, 64, 64), layers)
    assert [one.shape[1] for one in maps] == map_widths(backbone, layers)
    assert [one.shape[-1] for one in maps] == sorted((one.shape[-1] for one in maps), reverse=True)


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224"])
def test_a_timm_model_serves_as_backbone(name, monkeypatch):
    """The way of a name, but that the weights are drawn: there is no hub."""
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *args, pretrained, **kw: create(*args, **kw))
    backbone, layers = load_backbone(name)
    maps = feature_maps(backbone.eval(), torch.randn(2, 1, 224, 224), layers)
    assert [one.shape[1] for one in maps] == map_widths(backbone, layers)
