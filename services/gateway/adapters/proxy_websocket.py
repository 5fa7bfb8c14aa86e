"""Two WebSockets joined: the browser's and the dev server's. What one says the other hears, until one of them ends.

It decides nothing about where to dial; `proxy.py` has done the handshake with the dev server before it gets here.
"""

import asyncio
from typing import Protocol

import aiohttp
import msgspec
from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

_REASON_BYTES_MAX = 123  # RFC 6455: a close frame's payload is 125 bytes, two of them the code
_NO_STATUS = 0


class Ending(msgspec.Struct, frozen=True):
    """How one side ended: the code and reason that the other side gets."""

    code: int
    reason: bytes = b""


class Socket(Protocol):
    """The part of aiohttp's two WebSocket classes that is the same."""

    async def receive(self, timeout: float | None = None) -> WSMessage: ...
    async def send_str(self, data: str) -> None: ...
    async def send_bytes(self, data: bytes) -> None: ...
    async def ping(self, message: bytes = b"") -> None: ...
    async def pong(self, message: bytes = b"") -> None: ...
    async def close(self, *, code: int = WSCloseCode.OK, message: bytes = b"") -> bool: ...


class BrowserSocket(web.WebSocketResponse):
    """The browser's end, announcing nothing of the gateway in its handshake."""

    async def _prepare_headers(self) -> None:
        await super()._prepare_headers()
        self.headers.pop("Server", None)


async def join(
    browser: web.WebSocketResponse, server: aiohttp.ClientWebSocketResponse, *, close_timeout_s: float
) -> None:
    """Carry messages both ways until one side ends, then end the other with the same code. A lost peer is no error."""
    up = asyncio.ensure_future(_carry(browser, server, lost=Ending(WSCloseCode.GOING_AWAY)))
    down = asyncio.ensure_future(
        _carry(server, browser, lost=Ending(WSCloseCode.INTERNAL_ERROR, b"the dev server went away"))
    )
    try:
        done, _ = await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        ending = done.pop().result()
    finally:
        for task in (up, down):
            task.cancel()
        await asyncio.gather(up, down, return_exceptions=True)
    try:
        async with asyncio.timeout(close_timeout_s):
            await asyncio.gather(_close(browser, ending), _close(server, ending))
    except TimeoutError:
        return  # aiohttp drops the connection of a cancelled close


async def _carry(source: Socket, target: Socket, *, lost: Ending) -> Ending:
    """One direction. Returns how `source` ended, or how the connection to `target` did."""
    while True:
        message = await source.receive()
        try:
            match message.type:
                case WSMsgType.TEXT:
                    await target.send_str(message.data)
                case WSMsgType.BINARY:
                    await target.send_bytes(message.data)
                case WSMsgType.PING:
                    await target.ping(message.data)
                case WSMsgType.PONG:
                    await target.pong(message.data)
                case WSMsgType.CLOSE:
                    return _ending(message)
                case WSMsgType.ERROR:
                    code = getattr(message.data, "code", None)
                    return Ending(code) if isinstance(code, int) else lost
                case _:
                    return lost
        except ConnectionError:
            # The target is gone; the other direction reads why, unless it has nothing more to read.
            return Ending(WSCloseCode.GOING_AWAY)


def _ending(message: WSMessage) -> Ending:
    """A close frame as it can be sent on: one without a code cannot be made with aiohttp, 1000 comes nearest."""
    code = WSCloseCode.OK if message.data == _NO_STATUS else int(message.data)
    return Ending(code, (message.extra or "").encode()[:_REASON_BYTES_MAX])


async def _close(socket: Socket, ending: Ending) -> None:
    try:
        await socket.close(code=ending.code, message=ending.reason)
    except ConnectionError:
        return
