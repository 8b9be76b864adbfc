"""The one exception class for input that cannot be used."""


class UserError(ValueError):
    """The message names the value seen and the remedy; command lines print it and exit with status 2."""
