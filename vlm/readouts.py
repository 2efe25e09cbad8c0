"""Readouts of wells, held against those of their own plate's controls, or of their replicates.

The tower reads effects: by their definition (`captions.facts`), those of a plate's controls have a
standard deviation of 1, and a well may have facts when its largest effect is beyond nearly all of
its controls' largest. Measured effects are so on every plate; readouts, on a plate whose staining
or density is unlike the training plates', need not be. The controls say by how much. Where there
are none a measured effect is in standard deviations among replicates, and these say it.
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
        deviations = controls - controls.quantile(0.5, dim=0)
        spread = _clipped_sd(deviations, len(controls) - 1).clamp_min(1.0)  # (K,)
        own = plate_of == plate
        effects = 2 * torch.sinh(readouts[own]) / spread
        largest = (controls / spread).abs().amax(dim=1)
        limit = largest.quantile(UNCHANGED, interpolation="lower")
        loud = effects.abs().amax(dim=1, keepdim=True) > limit
        held[own] = torch.asinh(effects / 2) * loud
    return held


def hold_against_replicates(
    readouts: torch.Tensor, reference_readouts: torch.Tensor, treatment_of: torch.Tensor
) -> torch.Tensor:
    """Quieten what differs among wells of one treatment too, where there are no controls.

    Effects are divided by their standard deviation among replicates, clipped and pooled over
    treatments as in `captions.facts`, where that is above 1.

    Parameters
    ----------
    readouts : (N, K) float
        asinh(effect / 2), as the tower reads it.
    reference_readouts : (R, K) float
        Of all wells of the data set; 0 where a stain was not imaged.
    treatment_of : (R,) int
        Which of them are replicates.

    Returns
    -------
    (N, K) float
        As it was for slots with fewer than 8 spare replicates.
    """
    effects = 2 * torch.sinh(reference_readouts)
    spread = effects.new_ones(effects.shape[1])
    for slot, column in enumerate(effects.T):
        groups = [column[(treatment_of == one) & (column != 0)] for one in treatment_of.unique()]
        groups = [group for group in groups if len(group) > 1]
        spare = sum(len(group) - 1 for group in groups)
        if spare >= MIN_CONTROLS:
            deviations = torch.cat([group - group.mean() for group in groups])
            spread[slot] = _clipped_sd(deviations[:, None], spare)
    return torch.asinh(torch.sinh(readouts) / spread.clamp_min(1.0))


def _clipped_sd(deviations: torch.Tensor, freedom: int) -> torch.Tensor:
    """Standard deviation of each column, far deviations clipped: (r, K) to (K,)."""
    limit = CLIP * _MAD_TO_SD * deviations.abs().quantile(0.5, dim=0)
    return deviations.clamp(-limit, limit).square().sum(dim=0).div(freedom).sqrt()
