"""What scripts do around their `main`: exit codes and one clear line."""

import errno
import runpy

import pytest
from conftest import ROOT

from data.errors import InputError

run_main = runpy.run_path(str(ROOT / "scripts" / "_cli.py"))["run_main"]


def fail_with(error: BaseException):
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("plate P1: no controls"), 2, "error: plate P1: no controls"),
        (
            OSError(errno.ENOSPC, "No space left on device", "out.parquet"),
            2,
            "error: no space left on the disk while writing out.parquet: finished work is kept; "
            "make room and run the same command again",
        ),
        (
            KeyboardInterrupt(),
            130,
            "interrupted: finished work is kept; run the same command again",
        ),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_a_code(capsys, error, code, line):
    with pytest.raises(SystemExit) as end:
        run_main(fail_with(error))
    assert end.value.code == code
    assert capsys.readouterr().err == line + "\n"


@pytest.mark.parametrize("error", [ValueError("ours"), PermissionError("theirs"), KeyError("x")])
def test_a_bug_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        run_main(fail_with(error))


def test_success_says_nothing(capsys):
    run_main(lambda: None)
    assert capsys.readouterr() == ("", "")
