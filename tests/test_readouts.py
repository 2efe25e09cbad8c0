"""Readouts held against those of the plate's own controls."""

import numpy as np
import pandas as pd
import pytest
import torch

from captions import facts as facts_module
from captions.effects import compare_with_controls
from captions.facts import measure_facts
from captions.slots import FACT_SLOTS
from data.spread import MIN_CONTROLS, replicate_spread
from vlm import readouts as module
from vlm.readouts import hold_against_controls, hold_against_replicates


def drawn(spread: float, count: int, slots: int = 6, seed: int = 0) -> torch.Tensor:
    """Readouts whose effects have a standard deviation."""
    effects = spread * np.random.default_rng(seed).normal(size=(count, slots))
    return torch.asinh(torch.from_numpy(effects).float() / 2)


def effects_of(readouts: torch.Tensor) -> torch.Tensor:
    return 2 * torch.sinh(readouts)


def test_where_plates_differ_effects_are_in_the_plates_own_spread():
    spreads = np.tile([0.5, 2.0], 15)
    controls = torch.cat([drawn(spread, 100, seed=i) for i, spread in enumerate(spreads)])
    wells = torch.full((30, 6), 5.0)  # shifts of 148
    held = hold_against_controls(
        wells, torch.arange(30), controls, torch.arange(30).repeat_interleave(100)
    )
    ratio = effects_of(held).mean(dim=1) / 148
    pooled = np.sqrt(np.mean(spreads**2))
    torch.testing.assert_close(
        ratio, torch.from_numpy(pooled / spreads).float(), rtol=0.2, atol=0.0
    )


def test_where_plates_are_alike_effects_are_shifts():
    controls, plate = drawn(1.3, 400, seed=2), torch.arange(400) % 2
    wells = torch.full((2, 6), 3.0)
    held = hold_against_controls(wells, torch.arange(2), controls, plate)
    torch.testing.assert_close(effects_of(held), effects_of(wells), rtol=0.2, atol=0.0)


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


@pytest.mark.parametrize("seed", range(3))
def test_a_twentieth_of_the_controls_speaks_at_most(seed):
    controls = drawn(1.3, 60, seed=seed)
    plate = torch.zeros(60, dtype=torch.long)
    held = hold_against_controls(controls, plate, controls, plate)
    assert (held != 0).any(dim=1).sum() <= 3


def test_an_effect_is_said_later_than_it_is_a_fact():
    assert module.MIN_EFFECT > facts_module.MIN_EFFECT


def test_of_exact_shifts_what_is_said_are_the_facts():
    rng = np.random.default_rng(5)
    names = {
        slot: f"{slot.compartment.capitalize()}_Texture_InfoMeas1_3_00_256_{slot.channel}"
        for slot in FACT_SLOTS
        if slot.property == "texture"
    }
    plate = np.repeat(np.arange(6), 60)
    control = np.tile(np.arange(60) < 30, 6)
    spread = np.exp(0.5 * rng.normal(size=6))[plate, None]
    values = spread * rng.normal(size=(len(plate), len(names)))
    values[~control] += 4 * rng.normal(size=(180, len(names))) * (rng.random((180, 1)) < 0.4)
    profiles = pd.DataFrame(values, columns=list(names.values()))
    profiles.insert(0, "Metadata_Plate", plate)
    profiles.insert(1, "Metadata_Well", [f"W{i}" for i in range(len(plate))])
    profiles.insert(2, "Metadata_control_type", np.where(control, "negcon", ""))
    shifts = np.nan_to_num(compare_with_controls(profiles).shifts)
    facts = measure_facts(profiles)
    measured = {
        (row["Metadata_Well"], row["channel"], row["compartment"])
        for _, row in facts.iterrows()
        if abs(row["effect"]) > module.MIN_EFFECT
    }
    read, plates = torch.from_numpy(np.arcsinh(shifts / 2)), torch.from_numpy(plate)
    rows = torch.from_numpy(control)
    held = hold_against_controls(read[~rows], plates[~rows], read[rows], plates[rows])
    wells = profiles["Metadata_Well"].to_numpy()[~control]
    said = {
        (wells[i], FACT_SLOTS[k].channel, FACT_SLOTS[k].compartment)
        for i, k in zip(*np.nonzero(held.numpy()), strict=True)
    }
    measured = {key for key in measured if key[0] in set(wells)}
    assert len(measured) > 100
    assert len(said & measured) > 0.97 * max(len(said), len(measured))


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
    expected, _ = replicate_spread(effects, treatment)
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
