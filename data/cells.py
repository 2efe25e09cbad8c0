"""Single cells of a prepared store, measured when they are asked for."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

from data.measure import measure_site
from data.site import BRIGHT
from data.store import load_manifest, load_sites, read_pixels, site_table

MAX_SITES = 24
"""Sites that are measured at most: some seconds."""


def measure_stored_cells(
    folder: str | Path, wells: Collection[tuple[str, str]], max_sites: int = MAX_SITES
) -> pd.DataFrame:
    """Segment and measure the cells of some wells, at the store's resolution.

    Parameters
    ----------
    folder : path
        A prepared store.
    wells : collection of (str, str)
        Plate and well of each.
    max_sites : int
        Spread evenly over the wells' sites where there are more.

    Returns
    -------
    DataFrame
        As `data.measure.measure_site`, a row a cell; NaN where a stain was not imaged.
    """
    channels = load_manifest(folder).channels
    sites = load_sites(folder, sorted({plate for plate, _ in wells}))
    keys = pd.MultiIndex.from_frame(site_table(sites)[["Metadata_Plate", "Metadata_Well"]])
    rows = np.flatnonzero(keys.isin(list(wells)))
    if len(rows) > max_sites:
        rows = rows[np.linspace(0, len(rows) - 1, max_sites).astype(int)]
    pixels = read_pixels(sites, rows.tolist())
    return pd.concat([measure_site(site / BRIGHT, channels) for site in pixels], ignore_index=True)
