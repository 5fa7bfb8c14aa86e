"""Finds a cause in a log: bounded in lines, in their length, and in what may be said of them. Pure."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from services.orchestrator.rules.failures.catalogue import Cause, Pattern, fields
from services.orchestrator.rules.failures.redaction import redact

LINES_MAX = 400
"""Only so many last lines are looked at."""
LINE_CHARS_MAX = 500
"""And so much of each: a minified file in an error message tells nothing more."""
RAW_CHARS_MAX = 4000
"""Terminal escapes are taken out of no more than this."""
REACH_LINES = 30
"""How far from the hit `near` and `also` may be found."""
HITS_MAX = 10
"""Hits of one sign whose surroundings are looked at."""
EVIDENCE_MAX = 12
TAIL_EVIDENCE = 8
"""Last lines that are shown where nothing in the log is known."""
NAMES_MAX = 5
VALUE_CHARS_MAX = 90
TEXT_CHARS_MAX = 300

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_c])")
_IN_PROJECT = re.compile(r"(?:file://)?/vm/app/")
"""Where the project is in a VM: a person knows its files without that."""
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


class Found(msgspec.Struct, frozen=True):
    """A sign that was found: what its groups hold, and the lines that show it."""

    pattern: Pattern
    values: Mapping[str, str]
    evidence: tuple[int, ...]


def plain(line: str) -> str:
    """The line without terminal escapes, cut, and in the words of today's npm."""
    text = _CONTROLS.sub("", _ESCAPES.sub("", line[:RAW_CHARS_MAX]))[:LINE_CHARS_MAX]
    return text.rstrip().replace("npm ERR!", "npm error").replace("npm WARN", "npm warn")


def find(cause: Cause, lines: Sequence[str], *, last: bool) -> Found | None:
    """The first of the cause's signs that these plain lines show: at its last hit, or at its first one."""
    for pattern in cause.patterns:
        order = range(len(lines) - 1, -1, -1) if last else range(len(lines))
        hits = ((index, hit) for index in order if (hit := pattern.hit.search(lines[index])) is not None)
        for index, hit in itertools.islice(hits, HITS_MAX):
            found = _around(cause, pattern, lines, index, hit)
            if found is not None:
                return found
    return None


def _around(cause: Cause, pattern: Pattern, lines: Sequence[str], index: int, hit: re.Match[str]) -> Found | None:
    """What the lines around the hit add; None where one that must be there is not."""
    values = {name: value for name, value in hit.groupdict().items() if value}
    shown = [index]
    for needed, searched in [(True, each) for each in pattern.near] + [(False, each) for each in pattern.also]:
        matches = list(itertools.islice(_search(searched, lines, index), NAMES_MAX))
        if needed and not matches:
            return None
        collects = "names" in searched.groupindex
        for at, match in sorted(matches, key=_place) if collects else matches[:1]:
            _add(values, match)
            shown.append(at)
    entry = cause.entry
    context = range(max(0, index - entry.before), min(len(lines), index + entry.after + 1))
    shown += [at for at in context if lines[at].strip()]
    return Found(pattern, values, tuple(sorted(dict.fromkeys(shown[:EVIDENCE_MAX]))))


def _search(pattern: re.Pattern[str], lines: Sequence[str], index: int) -> Iterator[tuple[int, re.Match[str]]]:
    """Hits around `index`: on its line, then after it, then before it from the nearest on."""
    after = range(index, min(len(lines), index + REACH_LINES + 1))
    before = range(index - 1, max(-1, index - REACH_LINES - 1), -1)
    for at in (*after, *before):
        match = pattern.search(lines[at])
        if match is not None:
            yield at, match


def _place(match: tuple[int, re.Match[str]]) -> int:
    return match[0]


def _add(values: dict[str, str], match: re.Match[str]) -> None:
    for name, value in match.groupdict().items():
        if not value:
            continue
        known = values.get(name)
        if known is None:
            values[name] = value
        elif name == "names" and value not in known.split(", "):
            values[name] = f"{known}, {value}"


def fill(templates: Sequence[str], values: Mapping[str, str]) -> str:
    """The first template for which all values are there, filled, without secrets, and cut to what a message may hold."""
    known = {name: _cut(redact(_IN_PROJECT.sub("", value.strip())), VALUE_CHARS_MAX) for name, value in values.items()}
    for template in templates:
        if template and fields(template) <= known.keys():
            return _cut(redact(template.format_map(known)), TEXT_CHARS_MAX)
    raise AssertionError("a cause's own message can always be filled")


def tail(lines: Sequence[str]) -> tuple[int, ...]:
    """The last lines that hold something."""
    return tuple([at for at, line in enumerate(lines) if line.strip()][-TAIL_EVIDENCE:])


def _cut(text: str, chars_max: int) -> str:
    return text if len(text) <= chars_max else text[: chars_max - 1] + "…"
