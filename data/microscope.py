"""What happens to simulated cells on the way to a TIFF: staining, light, focus and noise.

The same for controls and treated wells: this is what a model must learn to look past.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data.channels import CHANNELS

Field = NDArray[np.float32]

FULL_SCALE = 9000.0
"""Camera counts of a bright pixel (1.0) of an ordinary cell at ordinary staining."""

ELECTRONS = 0.5
"""Photo-electrons a camera count: sets the shot noise."""

READ_NOISE = 25.0
"""Camera counts."""


@dataclass(frozen=True)
class PlateConditions:
    """What all wells of a plate share; arrays have one entry a stain.

    Attributes
    ----------
    staining : float array (5,)
        Factor on each stain.
    background : float array (5,)
        Camera counts without any cell.
    light_centre : float array (5, 2)
        Brightest point of the illumination, in parts of the field.
    light_fall : float array (5,)
        Part of the light lost at a distance of one field from there.
    tilt : float array (5, 2)
        Log change of staining from the first to the last row, and column.
    """

    staining: NDArray[np.float64]
    background: NDArray[np.float64]
    light_centre: NDArray[np.float64]
    light_fall: NDArray[np.float64]
    tilt: NDArray[np.float64]


@dataclass(frozen=True)
class WellConditions:
    """What the sites of a well share.

    Attributes
    ----------
    staining : float array (5,)
        Factor on each stain, the plate's included.
    density : float
        Factor on the number of cells.
    blur : float
        Standard deviation of the point spread in pixels.
    """

    staining: NDArray[np.float64]
    density: float
    blur: float


def draw_plate_conditions(
    plate_variation: float, position_strength: float, rng: np.random.Generator
) -> PlateConditions:
    """Draw a plate's staining, background, illumination and gradients.

    Parameters
    ----------
    plate_variation : float
        Standard deviation of the log staining between plates.
    position_strength : float
        Standard deviation of the log staining gradient across the plate.
    rng : Generator
    """
    n = len(CHANNELS)
    return PlateConditions(
        staining=np.exp(plate_variation * rng.standard_normal(n)),
        background=rng.uniform(250, 600, n),
        light_centre=rng.uniform(0.35, 0.65, (n, 2)),
        light_fall=rng.uniform(0.25, 0.5, n),
        tilt=position_strength * rng.standard_normal((n, 2)),
    )


def draw_well_conditions(
    plate: PlateConditions,
    position: tuple[float, float],
    well_staining: float,
    density_variation: float,
    focus_variation: float,
    position_strength: float,
    rng: np.random.Generator,
) -> WellConditions:
    """Draw a well's staining, density and focus.

    Parameters
    ----------
    plate : PlateConditions
    position : (row, column)
        Each from 0 (first) to 1 (last); the outer wells dry out: fewer cells, brighter stains.
    well_staining, density_variation : float
        Standard deviations of the logarithms of staining and density between wells.
    focus_variation : float
        Pixels of extra blur, typically.
    position_strength : float
        Log change of density and staining in an outer well.
    rng : Generator
    """
    middle = np.asarray(position) - 0.5
    edge = float(np.abs(middle).max() > 0.49)
    staining = np.log(plate.staining) + plate.tilt @ middle
    staining += 0.7 * position_strength * edge + well_staining * rng.standard_normal(len(CHANNELS))
    density = density_variation * rng.standard_normal() - position_strength * edge
    blur = 0.7 + focus_variation * abs(rng.standard_normal())
    return WellConditions(np.exp(staining), float(np.exp(density)), float(blur))


def photograph(
    stains: Field,
    plate: PlateConditions,
    well: WellConditions,
    camera_noise: float,
    rng: np.random.Generator,
) -> NDArray[np.uint16]:
    """Take the picture of a field.

    Parameters
    ----------
    stains : float32 array (5, H, W)
        From `data.rendering.render_field`.
    plate : PlateConditions
    well : WellConditions
    camera_noise : float
        1 for an ordinary camera, 0 for none.
    rng : Generator

    Returns
    -------
    uint16 array (5, H, W)
        Camera counts.
    """
    size = stains.shape[1]
    line = (np.arange(size, dtype=np.float32) + 0.5) / size
    image = np.empty(stains.shape, np.float32)
    for i, stain in enumerate(stains):
        row, column = plate.light_centre[i]
        far = (line[:, None] - row) ** 2 + (line[None] - column) ** 2
        light = np.float32(1) - np.float32(plate.light_fall[i]) * far.astype(np.float32)
        sharp = ndimage.gaussian_filter(stain, well.blur, truncate=3.0)
        image[i] = sharp * light * np.float32(FULL_SCALE * well.staining[i])
        image[i] += np.float32(plate.background[i]) * light
    spread = np.sqrt(image / np.float32(ELECTRONS) + np.float32(READ_NOISE**2))
    image += np.float32(camera_noise) * spread * rng.standard_normal(image.shape, np.float32)
    return np.clip(np.round(image), 0, 65535).astype(np.uint16)
