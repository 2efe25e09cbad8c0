"""Writing files so that an interruption never leaves half of one behind."""

import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold a folder, made where it is missing, for this process alone; others wait their turn.

    The lock is the file `.lock` inside, which is gone afterwards, and so is the folder if it is
    empty then. It ends with the process, however that ends.
    """
    path = folder / ".lock"
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            file = path.open("w")
        except FileNotFoundError:  # another process has just removed the folder
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that works in {folder}", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                break
        except FileNotFoundError:
            pass
        file.close()  # its holder removed it meanwhile: it locks nothing any more
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        with suppress(OSError):  # it holds something
            folder.rmdir()
        file.close()
