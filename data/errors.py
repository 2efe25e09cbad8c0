"""The one error that users see: what is wrong, where, and what to do."""


class InputError(ValueError):
    """Bad input from the user. Scripts print its single line and exit with code 2."""
