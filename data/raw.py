"""A plate before preparation: what every source returns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.errors import InputError


@dataclass(frozen=True)
class Site:
    """One field of view.

    Attributes
    ----------
    well : str
    number : int
    files : tuple of Path, str or None
        Where its images lie, a local path or the address in an object store: one a channel (None
        where a stain was not imaged), or one for all.
    objects : tuple of (int, str)
        Size in bytes and version of each file, where the source already knows them (object stores);
        otherwise the file system is asked.
    position : (float, float) or None
        X and Y from the well's centre in micrometres, where the microscope noted it.
    nuclei : Path or None
        CellProfiler's table of the site's nuclei, where there is one.
    """

    well: str
    number: int
    files: tuple[Path | str | None, ...]
    objects: tuple[tuple[int, str], ...] = ()
    position: tuple[float, float] | None = None
    nuclei: Path | None = None


@dataclass(frozen=True)
class Plate:
    """One plate before preparation.

    Attributes
    ----------
    barcode : str
    channels : tuple of str
        The stain of each plane in the store.
    channels_present : tuple of bool
        Which of them were imaged; the others are zero planes.
    wells : DataFrame
        `METADATA_COLUMNS`, one row a well.
    sites : tuple of Site
        Sorted by well and number; every well has at least one.
    read : callable
        Site to (C, H, W) integer pixels; picklable, so that it can run in another process.
    illumination : callable or None
        Returns the published illumination functions as float32 (C, H, W); picklable and hashable.
        None: they are estimated from the plate.
    profiles : callable or None
        Returns published profiles: Metadata_Well and features, one row a well; None without any.
    version : str
        Changes when published illumination functions or profiles do.
    pixel_size : float or None
        Micrometres, where the microscope noted it.
    """

    barcode: str
    channels: tuple[str, ...]
    channels_present: tuple[bool, ...]
    wells: pd.DataFrame
    sites: tuple[Site, ...]
    read: Callable[[Site], NDArray]
    illumination: Callable[[], NDArray[np.float32]] | None = None
    profiles: Callable[[], pd.DataFrame] | None = None
    version: str = ""
    pixel_size: float | None = None

    def without_tables(self) -> "Plate":
        """Return what a worker needs: sending all wells with every site would be slow."""
        return replace(self, wells=self.wells.iloc[:0], sites=(), profiles=None)


def stack_planes(planes: Sequence[NDArray | None], site: Site) -> NDArray:
    """Stack a site's (H, W) planes to (C, H, W), None as a zero plane; all have to be of one size.

    Raises
    ------
    InputError
        Naming the file whose size differs.
    """
    # One file may hold all planes.
    files = site.files if len(site.files) == len(planes) else site.files[:1] * len(planes)
    imaged = [(p, file) for p, file in zip(planes, files, strict=True) if p is not None]
    first, name = imaged[0]
    for plane, file in imaged:
        if plane.shape != first.shape:
            raise InputError(
                f"{file}: size is {plane.shape[0]} x {plane.shape[1]} pixels, expected "
                f"{first.shape[0]} x {first.shape[1]} as in {Path(str(name)).name}"
            )
    blank = np.zeros_like(first)
    return np.stack([blank if plane is None else plane for plane in planes])
