"""The projector: reads the log from the stored position and has its events written, for ever.

Far behind, it reads batch by batch; at the end of the log it follows, through a bounded queue. When the queue is full
(PostgreSQL is slow or away) it lets go of the log, and later reads what it missed. Decides nothing about rows.
"""

import asyncio
import logging
import time
from collections import deque
from typing import NoReturn

from opentelemetry import metrics

from services.telemetry.adapters.postgres import OUTAGES, describe
from services.telemetry.adapters.projections import GapError, Position, ProjectionStore
from services.telemetry.config import TelemetryConfig
from shared.codec import Recorded
from shared.errors import Unavailable
from shared.ports import EventLog

log = logging.getLogger("drape.telemetry")

_position_gauge = metrics.get_meter("drape").create_gauge(
    "drape.projection.position", unit="{event}", description="The log's sequence up to which a projection's rows hold"
)


class Queue:
    """Events between the log, which cannot wait, and the database. Never holds more than `events_max`: what comes when
    it is full is left out, and so is all that follows, so that what it gives has no gap."""

    def __init__(self, events_max: int) -> None:
        self._events_max = events_max
        self._events: deque[Recorded] = deque()
        self._failure: BaseException | None = None
        self._changed = asyncio.Event()
        self.overflowed = False

    def offer(self, recorded: Recorded) -> None:
        """Take the event, or remember that one was left out."""
        self.overflowed = self.overflowed or len(self._events) >= self._events_max
        if not self.overflowed:
            self._events.append(recorded)
        self._changed.set()

    def fail(self, error: BaseException) -> None:
        """Nothing comes any more, because of this."""
        self._failure = error
        self._changed.set()

    async def take(self, events_max: int) -> list[Recorded]:
        """The next events, once there are some; none when it is empty and something was left out."""
        while not self._events and not self.overflowed:
            if self._failure is not None:
                raise self._failure
            self._changed.clear()
            await self._changed.wait()
        return [self._events.popleft() for _ in range(min(events_max, len(self._events)))]


class Projector:
    """One projection, kept by one replica. `log_id` names the log (empty before its first event); `seq`: how far its rows
    are."""

    def __init__(self, event_log: EventLog, store: ProjectionStore, config: TelemetryConfig) -> None:
        self.name = store.name
        self.log_id = ""
        self.seq = 0
        self._rows = ""
        self._log = event_log
        self._store = store
        self._config = config
        self._migrated = False
        self._failures = 0
        self._logged_at = 0.0

    async def run(self) -> NoReturn:
        """Project until cancelled. Outages of PostgreSQL and the log are waited out; what else is raised is a bug."""
        while True:
            try:
                await self._project()
            except GapError as gap:
                log.warning("projection_gap", extra={"projection": self.name, "detail": str(gap)})
                await self._pause(gap)
            except (*OUTAGES, Unavailable) as error:
                self._migrated = False  # it may come back as another, empty one
                await self._pause(error)

    async def _project(self) -> NoReturn:
        if not self._migrated:
            await self._store.migrate()
            self._migrated = True
        seq = (await self._start()).seq
        while True:
            last = await self._log.last_seq()
            seq = await (self._read(seq, last) if seq < last else self._follow(seq))

    async def _start(self) -> Position:
        """Where to go on. Rows that this log does not lead to (it was restored from a backup) are made anew."""
        self.log_id = self._rows = await self._event_id(1) if await self._log.last_seq() else ""
        if not self.log_id:
            return Position()
        position = await self._store.position(self.log_id)
        known = position.seq <= await self._log.last_seq()
        if position.seq and not (known and await self._event_id(position.seq) == position.event_id):
            about = {"projection": self.name, "seq": position.seq, "log_id": position.log_id}
            log.warning("projection_rebuilt", extra=about)
            await self._store.forget(position)
            position = Position(log_id=self.log_id)
        self._rows = position.log_id
        self._recovered(position.seq)
        return position

    async def _event_id(self, seq: int) -> str:
        ids = [recorded.meta.id async for recorded in self._log.read(seq - 1, seq)]
        return ids[0] if ids else ""

    async def _read(self, seq: int, last: int) -> int:
        until = min(last, seq + self._config.batch_events_max)
        return await self._write([recorded async for recorded in self._log.read(seq, until)], seq)

    async def _follow(self, seq: int) -> int:
        """Write events as they come, until the queue was too small."""
        queue = Queue(self._config.queue_events_max)
        subscription = await self._log.follow(seq, queue.offer, queue.fail)
        try:
            while batch := await queue.take(self._config.batch_events_max):
                seq = await self._write(batch, seq)
        finally:
            await subscription.stop()
        log.info("projection_behind", extra={"projection": self.name, "seq": seq})
        return seq

    async def _write(self, batch: list[Recorded], seq: int) -> int:
        if not batch:
            return seq
        if not self.log_id:
            assert batch[0].seq == 1, "a log without an identity is one whose first event comes now"
            self.log_id = self._rows = batch[0].meta.id
        await self._store.apply(self._rows, batch)
        self._recovered(batch[-1].seq)
        _position_gauge.set(self.seq, {"drape.projection": self.name})
        return self.seq

    def _recovered(self, seq: int) -> None:
        self.seq = seq
        if self._failures:
            log.warning("projection_recovered", extra={"projection": self.name, "failures": self._failures, "seq": seq})
        self._failures = 0
        self._logged_at = 0.0

    async def _pause(self, error: BaseException) -> None:
        self._failures += 1
        now = time.monotonic()
        if not self._logged_at or now - self._logged_at >= self._config.retry_log_period_s:
            self._logged_at = now
            about = {"projection": self.name, "error": describe(error), "failures": self._failures}
            log.warning("projection_waits", extra=about)
        doublings = min(self._failures - 1, 30)
        await asyncio.sleep(min(self._config.retry_max_s, self._config.retry_s * float(2**doublings)))
