"""Writing files so that an interruption never leaves half of one behind."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary sibling of `target` that takes its name when the block succeeds.

    Works for files and folders. On an error the temporary is removed and `target` is untouched.
    An existing folder is replaced as a whole.

    Parameters
    ----------
    target : path
        The final path; its parent is created where missing.

    Yields
    ------
    Path
        Write here; the suffix is that of `target`, so that writers that look at it are content.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.tmp{target.suffix}")
    try:
        yield temporary
        if target.is_dir():
            shutil.rmtree(target)
        temporary.replace(target)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)
