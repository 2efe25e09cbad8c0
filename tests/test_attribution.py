"""What drove an embedding: parts that add up, and occlusion that agrees with them."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_model

from vlm.attribution import explain, occlude_patches, occlude_shares, sum_patches

MODEL, PROCESSOR = tiny_model()
TOWER = MODEL.model.vision_tower
IMAGED = torch.ones(1, 5, dtype=torch.bool)


def draw_well(seed: int, sites: int = 3, size: int = 32, spread: float = 1.0):
    """Random sites with random controls; a small spread puts many z beyond their bounds."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(sites, 5, size, size, generator=generator)
    controls = torch.randn(6, 5, size, size, generator=generator)
    with torch.no_grad():
        features = TOWER.encode_channels(controls[None])
        TOWER.fit_reference(features[0], torch.zeros(6, dtype=torch.int))
        TOWER.reference_scale *= spread
        own = TOWER.encode_channels(pixels[None])
    return {"channel_features": own, "control_features": features, "channel_mask": IMAGED}, pixels


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 99),
    sites=st.integers(1, 4),
    size=st.sampled_from([32, 41]),
    spread=st.sampled_from([0.2, 1.0]),
    missing=st.sampled_from([None, 0, 3]),
    on_plate=st.booleans(),
)
def test_parts_add_up_to_the_cosine_and_are_what_their_absence_takes(
    seed, sites, size, spread, missing, on_plate
):
    well, pixels = draw_well(seed, sites, size, spread)
    if missing is not None:
        well["channel_mask"] = IMAGED.clone()
        well["channel_mask"][0, missing] = False
    if not on_plate:  # the tower's fitted reference stands in
        del well["control_features"]
    direction = F.normalize(torch.randn(16, generator=torch.Generator().manual_seed(seed)), dim=0)
    found = explain(MODEL, well, pixels, direction)
    with torch.no_grad():
        cosine = MODEL.embed_wells(**well)[0] @ direction
    assert found.shares.shape == (sites, 5)
    assert found.cosine == pytest.approx(cosine.item(), abs=1e-5)
    assert torch.allclose(found.shares.sum(), cosine, atol=1e-5)
    assert torch.allclose(found.heat.sum(dim=(2, 3)), found.shares, atol=1e-5)
    assert torch.allclose(occlude_shares(MODEL, well, direction), found.shares, atol=1e-5)
    if missing is not None:
        assert not found.shares[:, missing].any()
        assert not found.heat[:, missing].any()


def test_a_well_is_wholly_explained_by_itself():
    well, pixels = draw_well(0)
    with torch.no_grad():
        own = MODEL.embed_wells(**well)[0]
    assert explain(MODEL, well, pixels, own).cosine == pytest.approx(1, abs=1e-5)


def test_pixels_of_a_blank_plane_add_nothing():
    well, pixels = draw_well(0)
    pixels[1, 2] = 0.0
    found = explain(MODEL, well, pixels, F.normalize(torch.ones(16), dim=0))
    assert not found.heat[1, 2].any()
    assert found.heat[1, 3].any() and found.heat[0, 2].any()


@pytest.mark.parametrize("place", [(0, 1, 2), (1, 3, 0)])
def test_attribution_and_occlusion_find_a_planted_bright_patch(place):
    """A field like its controls but for one bright square: both point at it, and agree in rank."""
    size, patches = 64, 4
    generator = torch.Generator().manual_seed(1)
    cells = torch.rand(1, 5, size, size, generator=generator) - 1.5
    pixels = (cells + 0.1 * torch.randn(2, 5, size, size, generator=generator)).clone()
    background = pixels.clone()
    with torch.no_grad():
        controls = TOWER.encode_channels(
            cells + 0.1 * torch.randn(1, 6, 5, size, size, generator=generator)
        )
        TOWER.fit_reference(controls[0], torch.zeros(6, dtype=torch.int))
        s, i, j = place
        side = size // patches
        pixels[s, 1:, i * side : (i + 1) * side, j * side : (j + 1) * side] += 2.0
        well = {
            "channel_features": TOWER.encode_channels(pixels[None]),
            "control_features": controls,
            "channel_mask": IMAGED,
        }
        own = MODEL.embed_wells(**well)[0]
    attributed = sum_patches(explain(MODEL, well, pixels, own).heat, patches)
    occluded = occlude_patches(MODEL, well, pixels, background, own, patches)
    assert attributed.shape == occluded.shape == (2, patches, patches)
    for found in (attributed, occluded):
        assert torch.unravel_index(found.argmax(), found.shape) == place
