"""Tables made in parts: whole, and going on after an interruption."""

import pandas as pd
import pytest

from data.resume import write_in_parts


class Maker:
    """Makes rows, notes which, and breaks at one of them."""

    def __init__(self, breaks_at: int | None = None):
        self.made: list[int] = []
        self.breaks_at = breaks_at

    def __call__(self, start: int, stop: int) -> pd.DataFrame:
        """Return a table of row numbers."""
        if self.breaks_at in range(start, stop):
            raise KeyboardInterrupt
        self.made += range(start, stop)
        return pd.DataFrame({"row": range(start, stop)})


def test_the_table_is_whole_and_its_parts_are_gone(tmp_path):
    make = Maker()
    table = write_in_parts(tmp_path / "t.parquet", {"a": 1}, 10, make, size=4)
    assert table["row"].tolist() == make.made == list(range(10))
    assert pd.read_parquet(tmp_path / "t.parquet").equals(table)
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]


def test_an_interrupted_table_goes_on_where_it_stopped(tmp_path):
    path = tmp_path / "t.parquet"
    with pytest.raises(KeyboardInterrupt):
        write_in_parts(path, {"a": 1}, 10, Maker(breaks_at=9), size=4)
    assert not path.exists()
    make = Maker()
    assert write_in_parts(path, {"a": 1}, 10, make, size=4)["row"].tolist() == list(range(10))
    assert make.made == [8, 9]


def test_parts_of_something_else_are_not_used(tmp_path):
    path = tmp_path / "t.parquet"
    with pytest.raises(KeyboardInterrupt):
        write_in_parts(path, {"question": "a"}, 10, Maker(breaks_at=9), size=4)
    make = Maker()
    write_in_parts(path, {"question": "b"}, 10, make, size=4)
    assert make.made == list(range(10))
