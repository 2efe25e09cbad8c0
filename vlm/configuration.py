"""Configurations of the vision tower and of the whole model."""

from typing import Any, ClassVar

from transformers import AutoConfig, LlavaConfig, PreTrainedConfig

from data.channels import CHANNELS


class CellPaintingVisionConfig(PreTrainedConfig):
    """The channel-adaptive vision tower.

    Parameters
    ----------
    backbone_config : dict or PreTrainedConfig
        Any `AutoBackbone` configuration with one input channel; it is run on each stain by itself.
    channels : sequence of str
        Stains that the tower expects, in this order; names from `data.channels.STAINS`.
    hidden_size : int
        Width of the tokens.
    readout_groups : sequence of int
        What the tower reads out of a well: one number an entry (how much a fact slot changed).
        Entries of one group share a token.
    num_latents : int
        Learned queries that gather what sites and channels say together.
    num_hidden_layers, num_attention_heads, dropout
        The cross-channel transformer.
    feature_dropout : float
        Dropout on the standardised backbone features.
    """

    model_type = "cell_painting_vision"
    sub_configs: ClassVar = {"backbone_config": AutoConfig}

    backbone_config: dict | PreTrainedConfig | None = None
    channels: tuple[str, ...] | list[str] = CHANNELS
    hidden_size: int = 192
    readout_groups: tuple[int, ...] | list[int] = (0,)
    num_latents: int = 4
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    dropout: float = 0.1
    feature_dropout: float = 0.3
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.backbone_config, dict):
            values = dict(self.backbone_config)
            self.backbone_config = AutoConfig.for_model(values.pop("model_type"), **values)
        self.channels = list(self.channels)
        self.readout_groups = list(self.readout_groups)
        super().__post_init__(**kwargs)

    @property
    def num_tokens(self) -> int:
        """Tokens a well: its change, one a group of readouts, one a channel."""
        return 1 + max(self.readout_groups) + 1 + len(self.channels)


class CellPaintingVlmConfig(LlavaConfig):
    """A LLaVA whose images are wells.

    Parameters
    ----------
    projection_dim : int
        Width of the embedding that wells and prompts share.
    merged_adapter : str, optional
        The adapter that was written into the weights (`vlm.adapters.merge_adapter`).
    """

    model_type = "cell_painting_vlm"

    projection_dim: int = 128
    merged_adapter: str | None = None
    # The tower returns its tokens once, after its last layer, and all of them are used.
    vision_feature_layer: int | list[int] = -1
    vision_feature_select_strategy: str = "full"
