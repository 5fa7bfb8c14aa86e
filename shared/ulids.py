"""Fresh ids. Apart from `shared.ids`, because this one reads the clock and randomness."""

from ulid import ULID


def new_id() -> str:
    """A new lower-case ULID: 48 bits of time in ms, 80 random bits."""
    return str(ULID()).lower()
