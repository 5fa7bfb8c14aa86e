"""Requests for a preview that is suspended: held while it wakes, then answered by its dev server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any

import msgspec
from aiohttp import web

from services.gateway.adapters.preview_target import Holding, Upstream
from services.gateway.adapters.resolver import PROBE_HEADER
from shared.commands import ResumePreview
from shared.errors import NotFound, Unavailable
from shared.events import DevServerReady, Event
from shared.secrets import probe_token
from tests.builders import PREVIEW, dev_server_ready, preview_ready, preview_stopped, preview_suspended, story
from tests.gateway.api_stage import SECRET, TIMEOUT_S, ApiStage, api_stage, until
from tests.gateway.proxy_stage import FAST, LOOPBACK, stage
from tests.gateway.proxy_stage import PREVIEW as PROXIED

HOST = f"{PREVIEW}.preview.localhost"


async def _answer(request: web.Request) -> web.StreamResponse:
    """A dev server: echoes a socket's messages, answers a body's hash, and `/slow` once its gate is open."""
    if request.headers.get("Upgrade"):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data)
        return socket
    if request.path == "/slow":
        request.app[GATE].asked.set()
        await request.app[GATE].opened.wait()
    return web.Response(text=sha256(await request.read()).hexdigest())


class Gate:
    def __init__(self) -> None:
        self.asked, self.opened = asyncio.Event(), asyncio.Event()


GATE = web.AppKey("gate", Gate)


@asynccontextmanager
async def sleeping(*more: Event, asleep: bool = True, **knobs: Any) -> AsyncIterator[tuple[ApiStage, Gate]]:
    """A gateway before a preview that is suspended, and the gate of its dev server."""
    app = web.Application()
    gate = app[GATE] = Gate()
    app.router.add_route("*", "/{path:.*}", _answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, LOOPBACK, 0).start()
    where: DevServerReady = msgspec.structs.replace(dev_server_ready(), port=int(runner.addresses[0][1]))
    past = [*story("booting"), where, preview_ready(), *([preview_suspended()] if asleep else []), *more]
    try:
        async with api_stage(*past, **knobs) as on:
            yield on, gate
    finally:
        gate.opened.set()
        await runner.cleanup()


async def ask(
    on: ApiStage, path: str = "/", *, method: str = "GET", body: bytes = b"", headers: dict[str, str] | None = None
) -> Any:
    """(status, headers, text) of a request to the preview's host."""
    given = {"Host": HOST, **(headers or {})}
    async with on.session.request(method, on.url + path, data=body or None, headers=given) as response:
        return response.status, response.headers, await response.text()


def wishes(on: ApiStage) -> list[str]:
    return [each.preview_id for each in on.commands if isinstance(each, ResumePreview)]


async def test_requests_are_held_until_it_is_awake_and_wake_it_once() -> None:
    """Ten at once: one wish, and ten answers of the dev server, each body whole."""
    bodies = [bytes([number]) * 200_000 for number in range(10)]
    async with sleeping() as (on, _):
        on.may_wake.clear()
        held = [asyncio.create_task(ask(on, method="POST", body=body)) for body in bodies]
        await until(lambda: wishes(on))
        done, _ = await asyncio.wait(held, timeout=0.05)
        assert not done

        on.may_wake.set()

        answers = await asyncio.gather(*held)
        assert [(status, text) for status, _, text in answers] == [(200, sha256(body).hexdigest()) for body in bodies]
        assert wishes(on) == [PREVIEW]


async def test_a_socket_wakes_it() -> None:
    async with (
        sleeping() as (on, _),
        on.session.ws_connect(on.url, headers={"Host": HOST}) as socket,
    ):
        await socket.send_str("hello")
        assert await socket.receive_str(timeout=TIMEOUT_S) == "hello"
        assert wishes(on) == [PREVIEW]


async def test_a_preview_that_does_not_wake_in_time_is_said_to_be_waking() -> None:
    """503 with Retry-After: as a page for people, as a problem for programs."""
    async with sleeping(wake_wait_s=0.1) as (on, _):
        on.may_wake.clear()
        status, headers, text = await ask(on, headers={"Accept": "text/html"})
        assert (status, headers["Retry-After"], "waking up" in text) == (503, "1", True)
        status, _, text = await ask(on)
        assert (status, msgspec.json.decode(text)["code"]) == (503, "preview_suspended")


async def test_an_orchestrator_that_is_away_is_asked_again() -> None:
    async with sleeping(wake_retry_s=0.01) as (on, _):
        on.faults.append(Unavailable("service_silent", "away"))
        assert (await ask(on))[0] == 200
        assert wishes(on) == [PREVIEW] * 2


async def test_a_refusal_ends_the_waiting() -> None:
    async with sleeping() as (on, _):
        on.faults.append(NotFound("preview_not_found", "unknown"))
        assert (await ask(on))[0] == 503
        assert wishes(on) == [PREVIEW]


async def test_one_that_is_stopped_meanwhile_says_so() -> None:
    async with sleeping(wake_wait_s=TIMEOUT_S) as (on, _):
        on.may_wake.clear()
        held = asyncio.create_task(ask(on))
        await until(lambda: wishes(on))
        await on.record(preview_stopped())
        on.may_wake.set()
        assert (await held)[0] == 410


async def test_the_platforms_own_looks_wake_nothing() -> None:
    """The page that waits asks for the status, the orchestrator's probe for the page."""
    async with sleeping() as (on, _):
        told: list[str] = []
        await on.bus.activity.subscribe(told.append)
        status, _, text = await ask(on, "/__drape/status")
        assert (status, msgspec.json.decode(text)["status"]) == (200, "suspended")
        assert (await ask(on, "/__drape/assets/holding.js"))[0] == 200
        assert (await ask(on, headers={PROBE_HEADER: probe_token(SECRET, PREVIEW)}))[0] == 503
        assert wishes(on) == []


async def test_what_is_open_when_it_falls_asleep_wakes_it() -> None:
    """The request came before the gateway could know; nobody has to ask again."""
    async with sleeping(asleep=False) as (on, gate):
        slow = asyncio.create_task(ask(on, "/slow"))
        await gate.asked.wait()
        await on.record(preview_suspended())
        await until(lambda: wishes(on))
        gate.opened.set()
        assert (await slow)[0] == 200


async def test_requests_that_are_held_count_among_those_that_may_be_open() -> None:
    """One may be: the second is refused while the first waits."""
    waits, may_wake = asyncio.Event(), asyncio.Event()

    async def wake(preview_id: str, request: web.Request) -> Upstream | Holding:
        waits.set()
        await may_wake.wait()
        return Holding("suspended", preview_id)

    one = msgspec.structs.replace(FAST, connections_per_preview_max=1)
    async with stage(holding=Holding("suspended", PROXIED), config=one, wake=wake) as on:

        async def visit() -> int:
            async with on.client.get(on.url()) as response:
                await response.read()
                return response.status

        first = asyncio.create_task(visit())
        await waits.wait()
        async with on.client.get(on.url()) as response:
            assert (response.status, (await response.json(content_type=None))["code"]) == (503, "preview_busy")
        may_wake.set()
        assert await first == 503
