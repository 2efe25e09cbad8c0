"""How stains go together: correlations of what stands out from its neighbourhood."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import uniform_filter

from vlm.planes import NEIGHBOURHOOD, pair_products

SIDE = 64
EVERYWHERE = torch.ones(1, 1, SIDE, SIDE, dtype=torch.float64)


def draw(seed: int, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, channels, SIDE, SIDE, generator=generator, dtype=torch.float64)


def correlations(pixels: torch.Tensor, weight: torch.Tensor = EVERYWHERE) -> torch.Tensor:
    share = weight / weight.sum()
    return (pair_products(pixels, weight) * share[:, :, None]).sum(dim=(-2, -1))[0]


def test_the_mean_is_the_correlation_of_deviations_from_the_neighbourhood():
    pixels = draw(0)
    pixels[:, 1] += 0.7 * pixels[:, 0]
    side = 2 * (SIDE // NEIGHBOURHOOD // 2) + 1
    inner = slice(side, -side)
    weight = torch.zeros_like(EVERYWHERE)
    weight[..., inner, inner] = 1.0  # away from the border, where a mean has fewer pixels
    around = uniform_filter(weight[0, 0].numpy(), side)
    deviations = [
        plane - uniform_filter(plane * weight[0, 0].numpy(), side) / np.maximum(around, 1e-3)
        for plane in pixels[0].numpy()
    ]
    inside = np.stack([deviation[inner, inner].ravel() for deviation in deviations])
    expected = inside @ inside.T
    expected /= np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    np.fill_diagonal(expected, 0.0)
    np.testing.assert_allclose(correlations(pixels, weight).numpy(), expected, atol=1e-9)
    assert expected[0, 1] > 0.5


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99), gain=st.floats(0.1, 9), offset=st.floats(-3, 3))
def test_brightness_does_not_matter(seed, gain, offset):
    pixels = draw(seed)
    brighter = pixels.clone()
    brighter[:, 2] = gain * brighter[:, 2] + offset
    found = correlations(brighter)
    torch.testing.assert_close(found, correlations(pixels), atol=1e-8, rtol=0)
    torch.testing.assert_close(found, found.T)
    assert found.abs().max() <= 1


@pytest.mark.parametrize("sign", [-1, 1])
def test_stains_that_lie_together_or_apart(sign):
    pixels = draw(1)
    pixels[:, 1] = sign * pixels[:, 0]
    found = correlations(pixels)
    assert found[0, 1].item() == pytest.approx(sign)
    assert found[0, 2].abs() < 0.1


def test_a_plane_without_an_image_goes_with_none():
    pixels = draw(2)
    pixels[:, 1] = 0.4
    found = pair_products(pixels, EVERYWHERE)
    assert not found[:, 1].any() and not found[:, :, 1].any()
    assert found[:, 0, 2].any()
