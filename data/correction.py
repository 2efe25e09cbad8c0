"""How the pixels of a plate become comparable: estimated from a sample of its sites."""

import hashlib
from collections.abc import Sequence
from functools import partial

import numpy as np

from data.errors import InputError
from data.illumination import estimate_illumination
from data.normalize import SAME_PLATE_CONTROLS
from data.parallel import OrderedMap, progress
from data.raw import Plate, Site
from data.site import (
    Correction,
    attempt,
    count_intensities,
    draw_light,
    percentiles_of_counts,
    sample_site,
)

ILLUMINATION_SITES = 64
"""At most this many sites, evenly spread, estimate a plate's light, beside the reference sites."""

FEWEST_ILLUMINATION_SITES = 16
"""With fewer sites the estimate is worse than no correction (measured on simulated plates)."""

REFERENCE_SITES = 64
"""At most this many control sites a plate, evenly spread, give background and bright end."""

REFERENCE_PIXELS = 8_000_000
"""About so many pixels a channel are enough for the 99.9 percentile: of large images every second
or third pixel is taken."""


def sample_sites(plates: Sequence[Plate], reference: str) -> list[tuple[Plate, Site, bool]]:
    """Choose the sites that a correction is estimated from; True for those of reference wells."""
    chosen = []
    for plate in plates:
        controls = plate.wells["Metadata_control_type"] == "negcon"
        names = set(plate.wells["Metadata_Well"][controls])
        if reference != SAME_PLATE_CONTROLS:
            names = set(plate.wells["Metadata_Well"])
        found = _spread([site for site in plate.sites if site.well in names], REFERENCE_SITES)
        light: list[Site] = []
        if (
            reference == SAME_PLATE_CONTROLS
            and plate.illumination is None
            and len(plate.sites) >= FEWEST_ILLUMINATION_SITES
        ):
            light = _spread(list(plate.sites), ILLUMINATION_SITES)
        slim = plate.without_tables()
        references, either = set(found), {*found, *light}
        chosen += [(slim, site, site in references) for site in plate.sites if site in either]
    return chosen


def find_correction(plates: Sequence[Plate], reference: str, mapped: OrderedMap) -> Correction:
    """Estimate illumination, then background and bright end of the reference's corrected pixels.

    Parameters
    ----------
    plates : sequence of Plate
        One, or all of a data set that is its own reference.
    reference : str
        See `data.normalize`.
    mapped : callable
        From `ordered_map`.

    Raises
    ------
    InputError
        When no reference site can be read.
    """
    first = plates[0]
    name = first.barcode if len(plates) == 1 else "all plates"
    sites = sample_sites(plates, reference)
    shape = _find_shape(sites)
    used = sum(is_reference for *_, is_reference in sites)
    step = max(1, int((used * shape[0] * shape[1] / REFERENCE_PIXELS) ** 0.5))
    tasks = [(plate, site, shape, step) for plate, site, _ in sites]
    found = mapped(partial(attempt, sample_site), tasks)
    grids, pixels = [], []
    for (plate, _, is_reference), sample in zip(
        sites, progress(found, len(sites), f"{name} sample"), strict=True
    ):
        if isinstance(sample, InputError):  # reported when the site's turn comes
            continue
        grids.append(sample[0])
        if is_reference:
            pixels.append((plate, sample[1]))
    if not pixels:
        raise InputError(f"{name}: no site of a reference well can be read")
    estimate = (
        reference == SAME_PLATE_CONTROLS
        and first.illumination is None
        and len(first.sites) >= FEWEST_ILLUMINATION_SITES
    )
    illumination = estimate_illumination(grids) if estimate else None
    counts = np.zeros((len(first.channels), 65536), np.int64)
    light, light_of = None, None
    for plate, sample in pixels:
        if plate.barcode != light_of:
            light, light_of = draw_light(plate.illumination, illumination, shape), plate.barcode
            light = light if light is None else light[:, ::step, ::step]
        for total, count in zip(counts, count_intensities(sample, light), strict=True):
            total[: len(count)] += count
    background, bright = percentiles_of_counts(counts).T
    return Correction(shape, illumination, background, bright)


def hash_correction(correction: Correction) -> str:
    """Return a hash of all that a correction says."""
    digest = hashlib.sha256(repr(correction.shape).encode())
    for array in (correction.illumination, correction.background, correction.bright):
        digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _find_shape(sites: Sequence[tuple[Plate, Site, bool]]) -> tuple[int, ...]:
    """Return (H, W) of the first site that can be read."""
    complaint = ""
    for plate, site, _ in sites[:FEWEST_ILLUMINATION_SITES]:
        try:
            return plate.read(site).shape[1:]
        except InputError as error:
            complaint = complaint or str(error)
    raise InputError(complaint or "there is no site of a reference well")


def _spread(sites: list[Site], most: int) -> list[Site]:
    return sites[:: -(-len(sites) // most)] if sites else []
