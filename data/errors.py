"""The one error that users see: what is wrong, where, and what to do."""

import errno


class InputError(ValueError):
    """Bad input from the user. Scripts print its single line and exit with code 2."""


def is_full_disk(error: BaseException) -> bool:
    """Tell whether an error means that a file could not grow (no space, a quota, a size limit).

    The writers of tensors raise errors of their own, in which the system's is only quoted.
    """
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    quoted = ("os error 28", "os error 27", "os error 122", "PytorchStreamWriter failed writing")
    return any(words in str(error) for words in quoted)
