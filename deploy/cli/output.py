"""How commands speak: to a person, or as JSON, one object a line."""

import sys
from typing import Any, NoReturn

import msgspec
from rich.console import Console

from shared.errors import DrapeError, problem_dict


class Output:
    """Where a command's result goes. Errors go to standard error for people, to standard output as JSON for programs."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.console = Console(highlight=False, soft_wrap=True)
        self.errors = Console(stderr=True, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """A line for a person; nothing in JSON."""
        if not self.as_json:
            self.console.print(text, markup=False)

    def emit(self, value: Any) -> None:
        """An object for a program; nothing for a person."""
        if self.as_json:
            sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
            sys.stdout.flush()

    def result(self, value: Any, text: str) -> None:
        """The same result for either."""
        self.emit(value)
        self.say(text)

    def fail(self, error: DrapeError) -> NoReturn:
        """Say why it did not work, and end with 1."""
        if self.as_json:
            self.emit({**problem_dict(error.problem()), "type": "error"})
        else:
            self.errors.print(f"drape: {error.message}", markup=False, style="red")
            if error.hint:
                self.errors.print(f"       {error.hint}", markup=False)
        sys.exit(1)
