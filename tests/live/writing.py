"""Writers that append while servers fail under them, and what must be true of the log afterwards."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from shared.codec import Meta, Recorded
from shared.errors import Unavailable
from shared.events import Event
from shared.ports import EventLog
from shared.ulids import new_id
from tests.builders import files_changed, project_created
from tests.deploy.waiting import eventually
from tests.spec import AT

GOES_ON_TIMEOUT_S = 90.0
GOES_ON_EVENTS = 5
PACE_S = 0.03


def meta(rev: int, event_id: str | None = None) -> Meta:
    """As a command makes it."""
    found = event_id or new_id()
    return Meta(id=found, at=AT, rev=rev, correlation_id="story", causation_id="command", actor="test/0")


def event(project: str, rev: int) -> Event:
    """The `rev`th event of a project."""
    return project_created(project) if rev == 1 else files_changed(rev - 1, project)


class Writer:
    """Appends to an aggregate of its own, one event after the other, each until it is acknowledged."""

    def __init__(self, log: EventLog) -> None:
        self.project = new_id()
        self.acked: list[tuple[int, str]] = []
        self.outages = 0
        self.ended = asyncio.Event()
        self._log = log

    async def write(self) -> None:
        """Until it is ended; not cancelled, which Python 3.11's `wait_for` may overhear."""
        while not self.ended.is_set():
            rev = len(self.acked) + 1
            head = self.acked[-1][0] if self.acked else 0
            known = meta(rev)
            while not self.ended.is_set():
                try:
                    seq = await self._log.append(event(self.project, rev), known, after=head)
                    self.acked.append((seq, known.id))
                    break
                except Unavailable:
                    self.outages += 1  # as a caller does: the same again, under the same id
            with suppress(TimeoutError):  # enough events to be broken off, and few enough to be looked through
                async with asyncio.timeout(PACE_S):
                    await self.ended.wait()


class Writers:
    """Several, at once."""

    def __init__(self, logs: list[EventLog]) -> None:
        self.each = [Writer(log) for log in logs]

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """They write during the block, and in it all of them get events through; a broken one fails the test."""
        async with asyncio.TaskGroup() as group:
            for writer in self.each:
                group.create_task(writer.write())
            try:
                await self.go_on()
                yield
                await self.go_on()
            finally:
                for writer in self.each:
                    writer.ended.set()

    async def go_on(self) -> None:
        """Returns when each writer has had some more events acknowledged."""
        goal = [len(writer.acked) + GOES_ON_EVENTS for writer in self.each]

        def reached() -> bool:
            return all(len(writer.acked) >= count for writer, count in zip(self.each, goal, strict=True))

        await eventually(reached, GOES_ON_TIMEOUT_S)

    async def check(self, log: EventLog) -> None:
        """Every acknowledged event is in the log once, where it was said to be; revisions have no gap, none is twice."""
        found: dict[str, list[Recorded]] = {}
        expected = 0
        async for recorded in log.read():
            expected += 1
            assert recorded.seq == expected
            found.setdefault(recorded.key, []).append(recorded)
        for writer in self.each:
            mine = found[f"gateway.project.{writer.project}"]
            assert [each.meta.rev for each in mine] == list(range(1, len(mine) + 1))
            # The one that was under way when the writer ended may be there too.
            assert len(mine) - len(writer.acked) in (0, 1)
            assert [(each.seq, each.meta.id) for each in mine[: len(writer.acked)]] == writer.acked
