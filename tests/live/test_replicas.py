"""Two processes of each service: one may be killed, stopped or replaced, and nobody who uses the platform notices."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import msgspec
import pytest

from deploy.cli.platform import each_replica
from deploy.local.options import SERVICES
from shared.codec import Recorded
from shared.events import PreviewEvent, VmAcquired, VmReleased
from shared.jetstream.connection import connect
from tests.deploy.waiting import eventually
from tests.live.client import READY_TIMEOUT_S, Client, node_project
from tests.live.platform import Platform
from tests.live.servers import servers_beside

SCRIPT = """
import http from "node:http";
http.createServer((_, answer) => answer.end("hello from two")).listen(process.env.PORT, "127.0.0.1");
"""
PROJECT = node_project(SCRIPT)
START_TIMEOUT_S = 150.0
RESTARTED_TIMEOUT_S = 120.0
MISSED_TIMEOUT_S = 20.0

Json = dict[str, Any]


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Two of each service, one warm VM, on servers of the session's kind."""
    with servers_beside() as servers:
        env = {"DRAPE_ORCHESTRATOR_SUSPEND_AFTER_S": "0", **servers}
        platform = Platform(tmp_path_factory.mktemp("twice") / "home", env)
        try:
            # Twice as many processes as elsewhere start at once.
            ran = platform.run("up", "--detach", "--json", "--port", "0", "--replicas", "2", timeout_s=START_TIMEOUT_S)
            assert ran.code == 0, f"{ran.out}\n{ran.err}"
            yield platform
        finally:
            platform.down()


@pytest.fixture
async def client(twice: Platform) -> AsyncIterator[Client]:
    """A user who makes a connection for each request, as many users do."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        yield Client(twice.gateway, session)


async def until_ready(client: Client, preview_id: str) -> None:
    """Looks until the preview is ready: a gateway that is killed under a stream ends it."""

    async def is_ready() -> bool:
        with suppress(aiohttp.ClientError, OSError):
            view = await client.preview(preview_id)
            assert view["status"] not in ("failed", "stopped"), view["error"]
            return bool(view["status"] == "ready")
        return False

    await eventually(is_ready, timeout_s=READY_TIMEOUT_S)


async def replicas(platform: Platform) -> dict[str, list[int]]:
    """The process ids that say that they are ready, by service."""
    client = await connect(platform.status.nats, "drape-live-replicas")
    try:
        told = [each for each in await each_replica(client) if each["ready"]]
    finally:
        await client.close()
    return {name: [each["pid"] for each in told if each["service"] == name] for name in SERVICES}


async def all_there(platform: Platform) -> dict[str, list[int]]:
    """Returns once two of each service are ready, with their process ids."""
    found: dict[str, list[int]] = {}

    async def two_each() -> bool:
        found.update(await replicas(platform))
        return all(len(pids) == 2 for pids in found.values())

    await eventually(two_each, timeout_s=RESTARTED_TIMEOUT_S)
    return found


def held_once(events: list[Recorded]) -> None:
    """No preview holds two VMs, no VM two previews."""
    holder: dict[str, str] = {}
    for recorded in events:
        match recorded.event:
            case VmAcquired(vm_id=vm_id, preview_id=preview_id):
                assert vm_id not in holder, f"seq {recorded.seq}: {vm_id} is held by two"
                assert preview_id not in holder.values(), f"seq {recorded.seq}: {preview_id} holds two"
                holder[vm_id] = preview_id
            case VmReleased(vm_id=vm_id):
                holder.pop(vm_id, None)


class Follower:
    """A browser's WebSocket: comes back with `since` whenever the socket ends."""

    def __init__(self, client: Client, project_id: str) -> None:
        self._client = client
        self._project_id = project_id
        self.seq: int | None = None
        self.heard: list[tuple[int, str]] = []
        self.codes: list[int | None] = []

    @asynccontextmanager
    async def following(self) -> AsyncIterator["Follower"]:
        task = asyncio.create_task(self._follow())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            since = "" if self.seq is None else f"&since={self.seq}"
            url = f"{self._client.gateway}/ws?project={self._project_id}{since}"
            async with self._client.session.ws_connect(url) as socket:
                async for message in socket:
                    self._take(msgspec.json.decode(message.data))
                self.codes.append(socket.close_code)

    def _take(self, message: Json) -> None:
        if message["type"] == "state":
            assert not message["missed"]
        if message["type"] == "preview":
            self.heard.append((message["seq"], message["event"]))
        self.seq = max(self.seq or 0, message.get("seq", 0))


class Load:
    """Requests without a pause, of each kind; whatever is not answered as it should be is kept."""

    def __init__(self, client: Client, project_id: str, preview_id: str) -> None:
        self._client = client
        self._project_id = project_id
        self._preview_id = preview_id
        self.answered = 0
        self.wrong: list[str] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Load"]:
        tasks = [asyncio.create_task(self._for_ever(each)) for each in (self._page, self._view, self._make, self._ask)]
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _for_ever(self, once: Any) -> None:
        while True:
            try:
                await once()
                self.answered += 1
            except (AssertionError, aiohttp.ClientError, OSError, TimeoutError) as error:
                self.wrong.append(f"{once.__name__}: {error!r}")

    async def _page(self) -> None:
        answer = await self._client.visit(self._preview_id)
        assert (answer.status, answer.text) == (200, "hello from two"), answer.text[:300]

    async def _view(self) -> None:
        answer = await self._client.call("GET", f"/api/previews/{self._preview_id}")
        assert answer.status == 200, answer.text
        assert answer.json["status"] == "ready", answer.text

    async def _make(self) -> None:
        """Made through one gateway, seen through another."""
        made = await self._client.call("POST", "/api/projects", json={"name": "load"})
        assert made.status == 201, made.text
        seen = await self._client.call("GET", f"/api/projects/{made.json['project_id']}")
        assert seen.status == 200, seen.text
        gone = await self._client.call("DELETE", f"/api/projects/{made.json['project_id']}")
        assert gone.status == 204, gone.text

    async def _ask(self) -> None:
        """A command to the orchestrator, which has the preview already."""
        asked = await self._client.call("POST", "/api/previews", json={"project_id": self._project_id})
        assert asked.status == 200, asked.text
        assert asked.json["preview_id"] == self._preview_id


async def test_rollout_under_load_refuses_no_request_and_loses_no_preview(twice: Platform, client: Client) -> None:
    """All processes are new afterwards; a follower has had every change once, in order, and was told to come again."""
    await all_there(twice)
    project_id = await client.project(PROJECT)
    follower = Follower(client, project_id)
    async with follower.following():
        await eventually(lambda: follower.seq is not None)
        preview_id = await client.request_preview(project_id)
        await until_ready(client, preview_id)
        before = await replicas(twice)
        async with Load(client, project_id, preview_id).running() as load:
            ran = await twice.drape("rollout", "--json")
        assert ran.code == 0, f"{ran.out}\n{ran.err}"
        assert ran.last["processes"] == [f"{name}{number}" for name in SERVICES for number in ("", "-1")]
        assert load.wrong == []
        assert load.answered > 100

        after = await all_there(twice)
        assert all(len(pids) == 2 and not set(pids) & set(before[name]) for name, pids in after.items())
        assert aiohttp.WSCloseCode.SERVICE_RESTART in follower.codes
        # Its watch was handed over: the end of the dev server is still heard of.
        await client.stop(preview_id)
        events = await twice.events(preview_id)
        wanted = [(each.seq, each.type) for each in events if isinstance(each.event, PreviewEvent | VmAcquired)]
        await eventually(lambda: len(follower.heard) >= len(wanted), timeout_s=MISSED_TIMEOUT_S)
    assert follower.heard == wanted
    assert [each.type for each in events].count("PreviewReady") == 1
    held_once(await twice.events())


@pytest.mark.parametrize("victims", [("pool", "telemetry"), ("orchestrator-1", "gateway-1")])
async def test_a_killed_replica_has_its_work_taken_over(
    twice: Platform, client: Client, victims: tuple[str, ...]
) -> None:
    """kill -9 while previews are under way: they get ready all the same, and the processes come back."""
    await all_there(twice)
    first = await client.request_preview(await client.project(PROJECT))
    for victim in victims:
        twice.kill(victim)
    second = await client.request_preview(await client.project(PROJECT))
    for preview_id in (first, second):
        await until_ready(client, preview_id)
        await client.stop(preview_id)
    await all_there(twice)
    held_once(await twice.events())


async def test_a_hung_replica_holds_up_nobody(twice: Platform, client: Client) -> None:
    """SIGSTOP of one pool, orchestrator and gateway: what they have taken goes to the others after the ack wait, what is
    sent to them is sent again; `status` and `doctor` name them. Going on, they do no harm."""
    await all_there(twice)
    names = ("pool-1", "orchestrator", "gateway-1")
    stopped = [twice.pid(name) for name in names]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        preview_id = await client.request_preview(await client.project(PROJECT))
        await until_ready(client, preview_id)
        said = await twice.drape("doctor", "--json")
        hung = {line["check"]: line["what"] for line in said.lines if line.get("code") == "replica_hung"}
        for name, pid in zip(names, stopped, strict=True):
            assert str(pid) in hung[f"replica {name}"], said.out
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    await all_there(twice)
    page = await client.visit(preview_id)
    assert (page.status, page.text) == (200, "hello from two")
    await client.stop(preview_id)
    held_once(await twice.events())
