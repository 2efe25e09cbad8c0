"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data, or a skip that says why."""
    folder = Path(os.environ.get("MORPHOCLIP_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"real data not found: {folder}/data (set MORPHOCLIP_SHARED)")
    return folder / "data"
