"""Files behind a URL: an object store (anonymous S3) or a local copy of one."""

import gzip
import io
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd

from data.errors import InputError
from data.plates import read_table

TRIES = 6
"""How often a request is sent before its file counts as unreadable; the waits grow to seconds."""

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
                "retries": {"mode": "standard", "max_attempts": TRIES},
            },
        }
    try:
        return fsspec.core.url_to_fs(root, **options)[0]
    except (ImportError, ValueError) as error:
        raise InputError(
            f"{root} cannot be opened ({error}); for s3:// install the extra 'gallery'"
        ) from None


def fetch(root: str, files: Sequence[str]) -> list[bytes]:
    """Read whole files, several at a time.

    Raises
    ------
    InputError
        Naming the first file that could not be read, and why.
    """
    filesystem = open_filesystem(root)
    found = filesystem.cat(list(files), on_error="return")
    contents = [found[filesystem._strip_protocol(file)] for file in files]
    for file, content in zip(files, contents, strict=True):
        if isinstance(content, Exception):
            raise InputError(f"{file}: {_explain(content)}") from None
    return contents


def list_files(root: str, folder: str) -> dict[str, tuple[int, str]]:
    """Return name to size and version of the files in a folder; nothing where it is missing.

    Raises
    ------
    InputError
        When the folder cannot be listed.
    """
    try:
        entries = open_filesystem(root).ls(folder, detail=True)
    except FileNotFoundError:
        return {}
    except Exception as error:  # whatever the network has to offer
        raise InputError(f"{folder}: {_explain(error)}") from None
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


def _explain(error: Exception) -> str:
    """Say in one line why a request failed."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file (404)"
    text = " ".join(str(error).split()) or type(error).__name__
    return f"could not be read after {TRIES} tries ({text})"
