"""The whole platform on three NATS nodes: `drape up --nats-nodes 3`."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest

from shared.jetstream.connection import connect
from shared.jetstream.topology import EVENTS
from tests.deploy.waiting import eventually
from tests.live.client import SERVER, Client, node_project
from tests.live.conftest import running
from tests.live.platform import Platform

WELL_TIMEOUT_S = 90.0


@pytest.fixture(scope="module")
def spread(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform whose log is on three nodes."""
    yield from running(tmp_path_factory.mktemp("spread") / "home", {}, "--nats-nodes", "3")


@pytest.fixture
async def user(spread: Platform) -> AsyncIterator[Client]:
    """A user of it."""
    async with aiohttp.ClientSession() as session:
        yield Client(spread.gateway, session)


async def _leader(platform: Platform) -> str:
    client = await connect(platform.status.nats, "drape-live-test")
    try:
        cluster = (await client.jetstream(timeout=5).stream_info(EVENTS)).cluster
        assert cluster is not None
        assert cluster.leader
        return str(cluster.leader)
    finally:
        await client.close()


async def test_a_preview_gets_ready_while_the_leader_of_the_log_dies(spread: Platform, user: Client) -> None:
    """kill -9 of the node that leads the events, as soon as a preview was asked for: it gets ready all the same, the node
    is started again, and what all services hold follows from the log."""
    leader = await _leader(spread)
    ready = asyncio.create_task(user.ready(node_project(SERVER)))
    try:
        async with asyncio.timeout(WELL_TIMEOUT_S):
            while not [each for each in await spread.events() if each.type == "PreviewRequested"]:
                assert not ready.done()
        spread.kill(leader)
        view = await ready
    finally:
        ready.cancel()
    assert (await user.visit(view["preview_id"])).status == 200
    await eventually(lambda: _well(spread), WELL_TIMEOUT_S)
    events = await spread.events()
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    doctor = await spread.drape("doctor", "--replay-check", "--json")
    checks = [line for line in doctor.lines if line.get("check", "").startswith("replay ")]
    assert [check["level"] for check in checks] == ["ok"] * 4, doctor.out
    await user.stop(view["preview_id"])


async def _well(platform: Platform) -> bool:
    status = (await platform.drape("status", "--json")).last
    return bool(
        status["nats_nodes"] == {"nats-1": "ok", "nats-2": "ok", "nats-3": "ok"}
        and all(each["ready"] for each in status["services"].values())
    )


async def test_the_number_of_nodes_stays(spread: Platform) -> None:
    """What three nodes made is not opened by one, with the reason; a plain `drape up` starts three again, with all of it."""
    before = (await spread.events())[-1].seq
    await asyncio.to_thread(spread.down)

    refused = await spread.drape("up", "--detach", "--port", "0", "--nats-nodes", "1", "--json")
    assert refused.code == 1
    assert refused.last["code"] == "nats_layout"
    assert "--nats-nodes 3" in refused.last["hint"]
    await asyncio.to_thread(spread.up)

    assert len(spread.status.nats.split(",")) == len(spread.status.nats_monitors) == 3
    assert (await spread.events())[-1].seq >= before
