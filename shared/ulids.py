"""Fresh ids. Apart from `shared.ids`, because this one reads the clock and randomness."""

from collections.abc import Callable
from contextvars import ContextVar

from ulid import ULID

source: ContextVar[Callable[[], str] | None] = ContextVar("source", default=None)
"""Where a simulation takes its ids from, so that a seed gives the same ones each time."""


def new_id() -> str:
    """A new lower-case ULID: 48 bits of time in ms, 80 random bits."""
    made = source.get()
    return made() if made is not None else str(ULID()).lower()
