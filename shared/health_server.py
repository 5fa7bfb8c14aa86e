"""Answers for a process's health over HTTP, from a thread of its own: a loop that stands still can't say so itself."""

import asyncio
import concurrent.futures
import logging
import socket
import threading
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from shared.errors import Invalid
from shared.gauges import Gauge
from shared.health import Answer, Health

log = logging.getLogger("drape.health")
T = TypeVar("T")

LOOP_TIMEOUT_S = 0.9
"""For an answer of the service's loop: below the second that probes wait by default."""
CONNECTIONS_MAX = 64
"""Beyond that the oldest is closed: what came and never asked keeps no probe out."""
BACKLOG = 16
"""So many are accepted at a time, before they are counted."""
KEEPALIVE_S = 15.0
CLOSE_TIMEOUT_S = 2.0
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@asynccontextmanager
async def serving(health: Health, host: str, port: int) -> AsyncIterator[int]:
    """Answers until the block ends; gives the port, another one than asked for where that was 0. Raises `Invalid`
    (`health_port_taken`)."""
    listener = _listening(host, port)
    server = _Server(health, listener, asyncio.get_running_loop())
    beating = asyncio.create_task(health.beating(), name="health-beat")
    thread = threading.Thread(target=asyncio.run, args=(server.run(),), name="health", daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        beating.cancel()
        await asyncio.wait({beating})
        server.stop()
        await asyncio.to_thread(thread.join, CLOSE_TIMEOUT_S)


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise Invalid(
            "health_port_taken",
            f"Health can't be served on {host}:{port}: {error.strerror or error}.",
            "DRAPE_HEALTH_PORT names another port; two processes of one machine need one each.",
        ) from error


class _Server:
    """The thread's side."""

    def __init__(self, health: Health, listener: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        self._health = health
        self._listener = listener
        self._loop = loop
        self._own: asyncio.AbstractEventLoop | None = None
        self._ended = threading.Event()
        self._end: asyncio.Event | None = None

    async def run(self) -> None:
        self._own, self._end = asyncio.get_running_loop(), asyncio.Event()
        if self._ended.is_set():
            self._end.set()
        application = web.Application()
        application.add_routes(
            [
                web.get("/live", self._live),
                web.get("/startup", self._startup),
                web.get("/ready", self._ready),
                web.get("/metrics", self._metrics),
            ]
        )
        runner = web.AppRunner(
            application, access_log=None, handle_signals=False, shutdown_timeout=0.5, keepalive_timeout=KEEPALIVE_S
        )
        await runner.setup()
        assert runner.server is not None
        server = await self._own.create_server(self._bounded(runner.server), sock=self._listener, backlog=BACKLOG)
        try:
            await self._end.wait()
        finally:
            server.close()
            await runner.cleanup()

    def stop(self) -> None:
        """From the service's thread."""
        self._ended.set()
        if self._own is not None and self._end is not None and not self._own.is_closed():
            self._own.call_soon_threadsafe(self._end.set)

    def _bounded(self, server: web.Server) -> Any:
        def protocol() -> asyncio.Protocol:
            connections = server.connections
            for oldest in connections[: max(0, len(connections) - CONNECTIONS_MAX + 1)]:
                oldest.force_close()
            return server()

        return protocol

    async def _live(self, _request: web.Request) -> web.Response:
        return _response(self._health.live())

    async def _startup(self, _request: web.Request) -> web.Response:
        return _response(self._health.startup())

    async def _ready(self, _request: web.Request) -> web.Response:
        return _response(await self._asked(self._health.ready()) or self._health.busy())

    async def _metrics(self, _request: web.Request) -> web.Response:
        gauges = await self._asked(self._health.gauges())
        if gauges is None:
            return _response(self._health.busy())
        return web.Response(body=exposition(gauges), headers={"Content-Type": METRICS_TYPE})

    async def _asked(self, question: Coroutine[Any, Any, T]) -> T | None:
        """The answer of the service's loop; None where it gives none in time."""
        answer = asyncio.wrap_future(_run(question, self._loop))
        done, _ = await asyncio.wait({answer}, timeout=LOOP_TIMEOUT_S)
        if not done:
            answer.cancel()
            return None
        return answer.result()


def _run(question: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> concurrent.futures.Future[T]:
    return asyncio.run_coroutine_threadsafe(question, loop)


def _response(answer: Answer) -> web.Response:
    headers = {"Cache-Control": "no-store"}
    body = msgspec.json.encode(answer.body)
    return web.Response(body=body, status=answer.status, content_type="application/json", headers=headers)


class _Collected(Collector):
    """Gauges as the library wants them: grouped by name."""

    def __init__(self, gauges: list[Gauge]) -> None:
        self._gauges = gauges

    def collect(self) -> list[GaugeMetricFamily]:
        families: dict[str, GaugeMetricFamily] = {}
        for each in self._gauges:
            if each.name not in families:
                families[each.name] = GaugeMetricFamily(each.name, each.help, labels=list(each.labels))
            families[each.name].add_metric(list(each.labels.values()), each.value)
        return list(families.values())


def exposition(gauges: list[Gauge]) -> bytes:
    """Prometheus's text format."""
    registry = CollectorRegistry()
    registry.register(_Collected(gauges))
    return generate_latest(registry)
