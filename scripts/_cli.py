"""What every script does around its `main`: one clear line and exit code 2 for bad input."""

import errno
import sys
from collections.abc import Callable

from data.errors import InputError


def run_main(main: Callable[[], None]) -> None:
    """Run `main`; turn bad input, a full disk and Ctrl-C into one line on stderr and an exit code.

    Exit codes: 2 for bad input or a full disk, 130 for an interruption.
    """
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print(f"error: no space left on the disk while writing {error.filename}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted: finished work is kept; run the same command again", file=sys.stderr)
        sys.exit(130)
