"""Alerts and silences for as long as they take, in virtual time, by two replicas: raised once, cleared once."""

import asyncio

import msgspec
import pytest

from services.telemetry.config import AlertConfig
from shared.events import AlertCleared, AlertRaised, SilenceEnded, SilenceStarted
from shared.memory import MemoryBroker
from tests.telemetry.test_alerts_journey import CONFIG, folded, replica
from tests.telemetry.world import failed, ready

LIMITS = AlertConfig()


def alerts_in(broker: MemoryBroker) -> list[tuple[str, str]]:
    """(type, alert) of every event about an alert."""
    events = (recorded.event for recorded in broker.records)
    return [(type(each).__name__, each.alert) for each in events if isinstance(each, AlertRaised | AlertCleared)]


@pytest.mark.looptime
async def test_previews_that_fail_are_an_alert_until_enough_become_ready() -> None:
    """Two replicas, who hear one tick after the other, raise and clear it once."""
    broker = MemoryBroker(asyncio.get_running_loop().time)
    async with replica(broker) as runtime, replica(broker, 1):
        for number in range(12):
            broker.record(failed(f"f{number}"))
        await folded(runtime, AlertRaised, timeout_s=20)
        for number in range(300):
            broker.record(ready(f"r{number}"))
        await folded(runtime, AlertCleared, timeout_s=60)
        await asyncio.sleep(600)

    assert alerts_in(broker) == [("AlertRaised", "error_rate"), ("AlertCleared", "error_rate")]


@pytest.mark.looptime
async def test_a_service_that_stays_behind_the_log_is_an_alert_until_it_has_caught_up() -> None:
    """It is asked how far it is; how old the first event is that it lacks, the log tells."""
    broker = MemoryBroker(asyncio.get_running_loop().time)
    seq = 0

    async def status(_body: bytes, _headers: object) -> bytes:
        return msgspec.json.encode({"ready": True, "seq": seq, "service": "gateway", "instance": "3"})

    async with replica(broker) as runtime, replica(broker, 1):
        served = await runtime.bus.commands.serve("gateway", {}, {"status": status})
        for number in range(LIMITS.lag_events_max + 1):
            broker.record(ready(f"r{number}"))
        begun = broker.clock()
        raised = await folded(runtime, AlertRaised, timeout_s=120)
        assert LIMITS.lag_s <= raised.meta.at - begun <= LIMITS.lag_s + CONFIG.alerts_period_s + 1
        assert isinstance(raised.event, AlertRaised)
        assert "gateway/3 by 100" in raised.event.message

        seq = len(broker.records) - LIMITS.lag_events_clear - 50
        await asyncio.sleep(120)
        seq = len(broker.records)
        begun = broker.clock()
        cleared = await folded(runtime, AlertCleared, timeout_s=120)
        assert CONFIG.clear_after_s <= cleared.meta.at - begun <= CONFIG.clear_after_s + 3 * CONFIG.alerts_period_s
        await served.stop()

    assert alerts_in(broker) == [("AlertRaised", "replay_lag"), ("AlertCleared", "replay_lag")]


@pytest.mark.looptime
async def test_a_silence_ends_by_itself() -> None:
    """At the first tick after its time."""
    broker = MemoryBroker(asyncio.get_running_loop().time)
    async with replica(broker) as runtime, replica(broker, 1):
        until = broker.clock() + 62.0
        broker.record(SilenceStarted(silence_id="s", pattern="*", until=until, reason="", by="ann"))
        ended = await folded(runtime, SilenceEnded, timeout_s=120)
        await asyncio.sleep(60)

    assert until <= ended.meta.at <= until + CONFIG.alerts_period_s + 1
    assert [recorded.type for recorded in broker.records] == ["SilenceStarted", "SilenceEnded"]
