"""Files behind a URL: an object store (anonymous S3) or a local copy of one."""

import gzip
import io
import random
import time
import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd

from data.errors import InputError
from data.plates import read_table

FINAL = (FileNotFoundError, PermissionError)
"""Answers that another try would not change."""

TRIES = 6
"""How often a file is asked for before it counts as unreadable."""

WAIT = 0.5
"""Seconds before the second try, twice as long before each further one, with some chance in it."""

TIMEOUT = 60
"""Seconds without an answer, or without more of it, after which a request is sent again."""


@lru_cache(maxsize=4)
def open_filesystem(root: str) -> fsspec.AbstractFileSystem:
    """Return the file system of a root: s3://bucket (anonymous) or a local folder.

    The environment's AWS_ENDPOINT_URL is used in place of Amazon's, as by every AWS tool.

    Raises
    ------
    InputError
        When the scheme is unknown or needs a package that is not installed.
    """
    options: dict[str, Any] = {}
    if root.startswith("s3://"):
        options = {
            "anon": True,
            "config_kwargs": {
                "connect_timeout": TIMEOUT,
                "read_timeout": TIMEOUT,
                "retries": {"total_max_attempts": 1},
            },
        }
    try:
        filesystem = fsspec.core.url_to_fs(root, **options)[0]
    except (ImportError, ValueError) as error:
        raise InputError(
            f"{root} cannot be opened ({error}); for s3:// install the extra 'gallery'"
        ) from None
    # s3fs and botocore each repeat some errors and not others: `fetch` repeats them all, once.
    filesystem.retries = 1
    return filesystem


def fetch(root: str, files: Sequence[str]) -> list[bytes]:
    """Read whole files, several at a time.

    Raises
    ------
    InputError
        Naming the first file that could not be read, and why.
    """
    filesystem = open_filesystem(root)
    found: dict[str, Any] = {}
    for wait in _waits():
        missing = [file for file in files if not isinstance(found.get(file), bytes)]
        try:
            answers = filesystem.cat(missing, on_error="return")
            found |= {file: answers[filesystem._strip_protocol(file)] for file in missing}
        except Exception as error:  # before the first file: no connection
            found |= dict.fromkeys(missing, error)
        errors = {f: answer for f, answer in found.items() if isinstance(answer, Exception)}
        final = [file for file, error in errors.items() if isinstance(error, FINAL)]
        if not errors:
            return [found[file] for file in files]
        if final or wait is None:
            file = next(iter(final or errors))
            raise InputError(f"{file}: {_explain(errors[file])}")
        time.sleep(wait)
    raise AssertionError("the last wait is None")


def list_files(root: str, folder: str) -> dict[str, tuple[int, str]]:
    """Return name to size and version of the files in a folder; nothing where it is missing.

    Raises
    ------
    InputError
        When the folder cannot be listed.
    """
    entries: list[dict[str, Any]] = []
    for wait in _waits():
        try:
            entries = open_filesystem(root).ls(folder, detail=True, refresh=True)
            break
        except FileNotFoundError:
            return {}
        except Exception as error:  # whatever the network has to offer
            if wait is None or isinstance(error, FINAL):
                raise InputError(f"{folder}: {_explain(error)}") from None
            time.sleep(wait)
    return {
        entry["name"].rpartition("/")[2]: (
            int(entry["size"]),
            str(entry.get("ETag") or entry.get("mtime", "")),
        )
        for entry in entries
        if entry["type"] == "file"
    }


def first_existing(root: str, candidates: Sequence[str]) -> str | None:
    """Return the first file that exists (all are in one folder), or None."""
    there = list_files(root, candidates[0].rpartition("/")[0])
    return next((file for file in candidates if file.rpartition("/")[2] in there), None)


def copy_file(root: str, file: str, target: Path) -> Path:
    """Copy one small file, a table, to a local path."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(fetch(root, [file])[0])
    return target


def read_remote_table(root: str, file: str, columns: list[str]) -> pd.DataFrame:
    """Read a .csv, .csv.gz or .parquet as strings, "" where empty, and check its columns.

    Raises
    ------
    InputError
        When it cannot be read or lacks a column.
    """
    content = fetch(root, [file])[0]
    try:
        if file.endswith(".gz"):
            content = gzip.decompress(content)
        if not file.endswith(".parquet"):
            return read_table(file, columns, sep=",", content=io.BytesIO(content))
        table = pd.read_parquet(io.BytesIO(content))
    except InputError:
        raise
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise InputError(f"{file}: not a readable table ({error})") from None
    missing = [column for column in columns if column not in table]
    if missing:
        raise InputError(f"{file}: no column {missing[0]!r}; found {', '.join(table.columns)}")
    return table.astype(object).where(table.notna(), "").astype(str)


def _waits() -> Iterator[float | None]:
    """Yield how long to wait after each try; None after the last."""
    for number in range(TRIES - 1):
        yield WAIT * 2**number * random.uniform(0.5, 1.5)
    yield None


def _explain(error: Exception) -> str:
    """Say in one line why a request failed."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file (404)"
    if isinstance(error, PermissionError):
        return "reading it is not allowed (403)"
    text = " ".join(str(error).split()) or type(error).__name__
    return f"could not be read after {TRIES} tries ({text})"
