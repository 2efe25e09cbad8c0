"""The channel-adaptive vision tower: any number of sites, five stains, a fixed few tokens a well.

    pixels (B, S, C, H, W) ── one shared single-channel backbone, averaged over nuclei and over
                              cytoplasm; statistics of cells ──▶ features (B, S, C, F)
    features - controls' median, over the reference scale ──▶ z (B, S, C, F)
    z ── one linear map a stain, summed ──▶ change (B, D): the well's embedding is read from it
    z + stain embedding ──▶ [latents; sites x channels] ── cross-channel transformer
    z, latents ──▶ readout (B, K): how far each fact slot shifted; mostly linear in z
    tokens = [change; the strongest readouts, two tokens each; one token a channel]: (B, T, D)

The backbone's features are the expensive part and never change while the backbone is frozen, so
every method after `encode_channels` also takes features that were computed before.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from data.channels import STAINS, stain_index
from vlm.backbone import feature_maps, map_widths, new_backbone
from vlm.cells import STATISTICS, encode_cells
from vlm.configuration import CellPaintingVisionConfig
from vlm.planes import compartments, has_structure
from vlm.reference import center_and_scale, robust_z

SHIFT_UNIT = 4.0
"""A readout's linear map gives shifts in so many: what is worth saying is then of order one."""


@dataclass
class WellTokens(BaseModelOutputWithPooling):
    """What the tower says of wells: tokens (B, T, D), change (B, D) and readout (B, K)."""

    readout: torch.Tensor | None = None


class CellPaintingVisionTower(PreTrainedModel):
    """Turn the sites of a well into tokens, as seen against its plate's controls.

    A stain's parameters are found by its name, so a tower keeps its meaning when channels are
    missing or come from another stain set. Stems are shared; what differs between stains is one
    embedding and the reference statistics.
    """

    config_class = CellPaintingVisionConfig
    main_input_name = "pixel_values"
    base_model_prefix = "vision_tower"
    _supports_sdpa = True

    reference_center: torch.Tensor  # (stains, F)
    reference_scale: torch.Tensor  # (stains, F)
    stain_ids: torch.Tensor  # (C,)
    readout_groups: torch.Tensor  # (K,)
    readout_needs: torch.Tensor  # (K, stains) bool

    def __init__(self, config: CellPaintingVisionConfig):
        super().__init__(config)
        self.backbone = new_backbone(config.backbone_config)
        # Each feature map, over two compartments; statistics of cells.
        maps = 2 * sum(map_widths(self.backbone, config.backbone_layers))
        feature_size = maps + self.cell_statistics
        D, K = config.hidden_size, len(config.readout_groups)

        # What control wells look like, per stain: set by `fit_reference`, used where a plate has
        # no controls of its own (centre) and always for the scale.
        self.register_buffer("reference_center", torch.zeros(len(STAINS), feature_size))
        self.register_buffer("reference_scale", torch.ones(len(STAINS), feature_size))
        self.register_buffer(
            "readout_groups", torch.tensor(config.readout_groups), persistent=False
        )
        self.register_buffer("readout_needs", _needed_stains(config), persistent=False)
        self.register_buffer(
            "stain_ids",
            torch.tensor(config.streams),
            persistent=False,
        )

        self.linear_maps = nn.Parameter(torch.zeros(len(STAINS), feature_size, D + K))
        self.readout_residual = nn.Linear(config.num_latents * D, K)
        # Fixed random codes: what a token says can be read out of it.
        self.readout_codes = nn.Parameter(torch.zeros(K, D), requires_grad=False)
        self.group_codes = nn.Parameter(
            torch.zeros(max(config.readout_groups) + 1, D), requires_grad=False
        )
        self.change_code = nn.Parameter(torch.zeros(1, D), requires_grad=False)
        self.missing_codes = nn.Parameter(torch.zeros(len(STAINS), D), requires_grad=False)
        self.feature_dropout = nn.Dropout(config.feature_dropout)
        self.channel_projection = nn.Linear(feature_size, D)
        self.stain_embedding = nn.Embedding(len(STAINS), D)
        self.latents = nn.Parameter(torch.zeros(config.num_latents, D))
        layer = nn.TransformerEncoderLayer(
            D,
            config.num_attention_heads,
            dim_feedforward=2 * D,
            dropout=config.dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.fusion = nn.TransformerEncoder(
            layer, config.num_hidden_layers, norm=nn.LayerNorm(D), enable_nested_tensor=False
        )
        self.channel_mlp = nn.Sequential(
            nn.LayerNorm(2 * D),
            nn.Linear(2 * D, 2 * D),
            nn.GELU(),
            nn.Linear(2 * D, D),
            nn.LayerNorm(D),
        )
        self.post_init()

    @property
    def cell_statistics(self) -> int:
        """How many of a channel's features, the last, are statistics of cells (`vlm.cells`).

        None without a DNA stain, which cells are found by, and none with an inflated stem, which
        sees the channels together.
        """
        sees = "DNA" in self.config.channels and self.config.stem == "shared"
        return len(STATISTICS) if sees else 0

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            nn.init.normal_(self.latents, std=self.config.initializer_range)
            own = self.codes()
            codes = nn.init.orthogonal_(torch.cat(own))
            for parameter, values in zip(own, codes.split([len(c) for c in own]), strict=True):
                if not _is_loaded(parameter):
                    parameter.copy_(values)
            nn.init.zeros_(self.readout_residual.weight)
            nn.init.zeros_(self.readout_residual.bias)
            groups = torch.tensor(self.config.readout_groups)
            self.readout_groups.copy_(groups)
            self.readout_needs.copy_(_needed_stains(self.config))
            # Readouts begin at zero, and stay there for what is never measured.
            nn.init.normal_(self.linear_maps, std=self.config.initializer_range)
            if not _is_loaded(self.linear_maps):
                self.linear_maps[..., self.config.hidden_size :] = 0.0
            nn.init.zeros_(self.reference_center)
            nn.init.ones_(self.reference_scale)
            self.stain_ids.copy_(torch.tensor(self.config.streams))

    def encode_channels(
        self, pixel_values: torch.Tensor, cells: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Run the backbone, on every channel by itself or on all together (`config.stem`).

        Parameters
        ----------
        pixel_values : (B, S, C, H, W) float
            As the image processor makes them.
        cells : (B, S, C, f) float, optional
            Of `vlm.cells.encode_cells`, where that is at hand: no training changes it.

        Returns
        -------
        (B, S, C, F) float; (B, S, 1, F) with an inflated stem
            Averages of what `weighted_maps` gives, then the statistics of cells.
        """
        pooled = []
        for weight, values in self.weighted_maps(pixel_values.flatten(0, 1)):
            h, w = values.shape[-2:]
            share = F.adaptive_avg_pool2d(weight, (h, w))  # (B*S, 1, h, w)
            share = share / share.sum(dim=(-2, -1), keepdim=True).clamp_min(1e-6)
            pooled.append(torch.einsum("ncfhw,nkhw->ncf", values, share))
        features = torch.cat(pooled, dim=2).unflatten(0, pixel_values.shape[:2])
        if self.cell_statistics:
            if cells is None:
                cells = encode_cells(pixel_values, self.config.channels, self.config.pixel_scale)
            features = torch.cat([features, cells], dim=3)
        return features

    def weighted_maps(
        self, pixel_values: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Give what a channel's features of the backbone are averages of, in their order.

        Each of the backbone's feature maps over nuclei, then over cytoplasm: an average over the
        whole field mostly counts cells, this looks at them. Shallow maps are kept: they say how
        bright and how grainy a stain is.

        Parameters
        ----------
        pixel_values : (N, C, H, W) float

        Yields
        ------
        weight : (N, 1, H, W) float
        values : (N, C, f, h, w) float
            C is 1 with an inflated stem.
        """
        N, C, H, W = pixel_values.shape
        together = C if self.config.stem == "inflated" else 1  # channels the backbone sees at once
        planes = pixel_values.reshape(N * C // together, together, H, W)
        maps = feature_maps(self.backbone, planes, self.config.backbone_layers)
        for weight in compartments(pixel_values, self.config.channels):  # (N, 1, H, W) each
            for feature_map in maps:  # (N*C, f, h, w)
                yield weight, feature_map.unflatten(0, (N, -1))

    @torch.no_grad()
    def fit_reference(self, features: torch.Tensor, plate: torch.Tensor) -> None:
        """Set centre and scale from control sites (or from all sites where there are no controls).

        Parameters
        ----------
        features : (N, C, F) float
            Channel features of the reference sites.
        plate : (N,) int
            The plate of each; the scale is the robust deviation (1.4826 MAD) *within* plates.
        """
        center, scale = center_and_scale(features, plate, self.cell_statistics)
        self.reference_center[self.stain_ids] = center
        self.reference_scale[self.stain_ids] = scale

    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        control_pixel_values: torch.Tensor | None = None,
        channel_features: torch.Tensor | None = None,
        control_features: torch.Tensor | None = None,
        channel_mask: torch.Tensor | None = None,
        site_weights: torch.Tensor | None = None,
    ) -> WellTokens:
        """Turn wells into tokens.

        Parameters
        ----------
        pixel_values : (B, S, C, H, W) float, optional
            Sites of each well; C is `len(config.channels)`, in that order.
        control_pixel_values : (B, R, C, H, W) float, optional
            Control sites of the same plate.
        channel_features, control_features : (B, S, C, F), (B, R, C, F) float, optional
            The same after `encode_channels`, in place of pixels.
        channel_mask : (B, C) bool, optional
            False where a channel was not imaged. Of pixels, a channel that is constant in all
            sites of a well was not imaged either.
        site_weights : (B, S) float, optional
            What each site counts in the change, a sum of 1 a well; by default all the same.

        Returns
        -------
        WellTokens
            `last_hidden_state` (B, T, D): the change, the statements, one token a channel;
            `pooler_output` (B, D): the change; `readout` (B, K): how far each slot shifted, as
            asinh(shift / 2), 0 where a stain that it needs was not imaged.
        """
        if channel_features is None:
            if pixel_values is None:
                raise ValueError("the tower needs pixel_values or channel_features")
            seen = has_structure(pixel_values).any(dim=1)  # (B, C)
            channel_mask = seen if channel_mask is None else channel_mask & seen
            # A plane without an image says nothing about compartments.
            missing = ~channel_mask[:, None, :, None, None]
            channel_features = self.encode_channels(pixel_values.masked_fill(missing, 0.0))
        if control_features is None and control_pixel_values is not None:
            control_features = self.encode_channels(control_pixel_values)
        B, S, C, _ = channel_features.shape
        if len(self.stain_ids) != C:
            raise ValueError(f"the tower expects the channels {self.config.channels}, found {C}")
        if channel_mask is None:
            channel_mask = channel_features.new_ones(B, len(self.config.channels), dtype=torch.bool)
        imaged = self.imaged_readouts(channel_mask)  # (B, K)
        z = self.standardize(channel_features, control_features, channel_mask)  # (B, S, C, F)
        if self.config.stem == "inflated":  # one stream of all channels
            channel_mask = channel_mask.any(dim=1, keepdim=True)
        if site_weights is None:
            site_weights = z.new_full((B, S), 1 / S)
        # Linear, without a constant: a well that looks like its controls has no change, opposite
        # effects point in opposite ways, and few training wells suffice.
        maps = self.linear_maps[self.stain_ids]  # (C, F, D + K)
        to_change, to_shift = maps.split(self.readout_codes.shape[::-1], dim=-1)
        seen = self._drop_features(z)
        change = torch.einsum("bs,bscf,cfd->bd", site_weights, seen, to_change)  # (B, D)
        shift = torch.einsum("bscf,cfk->bk", seen, to_shift) / S  # (B, K)
        stains = self.stain_embedding(self.stain_ids)  # (C, D)
        sites = self.channel_projection(self._drop_features(z)) + stains  # (B, S, C, D)

        latents = self.latents.expand(B, -1, -1)
        sequence = torch.cat([latents, sites.flatten(1, 2)], dim=1)  # (B, L + S*C, D)
        missing = ~channel_mask[:, None, :].expand(B, S, C).flatten(1)  # (B, S*C)
        padding = torch.cat([missing.new_zeros(B, latents.shape[1]), missing], dim=1)
        fused = self.fusion(sequence, src_key_padding_mask=padding)
        latents, fused = fused.split([latents.shape[1], S * C], dim=1)

        # One token a channel, with a short path for what the channel says alone: the transformer
        # mixes channels, and rare combinations are lost in the mix.
        alone = sites.mean(dim=1)  # (B, C, D)
        mixed = fused.reshape(B, S, C, -1).mean(dim=1)
        channels = self.channel_mlp(torch.cat([alone, mixed], dim=-1)) + stains
        # Shifts, not their asinh, are linear in z: strong ones lie beyond those of training.
        shift = SHIFT_UNIT * (shift + self.readout_residual(latents.flatten(1)))
        readout = torch.asinh(shift / 2) * imaged
        channels = self._mark_missing(self._unspoken(channels), channel_mask)
        told = [self._unspoken(change)[:, None], self.speak(readout), channels]
        tokens = torch.cat(told, dim=1)
        return WellTokens(last_hidden_state=tokens, pooler_output=change, readout=readout)

    def _drop_features(self, z: torch.Tensor) -> torch.Tensor:
        """Drop features (B, S, C, F) of the backbone in training, none of cells."""
        maps, cells = z.tensor_split([z.shape[-1] - self.cell_statistics], dim=-1)
        return torch.cat([self.feature_dropout(maps), cells], dim=-1)

    def imaged_readouts(self, channel_mask: torch.Tensor) -> torch.Tensor:
        """Say which readouts have all stains that they need: (B, C) bool to (B, K) bool.

        None has, where nothing was imaged.
        """
        imaged = self._imaged_stains(channel_mask)
        lacking = (self.readout_needs & ~imaged[:, None]).any(dim=2)  # (B, K)
        return ~lacking & channel_mask.any(dim=1, keepdim=True)

    def _imaged_stains(self, channel_mask: torch.Tensor) -> torch.Tensor:
        """Say which stains were imaged: (B, C) bool to (B, stains) bool."""
        imaged = channel_mask.new_zeros(len(channel_mask), len(STAINS))
        imaged[:, [stain_index(name) for name in self.config.channels]] = channel_mask
        return imaged

    def speak(self, readout: torch.Tensor) -> torch.Tensor:
        """Write a readout as statements: its strongest entries, strongest first.

        Parameters
        ----------
        readout : (B, K) float

        Returns
        -------
        (B, 2 M, D) float
            Of each entry a token with the code of its group, which says what changed, and one
            that says how: a code of its own, and the entry's as loud as the entry is.
        """
        order = readout.abs().argsort(dim=1, descending=True, stable=True)
        order = order[:, : self.config.num_statements]  # (B, M)
        names = self.group_codes[self.readout_groups[order]]  # (B, M, D)
        told = readout.gather(1, order)[..., None] * self.readout_codes[order]
        return torch.stack([names, self.change_code + told], dim=2).flatten(1, 2)

    def with_readout(
        self,
        tokens: torch.Tensor,
        readout: torch.Tensor,
        channel_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Let tokens (B, T, D) say another readout (B, K), and other channels missing (B, C)."""
        first = 1 + 2 * self.config.num_statements
        change, channels = tokens[:, :1], tokens[:, first:]
        if channel_mask is not None:
            channels = self._mark_missing(channels, channel_mask)
        said = self.speak(readout.to(self.readout_codes)).to(tokens)
        return torch.cat([change, said, channels], dim=1)

    def _unspoken(self, tokens: torch.Tensor) -> torch.Tensor:
        """Take the codes out of tokens (..., D) that are no statements: they must not say words."""
        codes = torch.cat(self.codes())  # (N, D)
        return tokens - tokens @ codes.T @ codes

    def codes(self) -> tuple[torch.Tensor, ...]:
        """All that tokens are written with, at right angles to each other."""
        return (self.readout_codes, self.group_codes, self.change_code, self.missing_codes)

    def _mark_missing(self, channels: torch.Tensor, channel_mask: torch.Tensor) -> torch.Tensor:
        """Let the tokens (B, C, D) of channels that were not imaged say so."""
        missing = self.missing_codes[self.stain_ids].to(channels)  # (C, D)
        return torch.where(channel_mask[..., None], channels, missing)

    def standardize(
        self,
        channel_features: torch.Tensor,
        control_features: torch.Tensor | None,
        channel_mask: torch.Tensor,
    ) -> torch.Tensor:
        """Say how far features lie from the plate's controls (`vlm.reference`), in robust z.

        Parameters
        ----------
        channel_features : (B, S, C, F) float
        control_features : (B, R, C, F) float or None
            None takes the reference that the tower was fitted with.
        channel_mask : (B, channels) bool
            What was not imaged is as in the controls: a channel, others' correlations with it, and
            without DNA all cells. So are statistics of cells that are NaN.

        Returns
        -------
        (B, S, C, F) float
        """
        if control_features is None:
            center = self.reference_center[self.stain_ids]  # (C, F)
        else:
            center = control_features.nanmedian(dim=1, keepdim=True).values  # (B, 1, C, F)
        scale = self.reference_scale[self.stain_ids]
        z = robust_z(channel_features, center, scale, self.cell_statistics)
        if self.config.stem == "inflated":
            seen = channel_mask.any(dim=1)[:, None, None]  # (B, 1, 1)
        else:
            seen = channel_mask[..., None].expand(-1, -1, z.shape[-1]).clone()  # (B, C, F)
        if self.cell_statistics:
            imaged = self._imaged_stains(channel_mask)[:, None]  # (B, 1, stains)
            of_cells = seen[..., -self.cell_statistics :]  # views, changed in place
            of_cells &= imaged[..., stain_index("DNA"), None]
            of_cells[..., : len(STAINS)] &= imaged
        return torch.where(seen[:, None], z, 0.0)


def _needed_stains(config: CellPaintingVisionConfig) -> torch.Tensor:
    """(K, stains) bool: what each readout needs."""
    needs = torch.zeros(len(config.readout_groups), len(STAINS), dtype=torch.bool)
    for row, names in enumerate(config.readout_stains or ()):
        needs[row, [stain_index(name) for name in names]] = True
    return needs


def _is_loaded(parameter: torch.Tensor) -> bool:
    """Whether a checkpoint has set it: initialisers look at this, plain assignments do not."""
    return getattr(parameter, "_is_hf_initialized", False)
