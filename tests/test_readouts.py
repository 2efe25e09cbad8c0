"""Readouts held against those of the plate's own controls."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from captions.effects import CONTROLS_UNCHANGED
from captions.facts import MAX_Q_VALUE, _benjamini_hochberg, _replicate_spread
from captions.scores import clipped_sd as measured_sd
from vlm import readouts as module
from vlm.readouts import (
    MIN_CONTROLS,
    _clipped_sd,
    _q_values,
    hold_against_controls,
    hold_against_replicates,
)


def drawn(spread: float, count: int, slots: int = 6, seed: int = 0) -> torch.Tensor:
    """Readouts whose effects have a standard deviation."""
    effects = spread * np.random.default_rng(seed).normal(size=(count, slots))
    return torch.asinh(torch.from_numpy(effects).float() / 2)


def effects_of(readouts: torch.Tensor) -> torch.Tensor:
    return 2 * torch.sinh(readouts)


def test_effects_lie_half_way_between_the_shared_unit_and_the_plates_own_spread():
    wells = torch.full((2, 6), 3.0)  # shifts of 20
    calm, wild = drawn(0.5, 400), drawn(2.0, 400, seed=1)
    held = hold_against_controls(
        wells,
        torch.tensor([0, 1]),
        torch.cat([calm, wild]),
        torch.tensor([0] * 400 + [1] * 400),
    )
    ratio = effects_of(held) / effects_of(wells)
    expected = torch.tensor([[0.5], [2.0]]).rsqrt().expand(2, 6)
    torch.testing.assert_close(ratio, expected, rtol=0.1, atol=0)


def test_wells_are_compared_with_the_middle_of_their_controls():
    controls = torch.asinh((effects_of(drawn(1.0, 100)) + 4) / 2)
    plate = torch.zeros(100, dtype=torch.long)
    like_them = torch.full((1, 6), float(np.arcsinh(2.0)))  # a shift of 4
    assert not hold_against_controls(like_them, plate[:1], controls, plate).any()


def test_one_wild_control_does_not_quieten_a_plate():
    controls = drawn(1.0, 40)
    dead = controls.clone()
    dead[0] = 5.0
    wells, plate = torch.full((1, 6), 3.0), torch.zeros(1, dtype=torch.long)
    held = hold_against_controls(wells, plate, dead, torch.zeros(40, dtype=torch.long))
    assert (effects_of(held) > 0.7 * effects_of(wells)).all()


def test_the_spread_is_that_of_measured_effects():
    values = torch.from_numpy(np.random.default_rng(3).standard_t(2, size=(15, 4)))
    deviations = values - values.quantile(0.5, dim=0)
    expected = [measured_sd(column, len(values) - 1) for column in deviations.numpy().T]
    found = _clipped_sd(deviations, len(values) - 1)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_a_twentieth_of_the_controls_speaks_at_most(seed):
    controls = drawn(1.3, 60, seed=seed)
    plate = torch.zeros(60, dtype=torch.long)
    held = hold_against_controls(controls, plate, controls, plate)
    assert (held != 0).any(dim=1).sum() <= 3


def test_what_is_said_is_significant_as_facts_are():
    rng = np.random.default_rng(2)
    effects = 4 * rng.normal(size=(30, 8))
    effects[:, 5] = 0.0  # not imaged: no test
    controls = 14
    t = np.abs(effects) / np.sqrt(1 + 1 / controls)
    p_values = np.where(effects == 0, np.nan, 2 * stats.t.sf(t, controls - 1))
    expected = np.nan_to_num(_benjamini_hochberg(p_values), nan=1.0)
    said = torch.from_numpy(effects != 0)
    found = _q_values(torch.from_numpy(effects), said, controls)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


def test_the_rules_are_those_of_facts():
    assert (module.UNCHANGED, module.MAX_Q_VALUE) == (CONTROLS_UNCHANGED, MAX_Q_VALUE)


def test_a_small_change_is_not_said_on_a_plate_of_few_controls():
    small = torch.zeros(1, 20)
    small[0, 0] = float(np.arcsinh(3.6 / 2))
    small[0, 1:] = 0.01
    for count, said in ((10, False), (400, True)):
        controls = drawn(0.4, count, slots=20)
        plate = torch.zeros(count, dtype=torch.long)
        own = controls * 1.0
        own[:, 0] = drawn(1.0, count, slots=1)[:, 0]
        held = hold_against_controls(small, plate[:1], own, plate)
        assert bool(held[0, 0] != 0) == said


def test_a_plate_with_few_controls_is_left_as_it_was():
    wells, plate = drawn(4.0, 5), torch.zeros(5, dtype=torch.long)
    few = drawn(9.0, MIN_CONTROLS - 1)
    held = hold_against_controls(wells, plate, few, torch.zeros(len(few), dtype=torch.long))
    torch.testing.assert_close(held, wells)
    none = hold_against_controls(wells, plate + 1, few, torch.zeros(len(few), dtype=torch.long))
    torch.testing.assert_close(none, wells)


def test_wells_do_not_depend_on_other_wells_or_plates():
    wells, plates = drawn(3.0, 12), torch.arange(12) % 2
    controls, control_plates = drawn(1.5, 40, seed=5), torch.arange(40) % 2
    together = hold_against_controls(wells, plates, controls, control_plates)
    for row in range(12):
        alone = hold_against_controls(
            wells[row : row + 1], plates[row : row + 1], controls, control_plates
        )
        torch.testing.assert_close(alone[0], together[row])


def test_replicates_spread_as_measured_effects_do():
    rng = np.random.default_rng(4)
    treatment = np.repeat(np.arange(6), [7, 7, 7, 7, 1, 1])  # the last two have no replicate
    effects = 4 * rng.normal(size=(6, 5))[treatment] + 3 * rng.standard_t(3, size=(30, 5))
    effects[:, 4] /= 9  # quiet: is not made louder
    profiles = pd.DataFrame({"Metadata_broad_sample": treatment})
    expected, _ = _replicate_spread(effects, profiles)
    assert (expected[:4] > 1.5).all() and expected[4] < 1
    readouts = torch.asinh(torch.from_numpy(effects) / 2)
    held = hold_against_replicates(readouts[:3], readouts, torch.from_numpy(treatment))
    wanted = effects[:3] / np.maximum(expected, 1)
    np.testing.assert_allclose(effects_of(held).numpy(), wanted, rtol=1e-6)


def test_what_was_not_imaged_says_nothing_of_the_spread_and_few_replicates_neither():
    readouts = torch.cat([drawn(4.0, 20), torch.zeros(20, 6)])
    treatment = torch.arange(40) // 10
    with_blanks = hold_against_replicates(readouts, readouts, treatment)
    without = hold_against_replicates(readouts, readouts[:20], treatment[:20])
    torch.testing.assert_close(with_blanks, without)
    assert (without[:20].abs() < readouts[:20].abs()).all()
    few = readouts[: MIN_CONTROLS + 1]
    alone = torch.tensor([0] * MIN_CONTROLS + [1])  # 7 spare replicates
    torch.testing.assert_close(hold_against_replicates(few, few, alone), few)
