"""Texts of errors without what differs from one occurrence to the next, so that those with the same cause are one group.
Pure."""

import re

TEXT_CHARS_MAX = 4_000
"""Of what is longer, only the beginning counts."""

_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\x1b\[[0-9;?]*[A-Za-z]"), ""),
    (re.compile(r"\"[^\"\n]{1,400}\"|'[^'\n]{1,400}'|`[^`\n]{1,400}`|“[^”\n]{1,400}”"), "<value>"),
    (re.compile(r"\b[a-z][a-z0-9+.-]{1,20}://\S+", re.IGNORECASE), "<url>"),
    (re.compile(r"(?:(?<=[\s(=:,\[])|^)(?:[A-Za-z]:\\|\.{0,2}/|~/)[^\s,;)\]]+"), "<path>"),
    (re.compile(r"(?<![\w/@-])(?:[\w@.-]+/)+[\w@.-]+"), "<path>"),
    (re.compile(r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b", re.IGNORECASE), "<id>"),
    (re.compile(r"\b[0-9a-hjkmnp-tv-z]{26}\b"), "<id>"),
    (re.compile(r"\b0x[0-9a-f]+\b|\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{7,}\b", re.IGNORECASE), "<hex>"),
    (re.compile(r"\b(?:vm|pool|machine)-[\w-]*\d[\w-]*\b"), "<vm>"),
    (re.compile(r"\d+(?:[.:]\d+)*"), "<n>"),
    (re.compile(r"\s+"), " "),
)
"""In this order: a number in a path is part of the path."""


def normalised(text: str) -> str:
    """The text with quoted values, addresses, paths, ids, hex and numbers (versions, ports, seconds) by their kind alone."""
    text = text[:TEXT_CHARS_MAX]
    for pattern, kind in _RULES:
        text = pattern.sub(kind, text)
    return text.strip()
