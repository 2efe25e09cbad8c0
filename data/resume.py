"""Tables that are made in parts, so that an interruption costs one part and not the table."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from data.files import atomic_path


def write_in_parts(
    path: str | Path,
    made_from: dict[str, Any],
    count: int,
    make: Callable[[int, int], pd.DataFrame],
    size: int = 128,
) -> pd.DataFrame:
    """Write a table of `count` rows as Parquet, part by part; go on where a run was interrupted.

    Parts lie in PATH.parts until the table is whole; then the table takes its place and they are
    removed. Parts that were made from something else are not used.

    Parameters
    ----------
    path : path
        The Parquet file; replaced when the table is whole.
    made_from : dict
        JSON-able: whatever the rows depend on.
    count : int
    make : callable
        Makes rows `start` to `stop` of the table.
    size : int
        Rows a part.

    Returns
    -------
    DataFrame
        The table.
    """
    path = Path(path)
    folder, key = path.with_name(f"{path.name}.parts"), json.dumps({**made_from, "size": size})
    key_file = folder / "made_from.json"
    if not key_file.is_file() or key_file.read_text(encoding="utf-8") != key:
        shutil.rmtree(folder, ignore_errors=True)
        with atomic_path(key_file) as temporary:
            temporary.write_text(key, encoding="utf-8")
    parts = []
    for start in range(0, count, size):
        part = folder / f"{start:08d}.parquet"
        if not part.is_file():
            with atomic_path(part) as temporary:
                make(start, min(start + size, count)).to_parquet(temporary, index=False)
        parts.append(pd.read_parquet(part))
    table = pd.concat(parts, ignore_index=True)
    with atomic_path(path) as temporary:
        table.to_parquet(temporary, index=False)
    shutil.rmtree(folder)
    return table
