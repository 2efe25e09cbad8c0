"""OpenPhenom's encoder as a backbone, without its remote code.

OpenPhenom (Kraus et al. 2024, "Masked Autoencoders for Microscopy are Scalable Learners of
Cellular Biology"; hub id `recursionpharma/OpenPhenom`, its own class `MAEModel`) is a
channel-agnostic masked autoencoder. Its encoder is a timm ViT-S/16 of parallel blocks (Dehghani et
al. 2023) that sees instance-normalised planes through a stem for a single channel. Rebuilt from
timm's parts, a model folder needs its configuration only: nobody who loads it runs foreign code.
"""

from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.backbone_utils import BackboneConfigMixin, BackboneMixin
from transformers.modeling_outputs import BackboneOutput
from transformers.utils import cached_file

from data.errors import InputError

PUBLISHED_TYPE = "MAE"
"""`model_type` of the published configuration; no model of transformers has it."""
ENCODER = "encoder.vit_backbone."


class OpenPhenomConfig(BackboneConfigMixin, PreTrainedConfig):
    """The published encoder: a ViT-S/16 for fields of 256 pixels. Maps follow each block."""

    model_type = "openphenom"

    hidden_size: int = 384
    num_hidden_layers: int = 12
    num_attention_heads: int = 6
    image_size: int = 256
    patch_size: int = 16
    num_channels: int = 1
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.stage_names = [f"block{number}" for number in range(1, self.num_hidden_layers + 1)]
        self.set_output_features_output_indices(
            out_features=kwargs.pop("out_features", None),
            out_indices=kwargs.pop("out_indices", None),
        )
        super().__post_init__(**kwargs)


class OpenPhenomBackbone(BackboneMixin, PreTrainedModel):
    """Planes, each normalised by itself, through the encoder."""

    config: OpenPhenomConfig
    main_input_name = "pixel_values"
    _supports_sdpa = True  # timm's blocks choose it themselves

    def __init__(self, config: OpenPhenomConfig):
        super().__init__(config)
        self.num_features = [config.hidden_size] * config.num_hidden_layers
        self.vit = VisionTransformer(
            img_size=config.image_size,
            patch_size=config.patch_size,
            in_chans=config.num_channels,
            num_classes=0,
            global_pool="",
            embed_dim=config.hidden_size,
            depth=config.num_hidden_layers,
            num_heads=config.num_attention_heads,
            qkv_bias=False,
            qk_norm=True,
            init_values=1e-4,
            final_norm=False,  # the published one comes after pooling, and is not used to embed
            dynamic_img_size=True,
            block_fn=ParallelScalingBlock,
        )
        self.post_init()

    def forward(self, pixel_values: torch.Tensor) -> BackboneOutput:
        """Return `feature_maps`.

        Parameters
        ----------
        pixel_values : (N, C, H, W) float
            In any unit. Of another size than 256 px, position embeddings are interpolated.
        """
        maps = self.vit.forward_intermediates(
            F.instance_norm(pixel_values),
            indices=self.out_indices,
            norm=False,
            intermediates_only=True,
        )
        return BackboneOutput(feature_maps=tuple(maps))


def read_config(name: str) -> PreTrainedConfig:
    """Read a vision model's configuration from a folder or the hub; OpenPhenom's is known here."""
    values, _ = PreTrainedConfig.get_config_dict(name)
    if values.get("model_type") == PUBLISHED_TYPE:
        return OpenPhenomConfig()
    return AutoConfig.from_pretrained(name)


def load_openphenom(name: str, layers: list[int]) -> OpenPhenomBackbone:
    """Load the published encoder.

    Parameters
    ----------
    name : str
        Folder or hub id with `model.safetensors`.
    layers : list of int
        The blocks whose maps are taken, from 0.

    Raises
    ------
    InputError
        When the weights are a pickle under that name, or not OpenPhenom's.
    """
    backbone = OpenPhenomBackbone(OpenPhenomConfig(out_indices=layers))
    file = cached_file(name, "model.safetensors")
    try:
        weights = load_file(file)
    except SafetensorError as error:
        raise InputError(
            f"{file} is no safetensors file: what torch.save wrote is a pickle under any name, and "
            "is not opened; convert it as docs/bases.md says"
        ) from error
    state = {
        key.removeprefix(ENCODER): value
        for key, value in weights.items()
        if key.startswith(ENCODER) and not key.startswith(f"{ENCODER}fc_norm.")
    }
    try:
        # The class token's, then the same positions once a channel; a plane comes by itself.
        positions = 1 + backbone.vit.patch_embed.num_patches
        state["pos_embed"] = state["pos_embed"][:, :positions]
        backbone.vit.load_state_dict(state)
    except (KeyError, RuntimeError) as error:
        raise InputError(f"{file} does not hold OpenPhenom's ViT-S/16: {error}") from error
    return backbone
