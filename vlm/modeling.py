"""The model: transformers' LLaVA with wells for images and a projection head on each side."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel, LlavaForConditionalGeneration, LlavaModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.llava.modeling_llava import LlavaCausalLMOutputWithPast

from vlm.configuration import CellPaintingVlmConfig

# What describes a well to the model. `well_tokens` are the tower's tokens, computed before.
WELL_INPUTS = (
    "pixel_values",
    "control_pixel_values",
    "channel_features",
    "control_features",
    "channel_mask",
    "well_tokens",
)


class CellPaintingVlmModel(LlavaModel):
    """LLaVA's body; images are wells (see `CellPaintingVisionTower` for their inputs)."""

    config_class = CellPaintingVlmConfig

    def get_image_features(
        self, well_tokens: torch.Tensor | None = None, **wells: Any
    ) -> BaseModelOutputWithPooling:
        """Project wells to the language model's width.

        Parameters
        ----------
        well_tokens : (B, T, D) float, optional
            The tower's tokens, where they were computed before.
        **wells
            Otherwise the tower's inputs.

        Returns
        -------
        BaseModelOutputWithPooling
            `pooler_output`: a list of B tensors (T, text_hidden).
        """
        if well_tokens is None:
            well_tokens = self.vision_tower(**wells).last_hidden_state
        dtype = self.multi_modal_projector.linear_1.weight.dtype
        projected = self.multi_modal_projector(well_tokens.to(dtype))
        return BaseModelOutputWithPooling(
            last_hidden_state=well_tokens, pooler_output=list(projected)
        )

    def forward(self, input_ids: torch.Tensor | None = None, **kwargs: Any) -> Any:
        """As `LlavaModel.forward`, with the inputs in `WELL_INPUTS` for images."""
        wells = {name: kwargs.pop(name, None) for name in WELL_INPUTS}
        if any(value is not None for value in wells.values()):
            kwargs["mm_encoder_outputs"] = {"image": self.get_image_features(**wells)}
        return super().forward(input_ids=input_ids, **kwargs)


class CellPaintingVlmForConditionalGeneration(LlavaForConditionalGeneration):
    """Describe wells, and embed wells and prompts in one space."""

    config_class = CellPaintingVlmConfig

    def __init__(self, config: CellPaintingVlmConfig):
        super().__init__(config)
        self.model = CellPaintingVlmModel(config)
        self.well_projection = nn.Linear(
            config.vision_config.hidden_size, config.projection_dim, bias=False
        )
        reader: Any = config.text_encoder_config or config.text_config
        self.text_projection = nn.Linear(reader.hidden_size, config.projection_dim, bias=False)
        self.text_encoder = (
            AutoModel.from_config(config.text_encoder_config)
            if config.text_encoder_config
            else None
        )
        self.post_init()
        # Transformers collects classes that a tower may have; FSDP refuses what a model lacks.
        found = {type(module).__name__ for module in self.modules()}
        self._no_split_modules.intersection_update(found)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        control_pixel_values: torch.Tensor | None = None,
        channel_features: torch.Tensor | None = None,
        control_features: torch.Tensor | None = None,
        channel_mask: torch.Tensor | None = None,
        well_tokens: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> LlavaCausalLMOutputWithPast:
        """As `LlavaForConditionalGeneration.forward`; with labels, logits only where a label is.

        While training, most positions are well tokens and the question: their logits over the
        whole vocabulary cost more than the rest of a small model and are never used. The loss is
        the mean over labels, or their sum over `num_items_in_batch` (gradient accumulation).
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            pixel_values=pixel_values,
            control_pixel_values=control_pixel_values,
            channel_features=channel_features,
            control_features=control_features,
            channel_mask=channel_mask,
            well_tokens=well_tokens,
            **kwargs,
        )
        hidden = outputs.last_hidden_state  # (B, L, D)
        if labels is None:
            keep = (
                slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            )
            logits, loss = self.lm_head(hidden[:, keep, :]), None
        else:
            targets = labels[:, 1:]
            rows = targets != -100  # (B, L - 1)
            logits = self.lm_head(hidden[:, :-1][rows])  # (answer tokens, V)
            loss = F.cross_entropy(logits.float(), targets[rows], reduction="sum")
            loss = loss / (rows.sum() if num_items_in_batch is None else num_items_in_batch)
        return LlavaCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=outputs.image_hidden_states,
        )

    def prepare_inputs_for_generation(
        self, input_ids: torch.Tensor, is_first_iteration: bool = False, **kwargs: Any
    ) -> dict[str, Any]:
        """Give the wells to the first step only; later steps find them in the cache."""
        wells = {name: kwargs.pop(name, None) for name in WELL_INPUTS}
        inputs = super().prepare_inputs_for_generation(
            input_ids, is_first_iteration=is_first_iteration, **kwargs
        )
        if is_first_iteration or not kwargs.get("use_cache", True):
            inputs.update({name: value for name, value in wells.items() if value is not None})
        return inputs

    def embed_wells(self, **wells: torch.Tensor) -> torch.Tensor:
        """Unit vectors of wells.

        Parameters
        ----------
        **wells
            The tower's inputs.

        Returns
        -------
        (B, projection_dim) float
        """
        pooled = self.model.vision_tower(**wells).pooler_output
        return F.normalize(self.well_projection(pooled), dim=-1)

    def embed_prompts(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Unit vectors of prompts, projected from what the language model has read at the end.

        Where there is a separate text encoder, from the mean of its states (Reimers and Gurevych
        2019, Sentence-BERT).

        Parameters
        ----------
        input_ids, attention_mask : (B, L) int

        Returns
        -------
        (B, projection_dim) float
        """
        if self.text_encoder is not None:
            hidden = self.text_encoder(
                input_ids=input_ids, attention_mask=attention_mask
            ).last_hidden_state
            read = attention_mask[..., None].to(hidden.dtype)  # (B, L, 1)
            pooled = (hidden * read).sum(dim=1) / read.sum(dim=1)
            return F.normalize(self.text_projection(pooled), dim=-1)
        hidden = self.model.language_model(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=False
        ).last_hidden_state
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        last = (positions * attention_mask).argmax(dim=1)  # right for either padding side
        pooled = hidden[torch.arange(len(last), device=last.device), last]
        pooled = pooled.to(self.text_projection.weight.dtype)  # the base may be held in fewer bits
        return F.normalize(self.text_projection(pooled), dim=-1)
