"""Vision backbones behind one interface: planes go in, feature maps come out.

What a backbone takes and gives depends on the class of its configuration, here and nowhere else:

- convolutional networks, timm's models, DINOv2 and DINOv3: transformers' `AutoBackbone`;
- CLIP, SigLIP (and SigLIP 2 of a fixed resolution), Idefics3, SmolVLM: transformers that take
  images; their maps are hidden states;
- Qwen2.5-VL and Qwen3-VL: the same, but they take a list of patches and give one back.
"""

import copy
from collections.abc import Sequence

import torch
from timm.models import adapt_input_conv
from torch import nn
from transformers import AutoBackbone, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.backbone_utils import BackboneConfigMixin
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig
from transformers.vision_utils import get_vision_window_index


def new_backbone(config: PreTrainedConfig) -> PreTrainedModel:
    """Build a backbone with random weights."""
    auto = AutoBackbone if isinstance(config, BackboneConfigMixin) else AutoModel
    return auto.from_config(config)


def default_layers(count: int) -> list[int]:
    """Which of a backbone's maps are taken where nobody said it.

    Parameters
    ----------
    count : int
        Its maps: stages of a convolutional network, layers of a transformer.

    Returns
    -------
    list of int
        Of a network with a few stages the first three: on simulated 256 px fields, gene-compound
        mAP was .60 with them and .53 with a fourth (one seed, on the held-out targets). Of a
        transformer those at a third and at two thirds, and the last but one, which LLaVA takes
        (not measured here).
    """
    return [0, 1, 2] if count <= 6 else [count // 3, 2 * count // 3, count - 1]


def map_widths(backbone: PreTrainedModel, layers: Sequence[int] | None) -> list[int]:
    """Features of each of the maps that `feature_maps` returns."""
    if isinstance(backbone.config, BackboneConfigMixin):
        return list(backbone.channels)
    return [backbone.config.hidden_size] * len(layers or ())


def feature_maps(
    backbone: PreTrainedModel, planes: torch.Tensor, layers: Sequence[int] | None
) -> list[torch.Tensor]:
    """Run a backbone.

    Parameters
    ----------
    backbone : PreTrainedModel
    planes : (N, C, H, W) float
        C is what its stem takes; of a transformer, H and W are multiples of its patches.
    layers : sequence of int, optional
        Hidden states of a transformer, 0 being what enters its first layer. An `AutoBackbone`
        knows its own (`out_indices`).

    Returns
    -------
    list of (N, c, h, w) float
    """
    config = backbone.config
    if isinstance(config, BackboneConfigMixin):
        return list(backbone(planes).feature_maps)
    if isinstance(config, Qwen2_5_VLVisionConfig | Qwen3VLVisionConfig):
        return _packed_maps(backbone, planes, layers or ())
    N, _, H, W = planes.shape
    h, w = H // config.patch_size, W // config.patch_size
    states = backbone(
        planes, interpolate_pos_encoding=True, output_hidden_states=True
    ).hidden_states
    # Patches come last, after the class token where there is one.
    return [states[layer][:, -h * w :].mT.reshape(N, -1, h, w) for layer in layers or ()]


def _packed_maps(
    backbone: PreTrainedModel, planes: torch.Tensor, layers: Sequence[int]
) -> list[torch.Tensor]:
    config = backbone.config
    P, M, frames = config.patch_size, config.spatial_merge_size, config.temporal_patch_size
    N, C, H, W = planes.shape
    h, w = H // P // M, W // P // M
    # Patches that will be merged stand together; a still image is a film of equal frames.
    patches = planes.reshape(N, C, h, M, P, w, M, P).permute(0, 2, 5, 3, 6, 1, 4, 7)
    patches = patches[:, :, :, :, :, :, None].expand(*patches.shape[:6], frames, P, P)
    grid = torch.tensor([[1, h * M, w * M]] * N, device=planes.device)
    states = backbone(
        patches.reshape(N * h * M * w * M, -1), grid_thw=grid, output_hidden_states=True
    ).hidden_states
    order = torch.arange(N * h * w, device=planes.device)
    if isinstance(config, Qwen2_5_VLVisionConfig):  # inside, it sorts them by attention window
        windows, _ = get_vision_window_index(grid, M, config.window_size, P)
        order = windows.argsort().to(planes.device)
    return [
        states[layer]
        .reshape(N * h * w, M * M, -1)[order]
        .reshape(N, h, w, M, M, -1)
        .permute(0, 5, 1, 3, 2, 4)
        .reshape(N, -1, h * M, w * M)
        for layer in layers
    ]


def channels_field(config: PreTrainedConfig) -> str | None:
    """Where a vision model's configuration says how many channels it takes; None of others."""
    found = [name for name in ("in_channels", "num_channels") if hasattr(config, name)]
    return found[0] if found else None


def patch_multiple(config: PreTrainedConfig) -> int:
    """The number that the sides of an image have to be multiples of, in pixels."""
    patch = getattr(config, "patch_size", None) or 1
    return int(patch * getattr(config, "spatial_merge_size", 1))


def inflate_stem(backbone: PreTrainedModel, num_channels: int) -> PreTrainedModel:
    """Give a backbone for colour images a stem for another number of channels.

    Parameters
    ----------
    backbone : PreTrainedModel
    num_channels : int
        With 1, a grey plane gives what three equal colours gave. With more, the weights of the
        colours are repeated, and scaled by 3 / num_channels (`timm.models.adapt_input_conv`).

    Returns
    -------
    PreTrainedModel
        The same weights elsewhere.
    """
    config = copy.deepcopy(backbone.config)
    field = channels_field(config)
    if field is None or getattr(config, field) == num_channels:
        return backbone
    setattr(config, field, num_channels)
    inflated = new_backbone(config)
    state = backbone.state_dict()
    stem = next(
        name
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Conv2d | nn.Conv3d)
    )
    weight = state[f"{stem}.weight"]  # (out, 3, height, width), of Qwen (out, 3, frames, ...)
    if weight.shape[1] == 1:  # a grey plane is three equal colours
        weight = weight.expand(-1, 3, *weight.shape[2:]) / 3
    adapted = adapt_input_conv(num_channels, weight.flatten(2, -2))
    state[f"{stem}.weight"] = adapted.reshape(len(weight), num_channels, *weight.shape[2:])
    inflated.load_state_dict(state)
    return inflated
