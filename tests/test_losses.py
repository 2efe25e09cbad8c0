"""The losses of phase align against their formulas, written out in NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contrastive.losses import clip_loss, effect_loss, same_label_loss, siglip_loss

seeds = st.integers(0, 2**31)
fast = settings(max_examples=25, deadline=None)


def unit_rows(rows: int, seed: int, width: int = 6) -> np.ndarray:
    """Random unit vectors (rows, width)."""
    x = np.random.default_rng(seed).normal(size=(rows, width))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def log_softmax(x: np.ndarray, axis: int) -> np.ndarray:
    shifted = x - x.max(axis=axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


def plain_clip(wells: np.ndarray, prompts: np.ndarray, scale: float) -> float:
    logits = scale * wells @ prompts.T
    to_prompt = -np.diag(log_softmax(logits, axis=1)).mean()
    to_well = -np.diag(log_softmax(logits, axis=0)).mean()
    return (to_prompt + to_well) / 2


def plain_siglip(wells: np.ndarray, prompts: np.ndarray, scale: float, bias: float) -> float:
    total = 0.0
    for i, well in enumerate(wells):
        for j, prompt in enumerate(prompts):
            sign = 1 if i == j else -1
            total += np.log1p(np.exp(-sign * (scale * well @ prompt + bias)))
    return total / len(wells)


def plain_same_label(wells: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    terms = []
    for i in range(len(wells)):
        others = [a for a in range(len(wells)) if a != i]
        partners = [p for p in others if labels[p] == labels[i]]
        if not partners:
            continue
        total = sum(np.exp(wells[i] @ wells[a] / temperature) for a in others)
        logs = [np.log(np.exp(wells[i] @ wells[p] / temperature) / total) for p in partners]
        terms.append(-sum(logs) / len(partners))
    return float(np.mean(terms)) if terms else 0.0


def tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(array) for array in arrays]


@fast
@given(rows=st.integers(2, 7), scale=st.floats(0.1, 30), seed=seeds)
def test_clip_is_its_formula(rows, scale, seed):
    wells, prompts = unit_rows(rows, seed), unit_rows(rows, seed + 1)
    found = clip_loss(*tensors(wells, prompts), torch.tensor(scale))
    assert found.item() == pytest.approx(plain_clip(wells, prompts, scale), abs=1e-5)


@fast
@given(rows=st.integers(1, 7), scale=st.floats(0.1, 20), bias=st.floats(-10, 2), seed=seeds)
def test_siglip_is_its_formula(rows, scale, bias, seed):
    wells, prompts = unit_rows(rows, seed), unit_rows(rows, seed + 1)
    found = siglip_loss(*tensors(wells, prompts), torch.tensor(scale), torch.tensor(bias))
    assert found.item() == pytest.approx(plain_siglip(wells, prompts, scale, bias), abs=1e-4)


@fast
@given(
    labels=st.lists(st.integers(0, 3), min_size=2, max_size=9),
    temperature=st.floats(0.05, 2),
    seed=seeds,
)
def test_same_label_is_its_formula(labels, temperature, seed):
    wells, names = unit_rows(len(labels), seed), np.array(labels)
    found = same_label_loss(*tensors(wells, names), temperature)
    assert found.item() == pytest.approx(plain_same_label(wells, names, temperature), abs=1e-6)


@fast
@given(rows=st.integers(1, 5), slots=st.integers(1, 6), seed=seeds)
def test_effect_loss_is_its_formula(rows, slots, seed):
    rng = np.random.default_rng(seed)
    predicted, effects = rng.normal(size=(rows, slots)), 8 * rng.normal(size=(rows, slots))
    effects[rng.random(effects.shape) < 0.3] = np.nan
    off = np.abs(predicted - np.arcsinh(effects / 2))[np.isfinite(effects)]
    terms = np.where(off < 1, off**2 / 2, off - 0.5)
    found = effect_loss(*tensors(predicted, effects))
    assert found.item() == pytest.approx(terms.mean() if len(terms) else 0.0, abs=1e-9)


def test_what_was_not_measured_has_no_gradient():
    predicted = torch.zeros(2, 3, requires_grad=True)
    effects = torch.tensor([[1.0, float("nan"), 4.0], [float("nan")] * 3])
    effect_loss(predicted, effects).backward()
    assert torch.equal(predicted.grad != 0, torch.isfinite(effects))


@fast
@given(seed=seeds)
def test_the_order_of_a_batch_does_not_matter(seed):
    wells, prompts = tensors(unit_rows(6, seed), unit_rows(6, seed + 1))
    labels = torch.tensor([0, 0, 1, 1, 1, 2])
    order = torch.from_numpy(np.random.default_rng(seed).permutation(6))
    scale, bias = torch.tensor(10.0), torch.tensor(-5.0)

    def losses(rows):
        return torch.stack(
            [
                clip_loss(wells[rows], prompts[rows], scale),
                siglip_loss(wells[rows], prompts[rows], scale, bias),
                same_label_loss(wells[rows], labels[rows], 0.1),
            ]
        )

    assert torch.allclose(losses(torch.arange(6)), losses(order))


def test_without_a_partner_there_is_nothing_to_learn():
    wells = torch.from_numpy(unit_rows(4, 0)).requires_grad_()
    loss = same_label_loss(wells, torch.arange(4), 0.1)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(wells.grad, torch.zeros_like(wells))


def test_wells_without_a_partner_push_but_are_not_counted():
    wells = unit_rows(3, 0)
    pair = same_label_loss(*tensors(wells[:2], np.array([0, 0])), 0.1).item()
    with_third = same_label_loss(*tensors(wells, np.array([0, 0, 1])), 0.1).item()
    assert pair == pytest.approx(0, abs=1e-9)  # nothing but the partner to choose from
    assert with_third > 0


@pytest.mark.parametrize("equal", [False, True])
def test_gradients_are_finite(equal):
    """Also for wells that look exactly alike, and at the sharpest scale in use."""
    start = np.repeat(unit_rows(1, 0), 6, axis=0) if equal else unit_rows(6, 0)
    wells = torch.from_numpy(start).requires_grad_()
    prompts = torch.from_numpy(unit_rows(6, 1)).requires_grad_()
    scale, bias = torch.tensor(100.0), torch.tensor(-10.0)
    total = (
        clip_loss(wells, prompts, scale)
        + siglip_loss(wells, prompts, scale, bias)
        + same_label_loss(wells, torch.tensor([0, 0, 1, 1, 2, 3]), 0.01)
    )
    total.backward()
    assert torch.isfinite(wells.grad).all()
    assert torch.isfinite(prompts.grad).all()


def test_true_pairs_lower_the_losses():
    wells = torch.from_numpy(unit_rows(8, 0))
    scale, bias = torch.tensor(10.0), torch.tensor(-5.0)
    wrong = wells.roll(1, dims=0)
    assert clip_loss(wells, wells, scale) < clip_loss(wells, wrong, scale)
    assert siglip_loss(wells, wells, scale, bias) < siglip_loss(wells, wrong, scale, bias)
