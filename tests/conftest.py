"""Fixtures that every test may use."""

import os
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parent.parent

# Importing pycytominer switches this on for the whole process: no test may depend on who did.
pd.options.mode.copy_on_write = True


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data, or a skip that says why."""
    folder = Path(os.environ.get("MORPHOCLIP_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"real data not found: {folder}/data (set MORPHOCLIP_SHARED)")
    return folder / "data"
