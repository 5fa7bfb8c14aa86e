"""What a process says of its health in each of its phases, and over HTTP from a thread of its own."""

import asyncio
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from shared.errors import Invalid, Unavailable
from shared.gauges import Gauge
from shared.health import FRESH_S, Answer, Health, HealthLimits, Lag
from shared.health_server import BACKLOG, CONNECTIONS_MAX, exposition, serving
from shared.memory import MemoryBroker
from shared.ports import Bus
from tests.builders import project_created
from tests.deploy.waiting import eventually

LIMITS = HealthLimits(lag_events=3, lag_s=5.0, stall_s=2.0)
FAR_S = 100.0


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 1.0

    def __call__(self) -> float:
        return self.now


class Loop:
    """What a replica's loop shows of itself."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.seq = 0
        self.replay_until = 0


class World:
    """One process with a broker; time passes by hand."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.broker = MemoryBroker()
        self.loop = Loop(self.broker.bus())
        self.health = Health("pool", "pool-0", LIMITS, self.clock)

    def serve(self) -> None:
        self.health.watch(self.loop)
        self.health.started()

    def store(self, count: int) -> None:
        for number in range(count):
            self.broker.record(project_created(f"p{len(self.broker.records)}-{number}"))

    async def ready_after(self, seconds: float) -> Answer:
        self.clock.now += seconds
        return await self.health.ready()


@pytest.fixture
async def world() -> World:
    return World()


async def test_a_start_is_told_step_by_step(world: World) -> None:
    """Connecting, replaying with figures, opening, started; it lives in all of them, and is ready only at the end."""
    said = []

    async def look() -> None:
        startup = world.health.startup()
        ready = await world.health.ready()
        said.append((startup.status, startup.body["status"], startup.body.get("percent"), ready.status))
        assert world.health.live().status == 200

    await look()
    world.health.watch(world.loop)
    await look()
    world.loop.replay_until, world.loop.seq = 8, 2
    await look()
    world.loop.seq = 8
    await look()
    world.health.started()
    world.store(8)
    await look()

    assert said == [
        (503, "connecting", None, 503),
        (503, "replaying", 0.0, 503),
        (503, "replaying", 25.0, 503),
        (503, "opening", 100.0, 503),
        (200, "started", None, 200),
    ]


async def test_an_empty_log_is_replayed_at_once(world: World) -> None:
    world.serve()
    assert world.health.startup().status == 200
    assert (await world.health.ready()).body == {
        "service": "pool",
        "instance": "pool-0",
        "status": "ready",
        "seq": 0,
        "lag": 0,
        "lag_s": 0.0,
    }


async def test_without_nats_it_lives_and_is_not_ready(world: World) -> None:
    """And is again once NATS is back."""
    world.serve()
    world.broker.connected = False
    cut = await world.ready_after(FRESH_S)
    assert (cut.status, cut.body["reason"], world.health.live().status) == (503, "disconnected", 200)
    world.broker.connected = True
    assert (await world.ready_after(FRESH_S)).status == 200


async def test_a_log_that_does_not_answer_is_asked_once_for_all(world: World) -> None:
    """While it may just elect a leader, who is asked stays ready; once it may be behind, no more; and is again afterwards."""
    world.serve()
    asked = 0
    answering = world.loop.bus.log.last_seq

    async def silent() -> int:
        nonlocal asked
        asked += 1
        raise Unavailable("log_unavailable", "It does not answer.")

    world.loop.bus.log.last_seq = silent  # type: ignore[method-assign]
    answers = await asyncio.gather(*(world.health.ready() for _ in range(20)))
    assert {(each.status, each.body["silent_s"]) for each in answers} == {(200, 0.0)}
    assert asked == 1
    assert (await world.ready_after(world.health.limits.lag_s)).status == 200
    late = await world.ready_after(FRESH_S)
    assert (late.status, late.body["reason"], asked) == (503, "log_silent", 3)
    world.loop.bus.log.last_seq = answering  # type: ignore[method-assign]
    assert (await world.ready_after(FRESH_S)).status == 200


async def test_one_that_is_far_behind_is_not_ready(world: World) -> None:
    world.serve()
    world.store(LIMITS.lag_events)
    assert (await world.health.ready()).body["lag"] == LIMITS.lag_events
    world.store(1)
    behind = await world.ready_after(FRESH_S)
    assert (behind.status, behind.body["reason"], behind.body["lag"]) == (503, "behind", LIMITS.lag_events + 1)
    world.loop.seq = LIMITS.lag_events + 1
    assert (await world.ready_after(FRESH_S)).status == 200


async def test_one_that_stands_still_is_not_ready_however_little_it_lacks(world: World) -> None:
    """While one that keeps up with a busy log is."""
    world.serve()
    for _ in range(20):
        world.store(1)
        assert (await world.ready_after(FRESH_S)).status == 200
        world.loop.seq += 1
    world.store(1)
    assert (await world.ready_after(FRESH_S)).status == 200
    behind = await world.ready_after(LIMITS.lag_s + FRESH_S)
    assert (behind.status, behind.body["reason"], behind.body["lag"]) == (503, "behind", 1)


async def test_one_that_leaves_is_not_ready_and_lives(world: World) -> None:
    world.serve()
    world.health.leave()
    ready = await world.health.ready()
    assert (ready.status, ready.body["reason"]) == (503, "draining")
    assert (world.health.live().status, world.health.startup().status) == (200, 200)


async def test_a_loop_that_stands_still_does_not_live_and_is_told_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """With the place that it hangs in; it lives again when it turns."""
    world.clock.now += LIMITS.stall_s
    stalled = world.health.live()
    assert (stalled.status, stalled.body["status"], stalled.body["stalled_s"]) == (503, "stalled", LIMITS.stall_s)
    assert world.health.live().status == 503
    assert caplog.messages == ["loop_stalled"]
    assert "test_health.py" in vars(caplog.records[0])["at"]
    beat = asyncio.create_task(world.health.beating())
    await eventually(lambda: world.health.live().status == 200)
    beat.cancel()


def test_lag_counts_from_the_first_look_that_saw_it() -> None:
    lag = Lag()
    looks = [(0, 0, 10.0), (0, 1, 11.0), (0, 2, 14.0), (1, 2, 15.0), (1, 2, 18.0), (2, 2, 19.0), (2, 3, 30.0)]
    assert [lag.seconds(*look) for look in looks] == [0.0, 0.0, 3.0, 0.0, 3.0, 0.0, 0.0]


async def test_gauges_are_of_the_service_and_of_the_log(world: World) -> None:
    own = Gauge(name="drape_pool_claims_waiting", help="Claims.", value=4, labels={"pool": 'a"b\n'})
    world.health.watch(world.loop)
    world.health.started(lambda: [own])
    world.store(2)
    text = exposition(await world.health.gauges()).decode()
    samples = [each for family in text_string_to_metric_families(text) for each in family.samples]

    assert {(each.name, *each.labels.values(), each.value) for each in samples} == {
        ("drape_ready", "pool", 1.0),
        ("drape_log_lag", "pool", 2.0),
        ("drape_pool_claims_waiting", 'a"b\n', 4.0),
    }
    world.broker.connected = False
    world.clock.now += FRESH_S
    assert next((each.name, each.value) for each in await world.health.gauges()) == ("drape_ready", 0.0)


# --- over HTTP -----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def port(world: World) -> AsyncIterator[int]:
    async with serving(world.health, "127.0.0.1", 0) as port:
        yield port


def fetched(port: int, path: str) -> tuple[int, str, bytes]:
    """Status, type and body. Blocks: for threads."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read()


async def test_it_answers_over_http(world: World, port: int) -> None:
    world.serve()
    found = {path: await asyncio.to_thread(fetched, port, path) for path in ("/live", "/startup", "/ready", "/metrics")}

    assert {status for status, _, _ in found.values()} == {200}
    assert msgspec.json.decode(found["/live"][2]) == {"service": "pool", "instance": "pool-0", "status": "ok"}
    assert found["/ready"][1] == "application/json"
    assert found["/metrics"][1].startswith("text/plain; version=0.0.4")
    assert b'drape_ready{service="pool"} 1.0' in found["/metrics"][2]
    assert (await asyncio.to_thread(fetched, port, "/secrets"))[0] == 404
    world.health.leave()
    assert (await asyncio.to_thread(fetched, port, "/ready"))[0] == 503


async def test_a_blocked_loop_is_told_while_it_is_blocked(world: World, port: int) -> None:
    """The thread answers for it: it is not ready, it does not live, and its start is still known."""
    world.serve()
    found: dict[str, tuple[int, str, bytes]] = {}

    def look() -> None:
        for path in ("/startup", "/ready", "/metrics"):
            found[path] = fetched(port, path)
        world.clock.now += FAR_S
        found["/live"] = fetched(port, "/live")

    thread = threading.Thread(target=look)
    thread.start()
    thread.join(60)  # nothing else runs in this loop meanwhile

    assert {path: status for path, (status, _, _) in found.items()} == {
        "/startup": 200,
        "/ready": 503,
        "/metrics": 503,
        "/live": 503,
    }
    assert msgspec.json.decode(found["/ready"][2])["reason"] == "loop_busy"
    await eventually(lambda: world.health.live().status == 200)
    assert (await asyncio.to_thread(fetched, port, "/live"))[0] == 200


async def test_connections_that_ask_nothing_keep_nobody_out(world: World, port: int) -> None:
    """The oldest make room; a few more than the limit may be accepted at a time, before they are counted."""
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CONNECTIONS_MAX + 6 * BACKLOG)]
    assert (await asyncio.to_thread(fetched, port, "/live"))[0] == 200
    await eventually(lambda: sum(reader.at_eof() or reader.exception() is not None for reader, _ in idle) >= 5, 60)
    for _, writer in idle:
        writer.close()


async def test_a_port_that_is_taken_is_said(world: World, port: int) -> None:
    with pytest.raises(Invalid) as refused:
        async with serving(world.health, "127.0.0.1", port):
            raise AssertionError("served twice")
    assert (refused.value.code, str(port) in refused.value.message) == ("health_port_taken", True)


async def test_it_is_gone_after_the_block(world: World) -> None:
    async with serving(world.health, "127.0.0.1", 0) as port:
        assert (await asyncio.to_thread(fetched, port, "/live"))[0] == 200
    with pytest.raises(urllib.error.URLError):
        await asyncio.to_thread(fetched, port, "/live")
    assert [each.name for each in threading.enumerate() if each.name == "health"] == []
