"""Readouts of wells, held against the readouts of their own plate's controls.

The tower reads effects: by their definition (`captions.facts`), those of a plate's controls have a
standard deviation of 1, and a well may have facts when its largest effect is beyond nearly all of
its controls' largest. Measured effects are so on every plate; readouts, on a plate whose staining
or density is unlike the training plates', need not be. The controls say by how much.
"""

import torch

MIN_CONTROLS = 8
"""Fewer controls on a plate do not say how far unchanged wells spread."""
UNCHANGED = 0.95
"""Share of a plate's controls that say nothing by construction."""
CLIP = 3.0
"""Controls farther out than this many robust standard deviations count as this far."""
_MAD_TO_SD = 1.4826  # of a normal distribution


def hold_against_controls(
    readouts: torch.Tensor,
    plate_of: torch.Tensor,
    control_readouts: torch.Tensor,
    control_plate_of: torch.Tensor,
) -> torch.Tensor:
    """Quieten what a plate's own controls say too, and silence wells that say no more than they.

    1. Effects are divided by the standard deviation, clipped as in `captions.facts`, of the plate's
       controls' effects, where that is above 1. Nothing is made louder: a readout that barely moves
       was learnt to be unsure.
    2. A well whose largest |effect| is not above the 95 % quantile of its plate's controls' largest
       says nothing.

    Parameters
    ----------
    readouts : (N, K) float
        asinh(effect / 2), as the tower reads it.
    plate_of : (N,) int
        The plate that each well is compared with.
    control_readouts : (R, K) float
        Of negative controls.
    control_plate_of : (R,) int

    Returns
    -------
    (N, K) float
        As it was for wells of plates with fewer than 8 controls.
    """
    held = readouts.clone()
    for plate in plate_of.unique():
        controls = 2 * torch.sinh(control_readouts[control_plate_of == plate])  # (r, K)
        if len(controls) < MIN_CONTROLS:
            continue
        spread = _clipped_sd(controls).clamp_min(1.0)  # (K,)
        own = plate_of == plate
        effects = 2 * torch.sinh(readouts[own]) / spread
        largest = (controls / spread).abs().amax(dim=1)
        limit = largest.quantile(UNCHANGED, interpolation="lower")
        loud = effects.abs().amax(dim=1, keepdim=True) > limit
        held[own] = torch.asinh(effects / 2) * loud
    return held


def _clipped_sd(values: torch.Tensor) -> torch.Tensor:
    """Standard deviation of each column, values far from the median clipped: (r, K) to (K,)."""
    deviations = values - values.quantile(0.5, dim=0)
    limit = CLIP * _MAD_TO_SD * deviations.abs().quantile(0.5, dim=0)
    return deviations.clamp(-limit, limit).square().sum(dim=0).div(len(values) - 1).sqrt()
