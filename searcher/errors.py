"""Errors that a user can mend."""


class UsageError(ValueError):
    """Something the user asked for cannot be done as asked.

    The command line prints it as one line and a hint and exits with code 2, without a traceback.

    Args:
        message: what came and what was expected, in one line.
        hint: what to do about it, in one line.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message
