"""`GET /tunnel/{port}`: a raw connection, through the agent's own port, to a server that a job of this VM has on loopback.

After `101 Switching Protocols` the bytes of both sides pass as they are, each side's end as an end, a reset as a reset. Only
ports that a job's processes listen on can be reached: not the agent's own, and none of another VM. Nothing may be sent
before the 101.
"""

import asyncio
import contextlib
import logging
import socket
import struct
import time
from collections.abc import Callable, Collection
from typing import TypeAlias

import msgspec
import psutil
from aiohttp import web

from .ports import Listener, PortScanner
from .protocol import TUNNEL_UPGRADE, AgentProblem

log = logging.getLogger("drape.agent.tunnel")

_ACCEPTED = f"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {TUNNEL_UPGRADE}\r\n\r\n".encode()
Ends: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, for 0 s


class TunnelLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Every bound of the tunnels of a VM."""

    tunnels_max: int = 384
    """Each takes two descriptors; more than what one gateway opens to one preview (256)."""
    connect_timeout_s: float = 5.0
    found_for_s: float = 5.0
    """A port that a job was found to listen on may be reached so long without another look; a look costs milliseconds."""
    idle_timeout_s: float = 7200.0
    """Without a byte in either direction. Longer than the gateway's own limit, which is the one that is meant to end it."""
    half_closed_idle_s: float = 30.0
    """The same once one side has ended: who asked may have gone, and what was asked not care."""
    buffer_bytes: int = 64 * 1024
    """What one direction holds before its sender has to wait, twice at most."""
    close_timeout_s: float = 5.0
    """How long what was sent last may take to leave."""


class Tunnels:
    """All tunnels of one VM. `members`: the processes whose ports may be reached (called in a thread); `heard`: called
    when bytes come from the control plane's side."""

    def __init__(
        self,
        members: Callable[[], list[psutil.Process]],
        heard: Callable[[], None],
        limits: TunnelLimits | None = None,
    ) -> None:
        self._scanner = PortScanner(members)
        self._scanning = asyncio.Lock()
        self._heard = heard
        self._limits = limits or TunnelLimits()
        self._open = 0
        self._found: tuple[Listener, ...] = ()
        self._found_s = float("-inf")

    async def serve(self, request: web.Request, still_held: Callable[[], None]) -> web.StreamResponse:
        """Serve one tunnel to its end. `still_held`: raises once the VM is no longer held by who asks.

        Raises AgentProblem before anything was sent: upgrade_required (426), request_invalid (400), tunnels_full (503),
        port_not_listening (409), port_unreachable (502).
        """
        port = _port_of(request)
        if self._open >= self._limits.tunnels_max:
            raise AgentProblem(
                503,
                "tunnels_full",
                f"{self._open} tunnels lead into this VM, as many as may.",
                "Try again in a moment.",
            )
        self._open += 1
        try:
            server = await self._dial(port)
            try:
                still_held()
                return await self._serve(request, server, port)
            finally:
                await self._close(server[1])
        finally:
            self._open -= 1

    async def _dial(self, port: int) -> Ends:
        stale = time.monotonic() - self._found_s > self._limits.found_for_s
        for look in (True,) if stale else (False, True):
            listeners = await self._scan() if look else self._found
            hosts = next((each.hosts for each in listeners if each.port == port), ())
            for host in hosts:
                with contextlib.suppress(OSError):  # TimeoutError too
                    async with asyncio.timeout(self._limits.connect_timeout_s):
                        return await asyncio.open_connection(host, port, limit=self._limits.buffer_bytes)
        if hosts:
            raise AgentProblem(502, "port_unreachable", f"Port {port} takes no connection.", "Try again in a moment.")
        raise AgentProblem(
            409,
            "port_not_listening",
            f"No job of this VM listens on port {port}.",
            "Look at the preview's log: its dev server may have ended, or listen elsewhere.",
        )

    async def _scan(self) -> tuple[Listener, ...]:
        begun_s = time.monotonic()
        async with self._scanning:
            if (
                self._found_s < begun_s
            ):  # where we waited for another's look, that one will do if it began after we asked
                looked_s = time.monotonic()
                self._found = await asyncio.to_thread(self._scanner.scan)
                self._found_s = looked_s
            return self._found

    async def _serve(self, request: web.Request, server: Ends, port: int) -> web.StreamResponse:
        transport = request.transport
        answer = web.StreamResponse(status=101)
        if transport is None or transport.is_closing():
            return answer  # who asked has gone
        # Before the answer leaves: what comes after it must not be read as HTTP.
        reader, writer = _taken_over(transport, self._limits.buffer_bytes)
        try:
            writer.write(_ACCEPTED)
            whole = await self._join((reader, writer), server)
            if not whole:
                _reset(writer)
                _reset(server[1])
        finally:
            # Until it is closed: aiohttp would write its own answer to a connection that is still there.
            await self._close(writer)
        log.debug("a tunnel has ended", extra={"port": port, "whole": whole})
        return answer

    async def _join(
        self,
        client: Ends,
        server: Ends,
    ) -> bool:
        """Pass bytes both ways until both sides have ended; False where one broke off, or nothing has moved for too long."""
        loop = asyncio.get_running_loop()
        moved_at = loop.time()

        async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: Callable[[], None]) -> None:
            nonlocal moved_at
            while chunk := await reader.read(self._limits.buffer_bytes):
                heard()
                writer.write(chunk)
                await writer.drain()
                moved_at = loop.time()
            writer.write_eof()
            moved_at = loop.time()

        pumps = {
            asyncio.create_task(pump(client[0], server[1], self._heard), name="tunnel in"),
            asyncio.create_task(pump(server[0], client[1], _nothing), name="tunnel out"),
        }
        pending = pumps
        try:
            while pending and (left_s := moved_at + self._patience_s(pending) - loop.time()) > 0:
                done, pending = await asyncio.wait(pending, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                if any(task.exception() is not None for task in done):
                    break
        finally:
            for task in pending:
                task.cancel()
            outcomes = await asyncio.gather(*pumps, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception) and not isinstance(outcome, OSError):
                raise outcome
        return all(outcome is None for outcome in outcomes)

    def _patience_s(self, pending: Collection[object]) -> float:
        return self._limits.idle_timeout_s if len(pending) == 2 else self._limits.half_closed_idle_s

    async def _close(self, writer: asyncio.StreamWriter) -> None:
        writer.close()
        try:
            async with asyncio.timeout(self._limits.close_timeout_s):
                await writer.wait_closed()
        except OSError:  # TimeoutError too: the other side takes nothing any more
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


class _TakenOver(asyncio.StreamReaderProtocol):
    """The connection's protocol from the 101 on. aiohttp's own, which still counts the connection, learns of its end."""

    def __init__(self, reader: asyncio.StreamReader, before: asyncio.BaseProtocol) -> None:
        super().__init__(reader)
        self._before = before

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._before.connection_lost(exc)


def _taken_over(transport: asyncio.Transport, buffer_bytes: int) -> Ends:
    reader = asyncio.StreamReader(limit=buffer_bytes)
    protocol = _TakenOver(reader, transport.get_protocol())
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    return reader, asyncio.StreamWriter(transport, protocol, reader, asyncio.get_running_loop())


def _port_of(request: web.Request) -> int:
    if request.headers.get("Upgrade", "").lower() != TUNNEL_UPGRADE:
        raise AgentProblem(
            426,
            "upgrade_required",
            "This is no tunnel's request.",
            f"Send `Connection: Upgrade` and `Upgrade: {TUNNEL_UPGRADE}`.",
        )
    text = request.match_info["port"]
    port = int(text) if text.isascii() and text.isdecimal() and len(text) <= 5 else 0
    if not 0 < port < 65536 or request.can_read_body:
        raise AgentProblem(
            400, "request_invalid", "A tunnel leads to a port from 1 to 65535, and its request has no body."
        )
    return port


def _reset(writer: asyncio.StreamWriter) -> None:
    """A plain close would make half an answer look whole."""
    sock = writer.get_extra_info("socket")
    if sock is not None and not writer.transport.is_closing():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()


def _nothing() -> None:
    """The dev server's bytes are no sign of the control plane."""
