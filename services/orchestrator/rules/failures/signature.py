"""What tells failures apart whose cause the catalogue does not know: the lines in which a program says that something is
wrong. Pure."""

import re
from collections.abc import Sequence

LINES_MAX, LINE_CHARS_MAX = 3, 300

_WRONG = re.compile(
    r"error|exception|fatal|panic|failed|failure|cannot|can't|could not|unable|undefined|invalid|missing|not found|denied",
    re.IGNORECASE,
)
_FRAME = re.compile(r"^\s*(?:at\s|File \"|\.{3}|\^|\||\d+ \|)|node:internal|^\s*Node\.js v")
"""Of a stack, or of a piece of code that is shown: it changes with every edit."""


def signature(lines: Sequence[str]) -> str:
    """The last lines that name something wrong, oldest first; else the last that say anything. `lines`: without escapes."""
    told = [line.strip()[:LINE_CHARS_MAX] for line in lines if line.strip() and not _FRAME.search(line)]
    wrong = [line for line in told if _WRONG.search(line)]
    return "\n".join((wrong or told)[-LINES_MAX:])
