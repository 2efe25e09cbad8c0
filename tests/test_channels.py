"""Stain vocabulary."""

import pytest

from data.channels import CHANNELS, STAINS, stain_index
from data.errors import InputError


def test_cell_painting_comes_first_in_canonical_order():
    assert CHANNELS == ("DNA", "ER", "RNA", "AGP", "Mito")
    assert [stain_index(name) for name in CHANNELS] == [0, 1, 2, 3, 4]
    assert sorted(map(stain_index, STAINS)) == list(range(len(STAINS)))


def test_unknown_stain_is_named():
    with pytest.raises(InputError, match=r"'Hoechst'.*DNA"):
        stain_index("Hoechst")
