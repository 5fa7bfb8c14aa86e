"""The alerts' way through the loop: ticks, decision, events, on the in-memory log in virtual time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from services.telemetry.app import definition, effects
from services.telemetry.config import AlertConfig, TelemetryConfig
from services.telemetry.react import REACTS_TO, LookAtAlerts
from services.telemetry.state import State
from services.telemetry.views import alerts
from shared.codec import Recorded
from shared.events import AlertCleared, AlertRaised, Event, VmBooted, VmCreationStarted
from shared.memory import MemoryBroker
from shared.ports import Cause
from shared.runtime import Runtime

from .world import acquired

CONFIG = TelemetryConfig(alerts_period_s=5, pool_empty_s=30, clear_after_s=20)

WARM: tuple[Event, ...] = (
    VmCreationStarted(vm_id="v", provider="local", number=1),
    VmBooted(vm_id="v", host="h", port=1, boot_s=0.1),
)


@asynccontextmanager
async def replica(broker: MemoryBroker, number: int = 0) -> AsyncIterator[Runtime[State]]:
    """One replica of the service, without its projection."""
    runtime = Runtime(
        definition(CONFIG), broker.bus({"telemetry": REACTS_TO}), instance=str(number), clock=broker.clock
    )
    await runtime.start()
    await runtime.serve(effects(runtime, {})[0].perform)
    try:
        yield runtime
    finally:
        await runtime.stop()


async def folded(runtime: Runtime[State], kind: type[Event], timeout_s: float) -> Recorded:
    """The next event of this type."""
    found: asyncio.Future[Recorded] = asyncio.get_running_loop().create_future()

    def on_folded(recorded: Recorded) -> None:
        if isinstance(recorded.event, kind) and not found.done():
            found.set_result(recorded)

    runtime.on_folded.append(on_folded)
    return await asyncio.wait_for(found, timeout_s)


@pytest.mark.looptime
async def test_an_alert_comes_and_goes_by_itself() -> None:
    """Raised within a tick of its time, cleared within a tick of its end, once each, by two replicas together."""
    broker = MemoryBroker(asyncio.get_running_loop().time)
    async with replica(broker) as runtime, replica(broker, 1):
        for event in WARM:
            broker.record(event)
        empty_at = broker.clock()
        broker.record(acquired("p1", vm="v"))

        raised = await folded(runtime, AlertRaised, timeout_s=60)
        assert 30 <= raised.meta.at - empty_at <= 35
        assert [alert.alert for alert in alerts(runtime.state, broker.clock()).alerts] == ["pool_empty"]

        warm_at = broker.clock()
        for event in WARM:
            broker.record(msgspec.structs.replace(event, vm_id="w"))
        cleared = await folded(runtime, AlertCleared, timeout_s=60)
        assert 20 <= cleared.meta.at - warm_at <= 25
        assert alerts(runtime.state, broker.clock()).alerts == []

    kinds = [recorded.type for recorded in broker.records if recorded.key.startswith("telemetry.")]
    assert kinds == ["AlertRaised", "AlertCleared"]


@pytest.mark.looptime
async def test_a_restarted_service_knows_what_it_has_raised() -> None:
    """The state comes from the log: no second alert, and the clearing is not forgotten."""
    broker = MemoryBroker(asyncio.get_running_loop().time)
    async with replica(broker) as runtime:
        broker.record(WARM[0])
        await folded(runtime, AlertRaised, timeout_s=60)
    async with replica(broker) as runtime:
        broker.record(WARM[1])
        await folded(runtime, AlertCleared, timeout_s=60)

    kinds = [recorded.type for recorded in broker.records if recorded.key.startswith("telemetry.")]
    assert kinds == ["AlertRaised", "AlertCleared"]


async def test_costs_are_asked_only_where_there_is_a_budget() -> None:
    """Adding them up is work for PostgreSQL, at every tick."""
    asked: list[str] = []

    async def day() -> float | None:
        asked.append("day")
        return 1.0

    async def month() -> float | None:
        asked.append("month")
        return 1.0

    async with replica(MemoryBroker()) as runtime:
        for limits in (AlertConfig(), AlertConfig(budget_month=5.0)):
            performing, _ = effects(runtime, {}, limits, costs=(day, month))
            await performing.perform(LookAtAlerts(), Cause(causation_id=f"tick-{limits.budget_month}"))

    assert asked == ["month"]
