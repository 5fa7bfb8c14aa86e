"""What the services need of the outside, as Protocols. `shared.jetstream` serves them on NATS, `shared.memory` in memory.

Time-outs and broken connections show as `Unavailable`; nothing here hangs without a limit.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from shared.codec import Meta, Recorded
from shared.commands import Command
from shared.events import Event
from shared.ids import PreviewId
from shared.output import LogBatch, LogLine
from shared.parked import ParkedReactions
from shared.seals import Seals
from shared.snapshot import Snapshots


class WrongLastSequence(Exception):
    """Another writer was first: the aggregate's last event is not the one that the append expected."""


class Head(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The last event of an aggregate: its stream sequence and revision; 0 and 0 where there is none."""

    seq: int = 0
    rev: int = 0


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """Why a command is sent: ids travel with it so that one story can be told afterwards."""

    correlation_id: str = ""
    causation_id: str = ""
    actor: str = ""
    traceparent: str = ""
    after_seq: int = 0
    """The log's sequence that the sender knew when it sent; 0 where it follows no log."""
    repeated: bool = False
    """True where the same command was sent before and not answered."""
    at: float = 0.0
    """When it was (seconds, UTC), for this replica alone; 0: just now."""


class Timer(msgspec.Struct, frozen=True, kw_only=True):
    """A wish to be called at `at` (seconds, UTC). The same service, name and id replaces the earlier timer."""

    service: str
    name: str
    id: str
    at: float
    data: dict[str, str | int] = {}


class TimerFired(msgspec.Struct, frozen=True, kw_only=True):
    """A timer or a tick is due. `key` is unique for each firing."""

    name: str
    id: str
    key: str
    data: dict[str, str | int] = {}


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a preview is: not a fact, so not in the log. `percent` 0..100, `elapsed` seconds since the request."""

    preview_id: PreviewId
    step: str
    percent: float
    message: str
    timestamp: float
    elapsed: float
    details: dict[str, str | int | float | bool | None] = {}
    eta_s: float | None = None
    """Seconds until ready, as far as can be told; None where that says nothing (any more)."""


class Subscription(Protocol):
    """Something that delivers until it is stopped."""

    async def stop(self) -> None: ...


class Delivery(Protocol):
    """One message of a durable consumer. Exactly one of `ack`, `retry` and `park` ends it."""

    @property
    def attempts(self) -> int: ...

    lasting: bool
    """Set while its work may last for long and can be taken up by another replica: it is handed back when this one ends."""

    async def ack(self) -> None: ...
    async def retry(self, delay_s: float) -> None: ...
    async def park(self, reason: str) -> None: ...
    async def in_progress(self) -> None: ...


Handler = Callable[[bytes, Mapping[str, str]], Awaitable[bytes]]
"""A request's body and headers -> the answer's body; a `DrapeError` becomes the problem that the caller gets."""


class EventLog(Protocol):
    """The one stream."""

    async def append(self, event: Event, meta: Meta, *, after: int) -> int:
        """Store the event if its aggregate's last one is at `after` (0: none). Gives its sequence, once it is durable."""
        ...

    async def head(self, key: str) -> Head: ...
    async def last_seq(self) -> int: ...

    async def follow(
        self, after: int, deliver: Callable[[Recorded], None], failed: Callable[[BaseException], None]
    ) -> Subscription:
        """Deliver every event after `after`, in order, without a gap; `failed` is called at most once."""
        ...

    async def replay(
        self, after: int, until: int, types: frozenset[str] | None, deliver: Callable[[Recorded], None]
    ) -> None:
        """Deliver what is there after `after`, up to `until`, as fast as it can be read: events of `types` (None: all)
        whole, others of their aggregates without content, and of what other aggregates have only the event `until`.
        Raises `Unavailable` where the rest has to be followed instead; what was delivered
        until then counts."""
        ...

    def read(self, after: int = 0, until: int | None = None) -> AsyncIterator[Recorded]:
        """The events after `after`, up to `until` or the last one there is now."""
        ...


class Reactions(Protocol):
    """Durable consumers, each shared by the replicas of its service."""

    async def events(self, service: str, handler: Callable[[Recorded, Delivery], Awaitable[None]]) -> Subscription: ...

    async def timers(
        self, service: str, handler: Callable[[TimerFired, Delivery], Awaitable[None]]
    ) -> Subscription: ...


class Commands(Protocol):
    """Request and reply."""

    async def send(self, command: Command, cause: Cause) -> bytes:
        """The reply's body. Raises the `DrapeError` that the receiver answered, `Unavailable` when nobody does."""
        ...

    async def query(
        self,
        service: str,
        name: str,
        body: bytes = b"{}",
        *,
        timeout_s: float = 5.0,
        after_seq: int = 0,
        once: bool = False,
    ) -> bytes:
        """The answer of a replica that has folded `after_seq`. `once`: never asked of two replicas at a time."""
        ...

    async def serve(
        self, service: str, commands: Mapping[str, Handler], queries: Mapping[str, Handler]
    ) -> Subscription: ...


class Timers(Protocol):
    async def schedule(self, timer: Timer) -> None: ...

    async def every(self, service: str, name: str, period_s: float) -> None: ...


class ProgressFeed(Protocol):
    async def publish(self, progress: Progress) -> None: ...
    async def subscribe(self, handler: Callable[[Progress], None]) -> Subscription: ...


class ActivityFeed(Protocol):
    """Which previews are in use, as whoever serves them says it now and then. Not a fact, so not in the log."""

    async def publish(self, preview_id: PreviewId) -> None: ...
    async def subscribe(self, handler: Callable[[PreviewId], None]) -> Subscription: ...


class PreviewLogs(Protocol):
    """What projects print. Bounded in age and size; the oldest goes first."""

    async def append(self, preview_id: PreviewId, lines: Sequence[LogLine]) -> None: ...
    async def read(self, preview_id: PreviewId, after: int = 0, limit: int = 1000) -> list[LogBatch]: ...
    async def last(self, preview_id: PreviewId) -> LogBatch | None: ...
    async def subscribe(self, handler: Callable[[LogBatch], None]) -> Subscription: ...

    async def erase(self, preview_id: PreviewId) -> int:
        """Remove all that it has printed, from the disk too. Gives the number of batches."""
        ...


class Objects(Protocol):
    """Named bytes: manifests and bundles of files."""

    async def put(self, name: str, data: bytes) -> None: ...
    async def get(self, name: str) -> bytes: ...

    async def delete(self, name: str) -> None:
        """Remove it, from the disk too. What is not there is removed."""
        ...

    async def erase(self, prefix: str) -> int:
        """Delete every object whose name begins so, and give their number."""
        ...


@dataclass(frozen=True, slots=True)
class Bus:
    """All of the above, as one service gets it."""

    log: EventLog
    reactions: Reactions
    commands: Commands
    timers: Timers
    progress: ProgressFeed
    activity: ActivityFeed
    preview_logs: PreviewLogs
    objects: Objects
    parked: ParkedReactions
    seals: Seals
    snapshots: Snapshots
    connected: Callable[[], bool]
    close: Callable[[], Awaitable[None]]
