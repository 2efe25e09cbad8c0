"""What the input did to the numbers: named, counted, and shown in the report."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Notice:
    """Something about the input that changes what a number means.

    Attributes
    ----------
    name : str
        What it is, e.g. "zero_vector".
    count : int
        How many wells, features, reagents or plates it concerns (`where` says which).
    where : str
        Examples, and what was done.
    """

    name: str
    count: int
    where: str


def some(names: Sequence[str] | np.ndarray | pd.Index) -> str:
    """Write the first three names of many."""
    shown = ", ".join(str(n) for n in list(names)[:3])
    return shown + (", ..." if len(names) > 3 else "")
