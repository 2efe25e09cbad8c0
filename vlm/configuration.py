"""Configurations of the vision tower and of the whole model."""

from typing import Any, ClassVar

from transformers import AutoConfig, LlavaConfig, PreTrainedConfig

from data.channels import CHANNELS, stain_index


class CellPaintingVisionConfig(PreTrainedConfig):
    """The channel-adaptive vision tower.

    Parameters
    ----------
    backbone_config : dict or PreTrainedConfig
        A backbone's (see `vlm.backbone`), with one input channel or, inflated, with all of them.
    backbone_layers : sequence of int, optional
        Hidden states that are taken, of a backbone that is no `AutoBackbone`.
    stem : str
        "shared": every channel goes through the backbone by itself. "inflated": all channels
        together, through a stem that takes them all; then none may be missing.
    channels : sequence of str
        Stains that the tower expects, in this order; names from `data.channels.STAINS`.
    pixel_scale : sequence of three floats
        What pixels went through, ((intensity ** gamma) - mean) / std: cells are measured in
        intensities.
    hidden_size : int
        Width of the tokens.
    readout_groups : sequence of K int
        What the tower reads out of a well: one number an entry (how far a fact slot shifted).
        Entries of one group speak about one subject.
    readout_stains : sequence of K sequences of str, optional
        The stains that each readout needs: without one of them it is silent. By default none.
    num_statements : int
        So many of the strongest readouts are said, with two tokens each.
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
    backbone_layers: list[int] | tuple[int, ...] | None = None
    stem: str = "shared"
    channels: tuple[str, ...] | list[str] = CHANNELS
    pixel_scale: tuple[float, float, float] | list[float] = (0.5, 0.45, 0.25)
    hidden_size: int = 192
    readout_groups: tuple[int, ...] | list[int] = (0,)
    readout_stains: list[list[str]] | tuple[tuple[str, ...], ...] | None = None
    num_statements: int = 10
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
        self.pixel_scale = list(self.pixel_scale)
        self.readout_groups = list(self.readout_groups)
        stains = self.readout_stains or [[]] * len(self.readout_groups)
        self.readout_stains = [list(names) for names in stains]
        self.num_statements = min(self.num_statements, len(self.readout_groups))
        super().__post_init__(**kwargs)

    @property
    def streams(self) -> list[int]:
        """Rows of the tower's tables of stains: one a channel; a single one of an inflated stem."""
        return [0] if self.stem == "inflated" else [stain_index(name) for name in self.channels]

    @property
    def num_tokens(self) -> int:
        """Tokens a well: its change, its statements, one a channel (or one for all)."""
        return 1 + 2 * self.num_statements + len(self.streams)


class CellPaintingVlmConfig(LlavaConfig):
    """A LLaVA whose images are wells.

    Parameters
    ----------
    projection_dim : int
        Width of the embedding that wells and prompts share.
    text_encoder_config : dict or PreTrainedConfig, optional
        A separate encoder of prompts (MiniLM, PubMedBERT), in place of the language model.
    merged_adapter : str, optional
        The adapter that was written into the weights (`vlm.adapters.merge_adapter`).
    """

    model_type = "cell_painting_vlm"

    sub_configs: ClassVar = {**LlavaConfig.sub_configs, "text_encoder_config": AutoConfig}

    projection_dim: int = 128
    text_encoder_config: dict | PreTrainedConfig | None = None
    merged_adapter: str | None = None
    # The tower returns its tokens once, after its last layer, and all of them are used.
    vision_feature_layer: int | list[int] = -1
    vision_feature_select_strategy: str = "full"

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.text_encoder_config, dict):
            values = dict(self.text_encoder_config)
            self.text_encoder_config = AutoConfig.for_model(values.pop("model_type"), **values)
        super().__post_init__(**kwargs)
