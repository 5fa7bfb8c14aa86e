"""What can go wrong on one machine, in words that a person can act on. Holds no logic and no secrets."""


class LauncherError(Exception):
    """A failure with a stable `code` (snake_case), a `message` (what and why) and a `hint` (what to do)."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()
