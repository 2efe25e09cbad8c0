"""What phase align trains: tower, heads, LoRA in the language model."""

import math

import torch
from peft import PeftModel
from torch import nn

from contrastive.losses import clip_loss, effect_loss, same_label_loss, siglip_loss
from vlm.adapters import bare


class AlignModel(nn.Module):
    """Losses of phase align around a VLM.

    The tower's readout is fitted to how much every fact slot changed: it leaves tokens that say
    what the cells look like, without which phase describe learns almost nothing.

    Parameters
    ----------
    vlm : PeftModel
        With the `align` adapter active.
    loss : "clip" or "siglip"
        How wells and prompts are contrasted.
    same_label_weight, effect_weight : float
        Weights beside the prompt loss's 1.
    temperature : float
        Of `same_label_loss`.
    """

    def __init__(
        self,
        vlm: PeftModel,
        loss: str,
        same_label_weight: float,
        effect_weight: float,
        temperature: float,
    ):
        super().__init__()
        self.vlm = vlm
        self.same_label_weight = same_label_weight
        self.effect_weight = effect_weight
        self.temperature = temperature
        # Starting points of CLIP and SigLIP. Only SigLIP has a bias: an unused parameter would
        # stop DDP.
        start = 1 / 0.07 if loss == "clip" else 10.0
        self.logit_scale = nn.Parameter(torch.tensor(math.log(start)))
        self.logit_bias = nn.Parameter(torch.tensor(-10.0)) if loss == "siglip" else None

    def forward(
        self,
        wells: dict[str, torch.Tensor],
        labels: torch.Tensor,
        effects: torch.Tensor,
        prompts: dict[str, torch.Tensor] | None,
    ) -> dict[str, torch.Tensor]:
        """Compute the losses of one batch.

        Parameters
        ----------
        wells : dict of Tensor
            The tower's inputs for N wells; the first 2R belong to R reagents, two each.
        labels : (N,) int
            Shared targets.
        effects : (N, K) float
            Measured effects of the fact slots, NaN where not measured.
        prompts : dict of Tensor, optional
            `input_ids` and `attention_mask` (R, L); None in steps without the language model.

        Returns
        -------
        dict of scalars
            `loss` and its parts.
        """
        vlm = bare(self.vlm)
        tower = vlm.model.vision_tower(**wells)
        embedded = nn.functional.normalize(vlm.well_projection(tower.pooler_output).float(), dim=-1)
        prompted = None if prompts is None else vlm.embed_prompts(**prompts).float()
        # Cosines over a small temperature need more digits than bf16 has.
        with torch.autocast(embedded.device.type, enabled=False):
            parts = {"same_label": same_label_loss(embedded, labels, self.temperature)}
            total = self.same_label_weight * parts["same_label"]
            parts["effect"] = effect_loss(tower.readout.float(), effects)
            total = total + self.effect_weight * parts["effect"]
            if prompted is not None:
                parts["prompt"] = self._prompt_loss(embedded, prompted)
                total = total + parts["prompt"]
        return {"loss": total, **{name: part.detach() for name, part in parts.items()}}

    def _prompt_loss(self, wells: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
        # Reagents at even places share their targets with those at odd places: each half by
        # itself has one reagent a target, so that no true pair counts as a false one.
        pairs = wells[: 2 * len(prompts)].unflatten(0, (-1, 2))  # (R, 2 wells, E)
        losses = []
        for half in (slice(0, None, 2), slice(1, None, 2)):
            for replicate in (0, 1):
                pair = (pairs[half, replicate], prompts[half])
                if self.logit_bias is None:
                    losses.append(clip_loss(*pair, self.logit_scale.exp()))
                else:
                    losses.append(siglip_loss(*pair, self.logit_scale.exp(), self.logit_bias))
        return torch.stack(losses).mean()
