"""Moments as people write them: "10m ago", "-10m", an ISO 8601 time, unix seconds, or a place in the log."""

import re
from datetime import UTC, datetime
from typing import NamedTuple

from nats.aio.client import Client

from shared.errors import Invalid
from shared.jetstream.moments import first_since, stored_at

UNIX_FROM = 1_000_000_000
"""A whole number from here on is unix seconds (2001 and later), a smaller one is a sequence; `@N` is always seconds."""
FUTURE_MAX_S = 5.0
"""Clocks differ by so much."""
HINT = "Give a sequence (4711), `10m ago`, `-1h30m`, `now`, an ISO 8601 time (2026-01-31T08:00:00Z), or unix seconds."

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_AGO = re.compile(r"(?:-(?P<minus>[\d.smhdw\s]+)|(?P<ago>[\d.smhdw\s]+)\s+ago)")
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])\s*")


class Moment(NamedTuple):
    """A place in the log (`seq`), or a time (`at`, seconds, UTC); one of the two."""

    text: str
    seq: int | None = None
    at: float | None = None


def moment(text: str, now: float) -> Moment:
    """Reads one. `now`: seconds, UTC. Raises `Invalid` (`bad_moment`)."""
    given = text.strip()
    if given.isascii() and given.isdecimal() and len(given) < 20 and int(given) < UNIX_FROM:
        return Moment(text, seq=int(given))
    at = _time(given, now) if given.isascii() else None
    if at is None or not 0 <= at < 253_402_300_800:  # the year 10000
        raise Invalid("bad_moment", f"{text[:100]!r} is no time and no sequence.", HINT)
    return Moment(text, at=at)


def _time(given: str, now: float) -> float | None:
    if given == "now":
        return now
    ago = _AGO.fullmatch(given)
    if ago is not None:
        length = (ago["minus"] or ago["ago"]).strip()
        if not re.fullmatch(f"(?:{_PART.pattern})+", length):
            return None
        return now - sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(length))
    try:
        return float(given.removeprefix("@")) if re.fullmatch(r"@?\d+(\.\d+)?", given) else _iso(given)
    except ValueError:
        return None


def _iso(given: str) -> float:
    read = datetime.fromisoformat(given)
    return (read if read.tzinfo is not None else read.replace(tzinfo=UTC)).timestamp()


async def state_of(client: Client, when: Moment, last: int, now: float) -> int:
    """The last event of the state at that moment; `last`: of the log. A time is that of storing.

    Raises `Invalid`: `before_the_log`, `in_the_future`; and `Unavailable`.
    """
    if when.seq is not None:
        if when.seq > last:
            raise Invalid(
                "in_the_future",
                f"The log's newest event is {last}; {when.seq} is yet to come.",
                f"Give at most {last}.",
            )
        seq = when.seq
    else:
        assert when.at is not None
        if when.at > now + FUTURE_MAX_S:
            raise Invalid("in_the_future", f"{when.text!r} is yet to come.", HINT)
        following = await first_since(client, when.at)
        seq = min(following.seq - 1, last) if following is not None else last
    if seq < 1:
        first = await stored_at(client, 1) if last else None
        since = f"begins at {written(first.at)}, with event 1" if first is not None else "is empty"
        raise Invalid("before_the_log", f"{when.text!r} is before the first event: the log {since}.", HINT)
    return seq


async def begin_of(client: Client, when: Moment, last: int) -> int:
    """The event after which reading begins: the sequence itself, or the last one before that time. Raises `Unavailable`."""
    if when.seq is not None:
        return when.seq
    assert when.at is not None
    first = await first_since(client, when.at)
    return first.seq - 1 if first is not None else last


def written(at: float) -> str:
    """A time for people: UTC, milliseconds."""
    return datetime.fromtimestamp(at, UTC).isoformat(sep=" ", timespec="milliseconds").replace("+00:00", "Z")
