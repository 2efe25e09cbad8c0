"""What every script does around its `main`: one clear line and exit code 2 for bad input."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data.errors import InputError, is_full_disk

EXIT_INCOMPLETE = 3
"""The work is done, but for parts that could not be read and that are listed."""


def run_main(main: Callable[[], None]) -> None:
    """Run `main`; turn bad input, a full disk and Ctrl-C into one line on stderr and an exit code.

    Exit codes: 2 for bad input or a full disk, 130 for an interruption. A script exits with
    `EXIT_INCOMPLETE` itself.
    """
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        if not is_full_disk(error):
            raise
        file = getattr(error, "filename", None)
        where = f" while writing {file}" if file else ""
        print(
            f"error: no space left on the disk{where}: finished work is kept; make room and run "
            "the same command again",
            file=sys.stderr,
        )
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted: finished work is kept; run the same command again", file=sys.stderr)
        sys.exit(130)


def parse_config(*classes: type, arguments: Sequence[str] | None = None) -> tuple[Any, ...]:
    """Read dataclasses from the command line and, with `--config FILE`, a YAML (TRL's parser).

    Parameters
    ----------
    *classes : dataclass types
        Their fields are the options; values on the command line win over the YAML's.
    arguments : sequence of str, optional
        In place of the command line.

    Returns
    -------
    tuple
        One instance of each class.

    Raises
    ------
    InputError
        When an option or a value is wrong, or the YAML is missing.
    """
    from trl import TrlParser  # seconds, and worker processes that import a script never need it

    try:
        return TrlParser(list(classes)).parse_args_and_config(arguments)
    except FileNotFoundError as error:
        raise InputError(f"--config: {error.filename} does not exist") from None
    except InputError:
        raise
    except ValueError as error:
        raise InputError(" ".join(str(error).split())) from None


def output_paths(out: str, names: Sequence[str]) -> dict[str, Path]:
    """Where several tables of one run go: the first to OUT, each other to OUT_name beside it."""
    path = Path(out)
    return {
        name: path if place == 0 else path.with_stem(f"{path.stem}_{name}")
        for place, name in enumerate(names)
    }
