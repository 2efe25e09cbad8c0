"""What drove a well's embedding: parts of a cosine, by site, channel and pixel, that add up to it.

The embedding's direction v is linear in z, and z averages over pixels, so nothing is estimated:

    v = sum_sc z_sc M_c P / S               M: the tower's linear maps, P: the well projection
    cosine(v, u) = sum_sc share_sc
    share_sc = z_sc . g_c                   g_c = M_c P u / (S |v|)
    z_scf = sum_p weight_scp (map_scfp - centre_cf) / scale_cf
    share_sc = sum_p heat_scp               heat_scp = weight_scp sum_f gain_scf (map - centre)

The weights are those of the compartments and of the cells that `encode_channels` averages over.
Where z is cut off at MAX_DEVIATION, gain = g / scale shrinks by what was cut; of cells it grows by
CELL_GAIN. A feature map's pixel has seen its surroundings, and weights are taken as given: how much
that matters, occlusion says.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F

from vlm.cells import paint_field
from vlm.modeling import CellPaintingVlmForConditionalGeneration
from vlm.planes import has_structure
from vlm.vision_tower import CellPaintingVisionTower


@dataclass
class Attribution:
    """The parts of one well's cosine with a direction; an inflated stem has one channel, "all".

    Attributes
    ----------
    cosine : float
    shares : (S, C) float Tensor
        What each site and channel adds to the cosine.
    heat : (S, C, H, W) float Tensor
        What each pixel adds; sums to `shares`, except in a field without a compartment, and in a
        blank plane, which adds what its well's other sites do (`vlm.wells.fill_blanks`).
    """

    cosine: float
    shares: torch.Tensor
    heat: torch.Tensor


@torch.no_grad()
def explain(
    model: CellPaintingVlmForConditionalGeneration,
    well: dict[str, torch.Tensor],
    pixel_values: torch.Tensor,
    direction: torch.Tensor,
) -> Attribution:
    """Split the cosine of a well's embedding with a direction among sites, channels and pixels.

    Parameters
    ----------
    model : CellPaintingVlmForConditionalGeneration
    well : dict of Tensor
        One well, B = 1, as `WellBank.batch` gives it.
    pixel_values : (S, C, H, W) float
        Its sites, as the image processor makes them.
    direction : (projection_dim,) float
        A unit vector: the well's own embedding, or another's.
    """
    tower = model.model.vision_tower.eval()
    features = well["channel_features"]
    z = tower.standardize(features, well.get("control_features"), well["channel_mask"])[0]
    seen = has_structure(pixel_values)  # (S, C)
    if tower.config.stem == "inflated":  # one stream of all channels
        seen = seen.any(dim=1, keepdim=True)
    length = _direction(model, well).norm()
    D = tower.config.hidden_size
    maps = tower.linear_maps[tower.stain_ids][..., :D]  # (C, F, D)
    pull = maps @ (model.well_projection.weight.T @ direction) / (len(z) * length)  # (C, F)
    shares = (z * pull).sum(dim=-1)

    center = controls_center(tower, well)
    scale = tower.reference_scale[tower.stain_ids]
    uncut = ((features[0] - center) / scale).nan_to_num()
    cut = torch.where(uncut == 0, 0.0, z / uncut)  # 1 within the bounds, 0 where not imaged
    gain = pull * cut / scale * seen[..., None]  # (S, C, F)
    heat = [_heat(tower, *site, center) for site in zip(pixel_values, gain, strict=True)]
    return Attribution(float(shares.sum()), shares, torch.stack(heat))


def _heat(
    tower: CellPaintingVisionTower, pixels: torch.Tensor, gain: torch.Tensor, center: torch.Tensor
) -> torch.Tensor:
    """Spread a site's shares over its pixels, (C, H, W) from pixels (C, H, W), gain (C, F)."""
    C, (H, W) = len(gain), pixels.shape[1:]
    center = center.nan_to_num()
    heat = torch.zeros(C, H, W)
    start = 0

    def push(feature_map: torch.Tensor) -> torch.Tensor:
        """What each position of a map (C, f, h, w) adds: (C, h, w)."""
        nonlocal start
        own = slice(start, start := start + feature_map.shape[1])
        pushed = torch.einsum("cf,cfhw->chw", gain[:, own], feature_map)
        return pushed - (gain[:, own] * center[:, own]).sum(dim=1)[:, None, None]

    for weights, values in tower.weighted_maps(pixels[None]):
        weight = weights[0].expand(C, -1, -1)  # (C, H, W)
        pushed = push(values[0])
        # A position of the map weighs what its pixels weigh, averaged: go back the same way.
        h, w = pushed.shape[-2:]
        pool = partial(F.adaptive_avg_pool2d, output_size=(h, w))
        pooled, back = torch.func.vjp(pool, weight)[:2]
        total = pooled.sum(dim=(1, 2), keepdim=True).clamp_min(1e-6)
        heat += weight * back(pushed)[0] / total
    if tower.cell_statistics:
        config = tower.config
        # (1, h, w) and (C, f, h, w), finer than the pixels where these are few.
        weight, values = paint_field(pixels, config.channels, config.pixel_scale)
        fine = weight * push(values.nan_to_num()) / weight.sum().clamp_min(1e-6)
        heat += F.adaptive_avg_pool2d(fine, (H, W)) * (fine[0].numel() / (H * W))
    return heat


def controls_center(tower: CellPaintingVisionTower, well: dict[str, torch.Tensor]) -> torch.Tensor:
    """Features (C, F) that count as no change for one well."""
    controls = well.get("control_features")
    if controls is None:
        return tower.reference_center[tower.stain_ids]
    return controls[0].nanmedian(dim=0).values


@torch.no_grad()
def occlude_shares(
    model: CellPaintingVlmForConditionalGeneration,
    well: dict[str, torch.Tensor],
    direction: torch.Tensor,
) -> torch.Tensor:
    """Measure what each site and channel adds: set it to what controls look like, embed again.

    Returns
    -------
    (S, C) float
        How much less the well goes in the direction, in units of its own length.
    """
    features = well["channel_features"][0]
    S, C, _ = features.shape
    center = controls_center(model.model.vision_tower, well)
    drops = torch.zeros(S, C)
    start = _direction(model, well)
    for s in range(S):
        for c in range(C):
            occluded = features.clone()
            occluded[s, c] = center[c]
            other = _direction(model, {**well, "channel_features": occluded[None]})
            drops[s, c] = (start - other) @ direction / start.norm()
    return drops


@torch.no_grad()
def occlude_patches(
    model: CellPaintingVlmForConditionalGeneration,
    well: dict[str, torch.Tensor],
    pixel_values: torch.Tensor,
    fill: torch.Tensor,
    direction: torch.Tensor,
    patches: int,
) -> torch.Tensor:
    """Measure what each part of each field adds: cover it in all channels, encode and embed again.

    Parameters
    ----------
    model, well, pixel_values, direction
        As in `explain`.
    fill : (S, C, H, W) float
        What covers it.
    patches : int
        A field is divided into patches x patches squares.

    Returns
    -------
    (S, patches, patches) float
        How much less the well goes in the direction, in units of its own length.
    """
    tower = model.model.vision_tower.eval()
    start = _direction(model, well)
    features = well["channel_features"]
    drops = torch.zeros(len(pixel_values), patches, patches)
    for s, i, j, window in _windows(pixel_values, patches):
        covered = pixel_values[s].clone()
        covered[:, *window] = fill[s][:, *window]
        occluded = features.clone()
        occluded[0, s] = tower.encode_channels(covered[None, None])[0, 0]
        other = _direction(model, {**well, "channel_features": occluded})
        drops[s, i, j] = (start - other) @ direction / start.norm()
    return drops


def background(pixel_values: torch.Tensor) -> torch.Tensor:
    """The dark end of each channel of each field, everywhere: (S, C, H, W)."""
    dark = pixel_values.flatten(2).quantile(0.1, dim=2)  # as `vision_tower.foreground` takes it
    return dark[..., None, None].expand_as(pixel_values)


def sum_patches(heat: torch.Tensor, patches: int) -> torch.Tensor:
    """Add up heat (S, C, H, W) over channels and over squares: (S, patches, patches)."""
    sums = torch.zeros(len(heat), patches, patches)
    for s, i, j, window in _windows(heat, patches):
        sums[s, i, j] = heat[s][:, *window].sum()
    return sums


def _windows(
    pixel_values: torch.Tensor, patches: int
) -> Iterator[tuple[int, int, int, tuple[slice, slice]]]:
    S, _, H, W = pixel_values.shape
    for s in range(S):
        for i in range(patches):
            for j in range(patches):
                rows = slice(i * H // patches, (i + 1) * H // patches)
                columns = slice(j * W // patches, (j + 1) * W // patches)
                yield s, i, j, (rows, columns)


def _direction(
    model: CellPaintingVlmForConditionalGeneration, well: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Where a well's embedding points, before it is scaled to length one: (projection_dim,)."""
    return model.well_projection(model.model.vision_tower(**well).pooler_output)[0]
