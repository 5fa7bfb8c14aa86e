"""The catalogue of causes: what `catalogue.toml` may say, and the table itself, checked as it is read."""

import re
import string
from importlib import resources
from typing import Literal

import msgspec

Step = Literal["install", "dev_server"]
End = Literal["exited", "killed", "stopped", "timed_out", "crashed"]
"""`killed`: by SIGKILL; `stopped`: by a signal that asks for the end, so that nothing in the log is its cause;
`timed_out`: by the job's own limit; `crashed`: its watcher lives on; `exited`: all else."""

ALWAYS_KNOWN = {"how", "limit", "when"}
"""What a message may name whatever the log says: how the job ended, its time-out, whether it had answered before."""


class Sign(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One way in which a cause shows in the log. Patterns are searched in each line, terminal escapes taken out.

    `near`: each must be found in the lines around the hit; `also`: may be. Their named groups, and those of `pattern`,
    fill `message` and `hint` (empty: the cause's own); a group `names` collects what all lines around the hit give.
    """

    pattern: str
    near: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    message: str = ""
    hint: str = ""


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A cause. It is one that ended so (`ends`, and with one of `exit_codes`, where there are) in one of `steps`, and
    shows one of `signs`, where there are. `before`, `after`: lines around the hit that are kept as evidence."""

    code: str
    steps: tuple[Step, ...] = ("install", "dev_server")
    ends: tuple[End, ...] = ("exited", "crashed")
    exit_codes: tuple[int, ...] = ()
    message: str
    hint: str
    before: int = 0
    after: int = 1
    signs: tuple[Sign, ...] = ()


class WatcherEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A program that restarts another one when files change, and what it prints when that one has crashed or begins.

    `sign`: must be found somewhere, where the words alone would not tell that a watcher runs; `last`: they count only
    as long as nothing is printed after them.
    """

    name: str
    crashed: str
    begun: str
    sign: str = ""
    last: bool = False


class CatalogueFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of `catalogue.toml`; causes in order of precedence."""

    causes: tuple[Entry, ...]
    watchers: tuple[WatcherEntry, ...]


class Pattern(msgspec.Struct, frozen=True):
    """A compiled sign, and the cause that it is of."""

    hit: re.Pattern[str]
    near: tuple[re.Pattern[str], ...]
    also: tuple[re.Pattern[str], ...]
    sign: Sign


class Cause(msgspec.Struct, frozen=True):
    """An entry with its signs compiled."""

    entry: Entry
    patterns: tuple[Pattern, ...]


class Watcher(msgspec.Struct, frozen=True):
    """A watcher's entry, compiled."""

    entry: WatcherEntry
    crashed: re.Pattern[str]
    begun: re.Pattern[str]
    sign: re.Pattern[str] | None


def parse(text: str) -> CatalogueFile:
    """The table in `text`. Raises `msgspec.ValidationError` or `ValueError`, saying which entry is wrong."""
    table = msgspec.toml.decode(text, type=CatalogueFile)
    for entry in table.causes:
        unknown = fields(entry.message) | fields(entry.hint)
        if unknown - ALWAYS_KNOWN:
            raise ValueError(
                f"{entry.code}: {sorted(unknown - ALWAYS_KNOWN)} may be missing, so only signs can name it"
            )
        for sign in entry.signs:
            _check(entry, sign)
    return table


def fields(template: str) -> set[str]:
    """The names in braces."""
    return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}


def _check(entry: Entry, sign: Sign) -> None:
    groups = {name for pattern in (sign.pattern, *sign.near, *sign.also) for name in re.compile(pattern).groupindex}
    unknown = (fields(sign.message) | fields(sign.hint)) - groups - ALWAYS_KNOWN
    if unknown:
        raise ValueError(f"{entry.code}: nothing gives {sorted(unknown)} for {sign.pattern!r}")


def _compiled(entry: Entry) -> Cause:
    patterns = [
        Pattern(
            re.compile(sign.pattern),
            tuple(re.compile(pattern) for pattern in sign.near),
            tuple(re.compile(pattern) for pattern in sign.also),
            sign,
        )
        for sign in entry.signs
    ]
    return Cause(entry, tuple(patterns))


def _watcher(entry: WatcherEntry) -> Watcher:
    sign = re.compile(entry.sign) if entry.sign else None
    return Watcher(entry, re.compile(entry.crashed), re.compile(entry.begun), sign)


TABLE = parse(resources.files(__package__).joinpath("catalogue.toml").read_text("utf-8"))
CAUSES = tuple(_compiled(entry) for entry in TABLE.causes)
WATCHERS = tuple(_watcher(entry) for entry in TABLE.watchers)
