"""Readouts of wells made into effects, with the readouts of their plate's controls or replicates.

The tower reads shifts (`captions.shifts`): how far a well lies from its controls, in a unit that
all plates share. An effect, and whether it counts, is a matter of one plate: how far its own
controls spread, and how many they are. The same rules that make facts of measured effects
(`captions.facts`) hold for what is read. Where there are no controls a measured effect is in
standard deviations among replicates, and these say how far unchanged wells spread.
"""

import math

import torch
from scipy import stats

MIN_CONTROLS = 8
"""Fewer controls on a plate do not say how far unchanged wells spread."""
UNCHANGED = 0.95
"""Share of a plate's controls that say nothing by construction."""
MAX_Q_VALUE = 0.05
CLIP = 3.0
"""Controls farther out than this many robust standard deviations count as this far."""
_MAD_TO_SD = 1.4826  # of a normal distribution


def hold_against_controls(
    readouts: torch.Tensor,
    plate_of: torch.Tensor,
    control_readouts: torch.Tensor,
    control_plate_of: torch.Tensor,
) -> torch.Tensor:
    """Make effects of shifts, and silence what would be no fact if it had been measured.

    1. Effect: (shift - m) / sqrt(s), m the median and s the clipped standard deviation of the
       shifts of the plate's controls. By the unit of shifts s is 1; a plate's few controls know it
       only roughly; the root lies half way between the two.
    2. q < 0.05: two-sided, Student's t of effect / sqrt(1 + 1/n) with n - 1 degrees of freedom for
       n controls; Benjamini-Hochberg over the well's slots.
    3. A well whose largest |effect| is not above the 95 % quantile of its plate's controls' largest
       says nothing.

    Parameters
    ----------
    readouts : (N, K) float
        asinh(shift / 2), as the tower reads it.
    plate_of : (N,) int
        The plate that each well is compared with.
    control_readouts : (R, K) float
        Of negative controls.
    control_plate_of : (R,) int

    Returns
    -------
    (N, K) float
        asinh(effect / 2), 0 where silent; as it was for wells of plates with fewer than 8 controls.
    """
    held = readouts.clone()
    for plate in plate_of.unique():
        controls = 2 * torch.sinh(control_readouts[control_plate_of == plate])  # (n, K)
        if len(controls) < MIN_CONTROLS:
            continue
        own = plate_of == plate
        said = readouts[own] != 0  # what was not imaged or never measured is silent
        centre = controls.quantile(0.5, dim=0)  # (K,)
        root = _clipped_sd(controls - centre, len(controls) - 1).sqrt()
        root = root.where(root > 0, 1.0)
        effects = (2 * torch.sinh(readouts[own]) - centre) / root * said
        largest = ((controls - centre) / root).abs().amax(dim=1)
        limit = largest.quantile(UNCHANGED, interpolation="lower")
        loud = effects.abs().amax(dim=1, keepdim=True) > limit
        significant = _q_values(effects, said, len(controls)) < MAX_Q_VALUE
        held[own] = torch.asinh(effects / 2) * (loud & significant)
    return held


def _q_values(effects: torch.Tensor, said: torch.Tensor, controls: int) -> torch.Tensor:
    """Correct the effects of each well (N, K), of those that are `said`, for their number."""
    t = effects.abs().double().cpu().numpy() / math.sqrt(1 + 1 / controls)
    p_values = 2 * stats.t.sf(t, controls - 1)
    q_values = torch.ones_like(effects)
    for row, slots in enumerate(said):
        if slots.any():
            own = stats.false_discovery_control(p_values[row, slots.cpu().numpy()])
            q_values[row, slots] = torch.from_numpy(own).to(q_values)
    return q_values


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
