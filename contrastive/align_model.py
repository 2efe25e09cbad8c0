"""What phase align trains: tower, heads, LoRA in the language model."""

import math
from collections.abc import Collection

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import nn

from vlm.adapters import bare
from vlm.pixels import encode_batch

Encoded = dict[str, torch.Tensor]
"""What a model made of wells and prompts: rows, and scales that the losses share."""


class AlignModel(nn.Module):
    """Encode wells and prompts; `contrastive.objective` compares them.

    The losses lie outside, so that a batch can be encoded in chunks (`gradient_cache`).

    Parameters
    ----------
    vlm : PeftModel
        With the `align` adapter active.
    losses : collection of str
        Which losses have a weight (`objective.LOSSES`): nothing else is computed. An unused
        parameter would stop DDP.
    """

    def __init__(self, vlm: PeftModel, losses: Collection[str]):
        super().__init__()
        self.vlm = vlm
        self.losses = frozenset(losses)
        # Starting points of CLIP and SigLIP; of one dimension, as FSDP2 spreads no scalars.
        self.scales = nn.ParameterDict()
        if self.losses & {"clip", "cwcl"}:
            self.scales["logit_scale"] = nn.Parameter(torch.tensor([math.log(1 / 0.07)]))
        if self.losses & {"siglip", "soft_label"}:
            self.scales["sigmoid_scale"] = nn.Parameter(torch.tensor([math.log(10.0)]))
            self.scales["sigmoid_bias"] = nn.Parameter(torch.tensor([-10.0]))
        self._no_split_modules = vlm._no_split_modules  # what FSDP spreads one by one

    def forward(
        self, wells: dict[str, torch.Tensor], prompts: dict[str, torch.Tensor] | None
    ) -> Encoded:
        """Encode some wells and prompts.

        Parameters
        ----------
        wells : dict of Tensor
            A bank's batch of N wells.
        prompts : dict of Tensor, optional
            `input_ids` and `attention_mask` (R, L); None in steps without prompts, R = 0 in a
            chunk without.

        Returns
        -------
        dict of Tensor
            What the losses take: `wells` (N, E) unit vectors; `readout` (N, K); `looks`
            (N, C, F), unit vectors a channel of what the frozen backbone saw; with prompts,
            `prompts` (R, E) unit vectors and the scalars `logit_scale`, `sigmoid_scale` (both
            exponentiated) and `sigmoid_bias`.
        """
        vlm = bare(self.vlm)
        tower = vlm.model.vision_tower
        inputs = encode_batch(tower, wells)
        seen = tower(**inputs)
        encoded = {}
        if prompts is not None or self.losses & {"same_label", "replicate"}:
            encoded["wells"] = F.normalize(vlm.well_projection(seen.pooler_output).float(), dim=-1)
        if "shift" in self.losses:
            encoded["readout"] = seen.readout.float()
        if prompts is None:
            return encoded
        if "cwcl" in self.losses:
            names = ("channel_features", "control_features", "channel_mask")
            looks = tower.standardize(*map(inputs.get, names)).mean(dim=1).detach()
            encoded["looks"] = F.normalize(looks.float(), dim=-1)
        if len(prompts["input_ids"]) == 0:
            return encoded
        encoded["prompts"] = vlm.embed_prompts(**prompts).float()
        for name, (value,) in self.scales.items():
            encoded[name] = value.clone() if name == "sigmoid_bias" else value.exp()
        return encoded
