"""What a program prints for a terminal, as plain text."""

import re

_CODES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])|[\x00-\x08\x0b-\x1f\x7f]")


def plain(text: str) -> str:
    """Without colours, cursor movements and control characters, which a browser would show as boxes."""
    return _CODES.sub("", text)
