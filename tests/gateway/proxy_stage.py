"""A stage for the proxy's tests: a real dev server, the proxy in front of it, and clients, all on real sockets."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import psutil
from aiohttp import web

from services.gateway.adapters.activity import Activity
from services.gateway.adapters.preview_target import Through
from services.gateway.adapters.proxy import (
    Holding,
    PreviewProxy,
    ProxyConfig,
    Resolver,
    Upstream,
    Upstreams,
    runner_options,
)
from shared.agent.protocol import AgentProblem
from shared.agent.tunnel import Tunnels
from shared.reach import Reach
from shared.secrets import agent_token

PREVIEW = "01jd2e8c4mqv9tq5w3x7y8z9ab"
HOST = f"{PREVIEW}.preview.localhost:8080"
LOOPBACK = "127.0.0.1"
TIMEOUT_S = 20.0
SECRET = "5" * 64
VM = "vm-000001"

through_tunnels = False
"""Set by the fixture `each_way`: the dev server is reached through an agent's tunnels."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
FAST = ProxyConfig(
    client_check_interval_s=0.02, connect_timeout_s=2, agent_wait_s=0, ws_handshake_timeout_s=2, ws_close_timeout_s=0.5
)


class Stage:
    """What a test holds: the proxy's port, the dev server's port, and an HTTP client that visits the preview."""

    def __init__(self, proxy: PreviewProxy, client: aiohttp.ClientSession, port: int, upstream_port: int) -> None:
        self.proxy = proxy
        self.client = client
        self.port = port
        self.upstream_port = upstream_port

    @property
    def local_origin(self) -> str:
        return f"http://localhost:{self.upstream_port}"

    def url(self, path: str = "/") -> str:
        return f"http://{LOOPBACK}:{self.port}{path}"

    async def raw(self, request: bytes) -> bytes:
        """Everything that comes back for these bytes until the proxy closes the connection."""
        reader, writer = await asyncio.open_connection(LOOPBACK, self.port)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                writer.write(request)
                await writer.drain()
                return await reader.read()
        finally:
            writer.close()


@asynccontextmanager
async def stage(
    handler: Handler | None = None,
    *,
    holding: Holding | None = None,
    upstream_port: int | None = None,
    config: ProxyConfig = FAST,
    upstream_host: str = LOOPBACK,
    wake: Resolver | None = None,
    through: Through | None = None,
) -> AsyncIterator[Stage]:
    """The proxy before a dev server made of `handler` (on `upstream_host`), or before whatever listens on
    `upstream_port`, or held."""
    async with AsyncExitStack() as stack:
        port = upstream_port or 0
        if handler is not None:
            port = await _serve(stack, handler, upstream_host)

        async def resolve(preview_id: str, request: web.Request) -> Upstream | Holding:
            if preview_id != PREVIEW:
                return Holding("unknown", preview_id)
            return holding or Upstream(preview_id, upstream_host, port, through=way)

        way = await tunnels(stack) if through_tunnels else through
        upstreams = await stack.enter_async_context(Upstreams(config, SECRET))
        proxy = PreviewProxy(resolve, wake or resolve, Activity(), config=config, upstreams=upstreams)
        own_port = await _serve(stack, proxy.handle, LOOPBACK, **runner_options(config))
        client = await stack.enter_async_context(
            aiohttp.ClientSession(
                headers={"Host": HOST},
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            )
        )
        yield Stage(proxy, client, own_port, port)


async def tunnels(stack: AsyncExitStack) -> Through:
    """The tunnels of an agent whose VM is this process: they lead to what it listens on itself."""
    inside = Tunnels(lambda: [psutil.Process()], lambda: None)

    async def serve(request: web.Request) -> web.StreamResponse:
        assert request.headers["Authorization"] == f"Bearer {agent_token(SECRET, VM)}"
        assert (request.headers["X-Drape-Lease"], request.headers["x-instance"]) == ("7", "a")
        try:
            return await inside.serve(request, lambda: None)
        except AgentProblem as problem:
            return web.json_response(msgspec.to_builtins(problem.body), status=problem.status)

    application = web.Application()
    application.add_routes([web.get("/tunnel/{port}", serve)])
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, LOOPBACK, 0).start()
    reach = Reach(tunnel=True, headers=(("x-instance", "a"),))
    return Through(VM, LOOPBACK, int(runner.addresses[0][1]), 7, reach)


async def _serve(stack: AsyncExitStack, answer: Handler, host: str, **options: Any) -> int:
    @web.middleware
    async def everything(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await answer(request)

    runner = web.AppRunner(web.Application(middlewares=[everything]), access_log=None, shutdown_timeout=0.1, **options)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, host, 0).start()
    return int(runner.addresses[0][1])


@asynccontextmanager
async def raw_server(
    talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    """A server that speaks whatever `talk` writes, for answers that no honest server gives. Yields its port."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await talk(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(connected, LOOPBACK, 0)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()


def free_port_refusing() -> int:
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
