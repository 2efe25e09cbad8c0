"""Readouts of wells made into effects, with the readouts of their plate's controls or replicates.

The tower reads shifts: how far a well lies from its controls, in a unit that all plates share. An
effect, and whether it counts, is a matter of one plate: how far its own controls spread, and how
many they are. The rules that make facts of measured shifts (`captions.facts`) hold for what is
read. Where there are no controls a measured effect is in standard deviations among replicates, and
these say how far unchanged wells spread.
"""

import numpy as np
import torch

from data.spread import (
    CONTROLS_UNCHANGED,
    MAX_Q_VALUE,
    MIN_CONTROLS,
    benjamini_hochberg,
    clipped_variance,
    moderate,
    pool_variances,
    prediction_p_values,
    replicate_spread,
)

MIN_EFFECT = 3.1
"""An effect is said from here on, a fact is one from 3 on: of what is read as just 3, half is less.
"""


def hold_against_controls(
    readouts: torch.Tensor,
    plate_of: torch.Tensor,
    control_readouts: torch.Tensor,
    control_plate_of: torch.Tensor,
) -> torch.Tensor:
    """Make effects of shifts, and silence what would be no fact if it had been measured.

    1. Effect: (shift - m) / s, m the median of the shifts of the plate's controls and s their
       moderated standard deviation (`data.spread`), in units of that of all plates' controls.
    2. q < 0.05, of Student's t and Benjamini-Hochberg as of facts.
    3. A well whose largest |effect| is not above the 95 % quantile of the controls' largest says
       nothing, and no well an effect below `MIN_EFFECT`.

    Parameters
    ----------
    readouts : (N, K) float
        asinh(shift / 2), as the tower reads it; 0 of what was not imaged.
    plate_of : (N,) int
        The plate that each well is compared with.
    control_readouts : (R, K) float
        Of negative controls, those of all plates of a data set.
    control_plate_of : (R,) int

    Returns
    -------
    (N, K) float
        asinh(effect / 2), 0 where silent; as it was for wells of plates with fewer than 8 controls.
    """
    control_plate = control_plate_of.numpy()
    plates, sizes = np.unique(control_plate, return_counts=True)
    plates, sizes = plates[sizes >= MIN_CONTROLS], sizes[sizes >= MIN_CONTROLS]
    shifts, controls = _shifts(readouts), _shifts(control_readouts)
    if not len(plates):
        return readouts
    centres = np.stack([np.median(controls[control_plate == plate], axis=0) for plate in plates])
    deviations = [
        controls[control_plate == plate] - centre
        for plate, centre in zip(plates, centres, strict=True)
    ]
    variances = np.stack([clipped_variance(own, 1) for own in deviations])  # (P, K)
    freedom = np.broadcast_to(sizes[:, None] - 1.0, variances.shape)
    pooled, prior_freedom = pool_variances(variances, freedom)
    roots = np.sqrt(moderate(variances, freedom, pooled, prior_freedom) / pooled)  # (P, K)
    roots = np.where(np.isfinite(roots), roots, 1.0)  # of slots that nobody reads
    largest = [abs(own / root).max(axis=1) for own, root in zip(deviations, roots, strict=True)]
    limit = np.quantile(np.concatenate(largest), CONTROLS_UNCHANGED, method="lower")

    held = readouts.clone()
    for plate, size, centre, root in zip(plates, sizes, centres, roots, strict=True):
        own = (plate_of == int(plate)).numpy()
        said = shifts[own] != 0
        effects = (shifts[own] - centre) / root * said
        p_values = prediction_p_values(effects, size - 1.0, prior_freedom)
        q_values = benjamini_hochberg(np.where(said, p_values, np.nan))
        counts = (np.abs(effects) >= MIN_EFFECT) & (q_values < MAX_Q_VALUE)
        counts &= np.abs(effects).max(axis=1, keepdims=True) > limit
        held[torch.from_numpy(own)] = torch.from_numpy(np.arcsinh(effects / 2) * counts).to(held)
    return held


def hold_against_replicates(
    readouts: torch.Tensor, reference_readouts: torch.Tensor, treatment_of: torch.Tensor
) -> torch.Tensor:
    """Quieten what differs among wells of one treatment too, where there are no controls.

    Effects are divided by their standard deviation among replicates (`data.spread`) where that is
    above 1.

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
    effects = _shifts(reference_readouts)
    known = np.where(effects != 0, effects, np.nan)
    spread, _ = replicate_spread(known, treatment_of.numpy())
    quieter = torch.from_numpy(np.maximum(spread, 1.0)).to(readouts)
    return torch.asinh(torch.sinh(readouts) / quieter)


def _shifts(readouts: torch.Tensor) -> np.ndarray:
    """Undo the tower's asinh(shift / 2)."""
    return 2 * np.sinh(readouts.double().cpu().numpy())
