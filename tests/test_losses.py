"""The losses of phase align against their formulas, written out in NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contrastive.losses import (
    clip_loss,
    cwcl_loss,
    label_overlap,
    replicate_loss,
    same_label_loss,
    shift_loss,
    siglip_loss,
    soft_label_loss,
)

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


def plain_cwcl(wells: np.ndarray, prompts: np.ndarray, looks: np.ndarray, scale: float) -> float:
    """CWCL's formula; prompts to wells as in CLIP."""
    B, C, _ = looks.shape
    logits = scale * wells @ prompts.T
    terms = []
    for i in range(B):
        alike = [sum(looks[i, c] @ looks[j, c] for c in range(C)) for j in range(B)]
        w = np.array([a / (2 * C) + 0.5 for a in alike])
        terms.append(-(w * log_softmax(logits[i : i + 1], axis=1)[0]).sum() / w.sum())
    to_well = -np.diag(log_softmax(logits, axis=0)).mean()
    return float(np.mean(terms) + to_well) / 2


def plain_soft_label(
    wells: np.ndarray, prompts: np.ndarray, weights: np.ndarray, scale: float, bias: float
) -> float:
    total = 0.0
    for i, well in enumerate(wells):
        for j, prompt in enumerate(prompts):
            logit = scale * well @ prompt + bias
            total += weights[i, j] * np.log1p(np.exp(-logit))
            total += (1 - weights[i, j]) * np.log1p(np.exp(logit))
    return total / len(wells)


def plain_overlap(lists: list[set[int]], others: list[set[int]]) -> np.ndarray:
    def of_pair(a: set[int], b: set[int]) -> float:
        return len(a & b) / (len(a) * len(b)) if a and b else 0.0

    return np.array([[of_pair(a, b) for b in others] for a in lists])


def plain_pull(wells: np.ndarray, weights: np.ndarray, candidate: np.ndarray, t: float) -> float:
    """Mean, over wells with a partner, of the weighted mean of -log shares among candidates."""
    terms = []
    for i in range(len(wells)):
        partners = np.flatnonzero(weights[i])
        if len(partners) == 0:
            continue
        total = sum(np.exp(wells[i] @ wells[a] / t) for a in np.flatnonzero(candidate[i]))
        logs = [np.log(np.exp(wells[i] @ wells[p] / t) / total) for p in partners]
        terms.append(-(weights[i, partners] @ logs) / weights[i, partners].sum())
    return float(np.mean(terms)) if terms else 0.0


def plain_same_label(wells: np.ndarray, lists: list[set[int]], temperature: float) -> float:
    others = ~np.eye(len(wells), dtype=bool)
    return plain_pull(wells, plain_overlap(lists, lists) * others, others, temperature)


def plain_replicate(wells, reagents, plates, lists, temperature: float) -> float:
    same = np.equal.outer(reagents, reagents)
    replicate = same & ~np.equal.outer(plates, plates)
    stranger = ~same & (plain_overlap(lists, lists) == 0)
    return plain_pull(wells, replicate.astype(float), replicate | stranger, temperature)


def label_matrix(lists: list[set[int]], width: int = 4) -> np.ndarray:
    """1 / (length of its list) at each label of a row."""
    return np.array([[(i in own) / max(len(own), 1) for i in range(width)] for own in lists])


def single(*labels: int) -> torch.Tensor:
    """One label a row."""
    return torch.nn.functional.one_hot(torch.tensor(labels)).double()


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


label_lists = st.lists(st.sets(st.integers(0, 3), max_size=3), min_size=2, max_size=9)


@fast
@given(lists=label_lists, temperature=st.floats(0.05, 2), seed=seeds)
def test_same_label_is_its_formula(lists, temperature, seed):
    wells = unit_rows(len(lists), seed)
    found = same_label_loss(*tensors(wells, label_matrix(lists)), temperature)
    assert found.item() == pytest.approx(plain_same_label(wells, lists, temperature), abs=1e-6)


@fast
@given(lists=label_lists, others=label_lists)
def test_overlap_is_its_formula(lists, others):
    found = label_overlap(*tensors(label_matrix(lists), label_matrix(others)))
    assert found.numpy() == pytest.approx(plain_overlap(lists, others))
    assert found.min() >= 0
    assert found.max() <= 1 + 1e-9


@fast
@given(lists=label_lists, temperature=st.floats(0.05, 2), seed=seeds)
def test_replicate_is_its_formula(lists, temperature, seed):
    rng = np.random.default_rng(seed)
    reagents, plates = rng.integers(0, 4, len(lists)), rng.integers(0, 2, len(lists))
    lists = [lists[reagent % len(lists)] for reagent in reagents]  # a reagent has one list
    wells = unit_rows(len(lists), seed)
    known = tensors(wells, reagents, plates, label_matrix(lists))
    expected = plain_replicate(wells, reagents, plates, lists, temperature)
    assert replicate_loss(*known, temperature).item() == pytest.approx(expected, abs=1e-6)


@fast
@given(rows=st.integers(1, 6), channels=st.integers(1, 3), scale=st.floats(0.1, 30), seed=seeds)
def test_cwcl_is_its_formula(rows, channels, scale, seed):
    wells, prompts = unit_rows(rows, seed), unit_rows(rows, seed + 1)
    looks = unit_rows(rows * channels, seed + 2).reshape(rows, channels, -1)
    found = cwcl_loss(*tensors(wells, prompts, looks), torch.tensor(scale))
    assert found.item() == pytest.approx(plain_cwcl(wells, prompts, looks, scale), abs=1e-5)


@fast
@given(seed=seeds)
def test_cwcl_of_wells_that_look_opposite_is_clip(seed):
    wells, prompts = tensors(unit_rows(2, seed), unit_rows(2, seed + 1))
    look = torch.from_numpy(unit_rows(1, seed)[:, None])
    found = cwcl_loss(wells, prompts, torch.cat([look, -look]), torch.tensor(9.0))
    assert torch.isclose(found, clip_loss(wells, prompts, torch.tensor(9.0)))


@fast
@given(rows=st.integers(1, 6), scale=st.floats(0.1, 20), bias=st.floats(-10, 2), seed=seeds)
def test_soft_label_is_its_formula_and_siglip_with_hard_labels(rows, scale, bias, seed):
    wells, prompts = unit_rows(rows, seed), unit_rows(rows, seed + 1)
    weights = np.random.default_rng(seed).random((rows, rows))
    scales = torch.tensor(scale), torch.tensor(bias)
    found = soft_label_loss(*tensors(wells, prompts, weights), *scales)
    expected = plain_soft_label(wells, prompts, weights, scale, bias)
    assert found.item() == pytest.approx(expected, abs=1e-4)
    hard = soft_label_loss(*tensors(wells, prompts, np.eye(rows)), *scales)
    assert torch.isclose(hard, siglip_loss(*tensors(wells, prompts), *scales), atol=1e-4)


@fast
@given(rows=st.integers(1, 5), slots=st.integers(1, 6), seed=seeds)
def test_shift_loss_is_its_formula(rows, slots, seed):
    rng = np.random.default_rng(seed)
    predicted, shifts = rng.normal(size=(rows, slots)), 8 * rng.normal(size=(rows, slots))
    shifts[rng.random(shifts.shape) < 0.3] = np.nan
    off = np.abs(predicted - np.arcsinh(shifts / 2))[np.isfinite(shifts)]
    terms = np.where(off < 1, off**2 / 2, off - 0.5)
    found = shift_loss(*tensors(predicted, shifts))
    assert found.item() == pytest.approx(terms.mean() if len(terms) else 0.0, abs=1e-9)


def test_what_was_not_measured_has_no_gradient():
    predicted = torch.zeros(2, 3, requires_grad=True)
    shifts = torch.tensor([[1.0, float("nan"), 4.0], [float("nan")] * 3])
    shift_loss(predicted, shifts).backward()
    assert torch.equal(predicted.grad != 0, torch.isfinite(shifts))


@fast
@given(seed=seeds)
def test_the_order_of_a_batch_does_not_matter(seed):
    wells, prompts = tensors(unit_rows(6, seed), unit_rows(6, seed + 1))
    looks = torch.from_numpy(unit_rows(12, seed + 2)).reshape(6, 2, -1)
    labels, weights = single(0, 0, 1, 1, 1, 2), torch.rand(6, 6).double()
    reagents, plates = torch.tensor([0, 0, 1, 1, 2, 3]), torch.tensor([0, 1, 0, 1, 0, 1])
    order = torch.from_numpy(np.random.default_rng(seed).permutation(6))
    scale, bias = torch.tensor(10.0), torch.tensor(-5.0)

    def losses(rows):
        pair, own = (wells[rows], prompts[rows]), labels[rows]
        return torch.stack(
            [
                clip_loss(*pair, scale),
                siglip_loss(*pair, scale, bias),
                cwcl_loss(*pair, looks[rows], scale),
                soft_label_loss(*pair, weights[rows][:, rows], scale, bias),
                same_label_loss(wells[rows], own, 0.1),
                replicate_loss(wells[rows], reagents[rows], plates[rows], own, 0.1),
            ]
        )

    assert torch.allclose(losses(torch.arange(6)), losses(order))


@pytest.mark.parametrize("rows", [1, 4])
def test_without_a_partner_there_is_nothing_to_learn(rows):
    wells = torch.from_numpy(unit_rows(rows, 0)).requires_grad_()
    number = torch.arange(rows)
    loss = same_label_loss(wells, single(*number), 0.1)
    loss = loss + replicate_loss(wells, number, number, single(*number), 0.1)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(wells.grad, torch.zeros_like(wells))


def test_wells_without_a_partner_push_but_are_not_counted():
    wells = torch.from_numpy(unit_rows(3, 0))
    assert same_label_loss(wells[:2], single(0, 0), 0.1) < 1e-9  # only the partner to choose from
    assert same_label_loss(wells, single(0, 0, 1), 0.1) > 0


def test_a_compound_of_many_targets_counts_less_for_each():
    labels = torch.from_numpy(label_matrix([{0}, {0}, {0, 1, 2}, {1, 2}]))
    assert label_overlap(labels[:1], labels)[0].tolist() == pytest.approx([1, 1, 1 / 3, 0])
    assert label_overlap(labels[2:3], labels[3:]).item() == pytest.approx(1 / 3)


def test_neither_its_own_plate_nor_its_target_pushes_a_replicate_away():
    """Wells 2 (same reagent and plate) and 3 (same target) may lie anywhere."""
    reagents, plates = torch.tensor([0, 0, 0, 1, 2]), torch.tensor([0, 1, 0, 0, 0])
    labels = single(0, 0, 0, 0, 1)

    def gradient(rows: list[int]) -> torch.Tensor:
        wells = torch.from_numpy(unit_rows(5, 0)).requires_grad_()
        loss = replicate_loss(wells[rows], reagents[rows], plates[rows], labels[rows], 0.1)
        loss.backward()
        return wells.grad

    assert torch.equal(gradient([0, 3, 2]), torch.zeros(5, 6, dtype=torch.float64))
    assert (gradient([0, 1, 4])[:2] != 0).all()
    both = gradient([0, 1, 3, 4])
    assert torch.equal(both[3], torch.zeros(6, dtype=torch.float64))


@pytest.mark.parametrize("equal", [False, True])
def test_gradients_are_finite(equal):
    """Also for wells that look exactly alike, and at the sharpest scale in use."""
    start = np.repeat(unit_rows(1, 0), 6, axis=0) if equal else unit_rows(6, 0)
    wells = torch.from_numpy(start).requires_grad_()
    prompts = torch.from_numpy(unit_rows(6, 1)).requires_grad_()
    scale, bias = torch.tensor(100.0), torch.tensor(-10.0)
    labels, number = single(0, 0, 1, 1, 2, 3), torch.tensor([0, 0, 1, 1, 2, 3])
    total = (
        clip_loss(wells, prompts, scale)
        + siglip_loss(wells, prompts, scale, bias)
        + cwcl_loss(wells, prompts, wells[:, None], scale)
        + soft_label_loss(wells, prompts, label_overlap(labels, labels), scale, bias)
        + same_label_loss(wells, labels, 0.01)
        + replicate_loss(wells, number, torch.arange(6) % 2, labels, 0.01)
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
