"""How the loop performs what an event asks for: in order, timers beside it, and acknowledged only after both."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import msgspec
import pytest

from shared.codec import Recorded
from shared.commands import Command, Reply
from shared.definition import Definition, Effect
from shared.effects import SetTimer
from shared.errors import Unavailable
from shared.events import AlertRaised
from shared.memory import ACK_WAIT_S, MemoryBroker
from shared.ports import Cause, Timer, TimerFired, Timers
from shared.runtime import Runtime

pytestmark = pytest.mark.looptime

RAISED = AlertRaised(alert="pool_empty", message="No warm VM.", since=0.0)


class Work(msgspec.Struct, frozen=True):
    """Something that takes its time."""


class Nothing(msgspec.Struct):
    """A state that nothing changes."""


class SlowTimers:
    """Timers whose store takes `store_s`, and fails so many times before."""

    def __init__(self, timers: Timers, store_s: float, failures: int = 0) -> None:
        self._timers = timers
        self._store_s = store_s
        self._failures = failures
        self.stored_at: list[float] = []

    async def schedule(self, timer: Timer) -> None:
        await asyncio.sleep(self._store_s)
        if self._failures > 0:
            self._failures -= 1
            raise Unavailable("timers_unavailable", "No.")
        await self._timers.schedule(timer)
        self.stored_at.append(asyncio.get_running_loop().time())

    async def every(self, service: str, name: str, period_s: float) -> None:
        await self._timers.every(service, name, period_s)


class Stage(msgspec.Struct):
    """`worked_at`: when each effect was begun."""

    broker: MemoryBroker
    timers: SlowTimers
    worked_at: list[float] = []


def _react(_state: Nothing, _recorded: Recorded) -> Sequence[Effect]:
    return [SetTimer("limit", "it", 60.0), Work()]


def _definition() -> Definition[Nothing]:
    def refuse(_state: Nothing, command: Command) -> Reply:
        raise AssertionError(f"no command was sent: {command}")

    def none(_state: Nothing, _fired: TimerFired) -> Sequence[Effect]:
        return []

    return Definition(
        name="telemetry",
        initial=Nothing,
        evolve=lambda _state, _recorded: None,
        decide=lambda _state, _command: [],
        answer=refuse,
        react=_react,
        on_timer=none,
        commands=(),
        ticks={},
    )


@asynccontextmanager
async def reacting(store_s: float, failures: int = 0, work_s: float = 0.0) -> AsyncIterator[Stage]:
    clock = asyncio.get_running_loop().time
    broker = MemoryBroker(clock)
    bus = broker.bus({"telemetry": [AlertRaised]})
    stage = Stage(broker, SlowTimers(bus.timers, store_s, failures))

    async def perform(_effect: Effect, _cause: Cause) -> None:
        stage.worked_at.append(clock())
        await asyncio.sleep(work_s)

    runtime = Runtime(_definition(), replace(bus, timers=stage.timers), clock=clock)
    await runtime.start()
    await runtime.serve(perform)
    try:
        yield stage
    finally:
        await runtime.stop()


async def test_an_effect_does_not_wait_for_the_timer_before_it() -> None:
    async with reacting(store_s=0.5) as stage:
        began = stage.broker.clock()
        stage.broker.record(RAISED)
        await asyncio.sleep(1)
        assert stage.worked_at == [pytest.approx(began, abs=0.01)]
        assert stage.timers.stored_at == [pytest.approx(began + 0.5, abs=0.01)]
        assert not stage.broker.event_queues["telemetry"].waiting


async def test_an_event_whose_timer_could_not_be_stored_is_heard_again() -> None:
    async with reacting(store_s=0.01, failures=2) as stage:
        stage.broker.record(RAISED)
        await asyncio.sleep(5)
        assert len(stage.worked_at) == 3
        assert len(stage.timers.stored_at) == 1


async def test_an_event_is_not_done_before_its_timer_is_stored() -> None:
    """A replica that stops in between leaves it to the next one."""
    async with reacting(store_s=5.0) as stage:
        stage.broker.record(RAISED)
        await asyncio.sleep(1)
        assert len(stage.worked_at) == 1
    assert stage.timers.stored_at == []
    await asyncio.sleep(2 * ACK_WAIT_S)
    assert stage.broker.event_queues["telemetry"].waiting
