"""Reactions that failed too often: what is kept of each, for a person to look at and to try again. Pure."""

import re
from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

from shared.errors import NotFound

REPLAY = "replay"
"""The timer that has an event heard again; its id and `seq` are the event's sequence."""
REASON_CHARS_MAX = 2_000
_KEY = re.compile(r"[a-z]+\.(?:event|timer)\.\d{1,19}")


class Parked(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="Parked"):
    """One reaction of one service. `seq`: of the event in the log, or of the timer in its stream; `subject`: what it came
    under; `data`: the timer's; `at`: ISO 8601, UTC; `reason`: the last failure's."""

    service: str
    kind: Literal["event", "timer"]
    seq: int
    subject: str
    reason: str
    attempts: int
    at: str
    data: dict[str, str | int] = {}

    @property
    def key(self) -> str:
        """`<service>.<kind>.<seq>`, its name for commands."""
        return f"{self.service}.{self.kind}.{self.seq}"


class ParkedReactions(Protocol):
    """What is parked. Nothing is lost by looking at it."""

    async def list(self) -> Sequence[Parked]:
        """All of them, oldest first."""
        ...

    async def count(self) -> int:
        """How many there are."""
        ...

    async def replay(self, parked: Parked) -> None:
        """Have it heard again, by whichever replica is there; it is parked anew if it fails as often once more."""
        ...

    async def drop(self, parked: Parked) -> None:
        """Forget it. What its event says stays in the log."""
        ...


def find(parked: Sequence[Parked], key: str) -> Parked:
    """The one of this key. Raises `NotFound` (`parked_not_found`)."""
    found = next((each for each in parked if each.key == key), None) if _KEY.fullmatch(key) else None
    if found is None:
        raise NotFound("parked_not_found", f"Nothing is parked as {key[:80]!r}.", "`drape parked ls` lists what is.")
    return found
