"""A gateway that is stopped: nobody is refused or cut off, and its clients go where they miss nothing."""

import asyncio
from typing import Any

import aiohttp
import msgspec
import pytest

from services.gateway.adapters.feed import Feed
from services.gateway.adapters.history import History
from services.gateway.config import GatewayConfig
from services.gateway.state import State
from shared.runtime import Runtime
from tests.builders import (
    OWNER,
    PREVIEW,
    dev_server_started,
    files_synced,
    preview_requested,
    project_created,
    vm_acquired,
)
from tests.gateway.api_stage import TOKEN, ApiStage, api_stage, tar_of, until

PAST = (project_created(), preview_requested(), vm_acquired(), files_synced())

Json = dict[str, Any]


def feed_of(stage: ApiStage, **knobs: Any) -> Feed:
    """As of a gateway that has just started: it remembers nothing."""
    runtime: Runtime[State] = stage.runtime
    config = GatewayConfig(**knobs)
    past = History(stage.bus.log, lambda: runtime.seq, runtime.catch_up, config.recent_messages_max, 1)
    feed = Feed(lambda: runtime.state, lambda: runtime.seq, config, stage.bus.seals, history=past)
    runtime.on_folded.append(feed.on_event)
    return feed


async def heard(feed: Feed, since: int | None) -> list[Json]:
    """What a client gets at once."""
    older = await feed.before(since)
    with feed.subscribe(OWNER, since=since, older=older) as subscriber:
        return [subscriber.queue.get_nowait() for _ in range(subscriber.queue.qsize())]


async def test_changes_from_before_the_start_are_read_from_the_log() -> None:
    """Each once, in order, then those that are remembered; the state says that nothing is missing."""
    async with api_stage(*PAST) as stage:
        feed = feed_of(stage)
        await stage.record(dev_server_started())
        state, *changes = await heard(feed, 1)
        assert not state["missed"]
        assert [(each["seq"], each["event"]) for each in changes] == [
            *((2, "PreviewRequested"), (3, "VmAcquired"), (4, "FilesSynced"), (5, "DevServerStarted"))
        ]
        assert [each["seq"] for each in (await heard(feed, 4))[1:]] == [5]
        assert [each["type"] for each in await heard(feed, 5)] == ["state"]
        assert [each["type"] for each in await heard(feed, None)] == ["state"]


async def test_more_than_is_read_is_said_to_be_missed() -> None:
    """The state is whole all the same, and so is what is remembered."""
    async with api_stage(*PAST) as stage:
        feed = feed_of(stage, recent_messages_max=2)
        await stage.record(dev_server_started())
        state, *changes = await heard(feed, 0)
        assert state["missed"]
        assert [each["preview_id"] for each in state["previews"]] == [PREVIEW]
        assert [each["seq"] for each in changes] == [5]


async def test_more_changes_than_a_client_may_have_waiting_do_not_drop_it() -> None:
    """What it comes back for does not count as slowness, or it could never come back."""
    async with api_stage(*PAST) as stage:
        feed = feed_of(stage, websocket_queue_max=1)
        assert len(await heard(feed, 0)) == 1 + len(PAST)


async def test_a_client_that_knows_more_than_this_replica_waits_for_it() -> None:
    """It heard of it through another gateway; here it would come a second time."""
    async with api_stage(*PAST) as stage:
        feed = feed_of(stage)
        stage.broker.record(dev_server_started())
        known = len(stage.broker.records)
        assert stage.runtime.seq < known
        assert [(each["type"], each["seq"]) for each in await heard(feed, known)] == [("state", known)]


async def test_clients_of_a_gateway_that_ends_are_told_to_come_again() -> None:
    """WebSockets by 1012, event streams by their end; a request that is under way is answered."""
    stopping = asyncio.Event()
    codes: list[int | None] = []
    headers = {"Authorization": f"Bearer {TOKEN}"}

    async def browser(stage: ApiStage) -> None:
        async with stage.session.ws_connect(f"{stage.url}/ws", headers=headers) as socket:
            assert msgspec.json.decode((await socket.receive()).data)["type"] == "state"
            connected.release()
            assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
            codes.append(socket.close_code)

    async def reader(stage: ApiStage) -> None:
        async for _ in stage.sse(f"/api/previews/{PREVIEW}/events"):
            connected.release()

    async def uploader(stage: ApiStage) -> int:
        async def body() -> Any:
            whole = tar_of({"index.html": "x" * 100})
            yield whole[:512]
            connected.release()
            await stopping.wait()
            yield whole[512:]

        path = f"{stage.url}/api/projects/{project_id}/files"
        tar = {**headers, "Content-Type": "application/x-tar"}
        async with stage.session.put(path, data=body(), headers=tar) as response:
            return response.status

    connected = asyncio.Semaphore(0)
    async with api_stage(*PAST) as stage:
        project_id = await stage.project()
        tasks = [asyncio.create_task(each(stage)) for each in (browser, reader, uploader)]
        for _ in tasks:
            await connected.acquire()
        drained = asyncio.create_task(stage.runtime.drain())
        await until(lambda: codes)
        with pytest.raises(aiohttp.ClientConnectorError):
            async with aiohttp.ClientSession() as other:
                await other.get(f"{stage.url}/health")
        stopping.set()
        results = await asyncio.gather(*tasks)
        await drained
        assert codes == [aiohttp.WSCloseCode.SERVICE_RESTART]
        assert results[-1] == 200
