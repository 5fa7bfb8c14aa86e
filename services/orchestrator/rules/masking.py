"""Hides a project's secret values in what its programs print, and what opens an address. Pure."""

import json
import re
from collections.abc import Callable, Iterable
from urllib.parse import quote

Mask = Callable[[str], str]

HIDDEN_CHARS_MIN = 6
"""Shorter values (`true`, `3000`) are in every second line and no secrets."""
STAND_IN = "***"


_CREDENTIALS = re.compile(r"(?<=://)(?!git@)[^/\s\"'@]{1,512}@")
"""A user, and a password or a token, before an address's host. `git@` is everybody's."""


def masker(values: Iterable[str]) -> Mask:
    """A function that replaces these values, wherever they stand in a line, also as JSON and addresses write them. A
    value of several lines: each of them. What stands before an address's host goes too, whoever's it is."""
    plain = {part for value in values for part in value.splitlines() if len(part) >= HIDDEN_CHARS_MIN}
    parts = {spelling for part in plain for spelling in (part, json.dumps(part)[1:-1], quote(part, safe=""))}
    if not parts:
        return without_credentials
    # The longest first: one value may begin with another.
    pattern = re.compile("|".join(re.escape(part) for part in sorted(parts, key=len, reverse=True)))
    return lambda text: pattern.sub(STAND_IN, without_credentials(text))


def without_credentials(text: str) -> str:
    """A line without users, passwords and tokens in addresses."""
    return _CREDENTIALS.sub(f"{STAND_IN}@", text) if "@" in text else text
