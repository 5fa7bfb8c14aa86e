"""What the replicas share: the log, the consumers' positions, the timers."""

import asyncio
import contextvars
import itertools
import time
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

from shared.codec import Meta, Recorded, decode, encode, event_id, subject_of
from shared.errors import DrapeError, Unavailable
from shared.events import Event, aggregate_key
from shared.ids import PreviewId, ProjectId
from shared.memory.parked import MemoryParked
from shared.memory.snapshots import MemorySnapshots
from shared.output import LogBatch
from shared.ports import Handler, Head, Progress, TimerFired, WrongLastSequence


class Shared:
    """What the replicas of all services share: the log, the consumers' positions, the timers."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.connected = True
        self.records: list[Recorded] = []
        self.parked = MemoryParked(self.fire, clock)
        self.snapshots = MemorySnapshots()
        self.heads: dict[str, Head] = {}
        self.followers: list[Callable[[Recorded], None]] = []
        self.on_stored: list[Callable[[Recorded], None]] = []
        """Called with each event before anybody else has heard of it."""
        self.event_queues: dict[str, Queue] = defaultdict(Queue)
        self.timer_queues: dict[str, Queue] = defaultdict(Queue)
        self.endpoints: dict[str, list[tuple[Handler, contextvars.Context]]] = defaultdict(list)
        self.serving: set[asyncio.Task[bytes | DrapeError]] = set()
        self.progress_listeners: list[Callable[[Progress], None]] = []
        self.activity_listeners: list[Callable[[PreviewId], None]] = []
        self.log_listeners: list[Callable[[LogBatch], None]] = []
        self.preview_logs: dict[PreviewId, list[LogBatch]] = defaultdict(list)
        self.objects: dict[str, bytes] = {}
        self.keys: dict[ProjectId, bytes] = {}
        self.schedules: dict[str, asyncio.TimerHandle] = {}
        self._log_seq = itertools.count(1)
        self._firings = itertools.count(1)
        self._ids: dict[str, int] = {}

    def check(self) -> None:
        """Raise `Unavailable` while the broker is cut off."""
        if not self.connected:
            raise Unavailable("log_unavailable", "The event log does not answer (cut off).")

    def store(self, event: Event, meta: Meta, after: int) -> int:
        """Append under the same rules as JetStream on one node: expectation first, then duplicates."""
        key = aggregate_key(event)
        if self.heads.get(key, Head()).seq != after:
            raise WrongLastSequence(key)
        if meta.id in self._ids:
            return self._ids[meta.id]
        seq = len(self.records) + 1
        recorded = decode(encode(event, meta), seq=seq, subject=subject_of(event), traceparent=meta.traceparent)
        self.records.append(recorded)
        self.heads[key] = Head(seq, meta.rev)
        self._ids[meta.id] = seq
        loop = asyncio.get_running_loop()
        for deliver in list(self.followers):
            loop.call_soon(deliver, recorded)
        for queue in self.event_queues.values():
            if queue.types is None or recorded.type in queue.types:
                queue.put(recorded)
        for listener in list(self.on_stored):
            listener(recorded)
        return seq

    def record(self, event: Event, *, command_id: str = "given", at: float | None = None) -> int:
        """Append a fact from a test, whatever the revision."""
        head = self.heads.get(aggregate_key(event), Head())
        meta = Meta(
            id=event_id(f"{command_id}-{len(self.records)}", event),
            at=self.clock() if at is None else at,
            rev=head.rev + 1,
            correlation_id=event.aggregate_id,
            causation_id=command_id,
            actor="test",
        )
        return self.store(event, meta, head.seq)

    def fire(self, service: str, name: str, timer_id: str, data: dict[str, str | int]) -> None:
        """A timer is due."""
        key = f"{name}-{timer_id}-{next(self._firings)}"
        self.timer_queues[service].put(TimerFired(name=name, id=timer_id, key=key, data=data))

    def next_log_seq(self) -> int:
        return next(self._log_seq)


class Queue:
    """A durable consumer: what is not acknowledged comes again."""

    def __init__(self) -> None:
        self.types: frozenset[str] | None = None
        self.waiting: deque[tuple[Any, int]] = deque()
        self.arrived = asyncio.Event()

    def put(self, item: Any, attempts: int = 1) -> None:
        self.waiting.append((item, attempts))
        self.arrived.set()

    async def get(self) -> tuple[Any, int]:
        while not self.waiting:
            self.arrived.clear()
            await self.arrived.wait()
        return self.waiting.popleft()
