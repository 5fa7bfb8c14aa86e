"""Hides a project's secret values in what its programs print. Pure."""

import re
from collections.abc import Callable, Iterable

Mask = Callable[[str], str]

HIDDEN_CHARS_MIN = 6
"""Shorter values (`true`, `3000`) are in every second line and no secrets."""
STAND_IN = "***"


def masker(values: Iterable[str]) -> Mask:
    """A function that replaces these values, wherever they stand in a line. A value of several lines: each of them."""
    parts = {part for value in values for part in value.splitlines() if len(part) >= HIDDEN_CHARS_MIN}
    if not parts:
        return _unchanged
    # The longest first: one value may begin with another.
    pattern = re.compile("|".join(re.escape(part) for part in sorted(parts, key=len, reverse=True)))
    return lambda text: pattern.sub(STAND_IN, text)


def _unchanged(text: str) -> str:
    return text
