"""Connections to a dev server that listens inside its VM alone: each through the VM's agent (`/tunnel/{port}`).

To aiohttp's client they are connections like any other: kept open, used again, upgraded to WebSockets.
"""

import asyncio
import functools
import http.client
import io
import logging
import ssl
from typing import Any, cast

import aiohttp
import msgspec
from aiohttp.client_proto import ResponseHandler

from services.gateway.adapters.preview_target import ProxyConfig, Through
from shared.agent.protocol import LEASE_HEADER, TUNNEL_UPGRADE, UNREADABLE, ErrorBody
from shared.reach import bracketed
from shared.secrets import agent_token

log = logging.getLogger("drape.proxy")

ANSWER_UNKNOWN = "tunnel_answer_unknown"
RETRY_S = 0.2
_HEAD_END = b"\r\n\r\n"
_REPLY_BYTES_MAX = 64 * 1024
"""Of the agent's answer to the request for a tunnel, or of what stands between us and it."""


class TunnelRefused(aiohttp.ClientConnectionError):
    """No tunnel. `code`: the agent's, or `tunnel_answer_unknown` where something else has answered."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class TunnelConnector(aiohttp.BaseConnector):
    """Opens every connection through one VM's agent, to one port inside the VM, whatever the request's URL names."""

    def __init__(self, through: Through, port: int, secret: str, config: ProxyConfig) -> None:
        super().__init__(limit=0, keepalive_timeout=config.upstream_keepalive_s)
        self._through = through
        self._connect_timeout_s = config.connect_timeout_s
        self._agent_wait_s = config.agent_wait_s
        self._tls = trusted() if through.reach.tls else None
        own = {
            "Host": f"{bracketed(through.host)}:{through.port}",
            **dict(through.reach.headers),
            "Authorization": f"Bearer {agent_token(secret, through.vm_id)}",
            "Connection": "Upgrade",
            "Upgrade": TUNNEL_UPGRADE,
            **({LEASE_HEADER: str(through.lease)} if through.lease else {}),
        }
        lines = [f"GET /tunnel/{port} HTTP/1.1", *(f"{name}: {value}" for name, value in own.items())]
        if any(not line.isprintable() for line in lines):
            raise ValueError("a header of the VM's reach is not printable")
        self._request = "\r\n".join(lines).encode() + _HEAD_END

    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        """A connection to the dev server, as aiohttp's pool wants it. Raises `TunnelRefused`, or what a connection to the
        agent that fails raises: after a while, since a VM that is being woken may answer nobody before it is awake.
        Nothing of the request has been sent by then, so that any may wait."""
        deadline = self._loop.time() + self._agent_wait_s
        while True:
            try:
                return await self._dial()
            except (aiohttp.ClientConnectionError, OSError) as error:
                said = isinstance(error, TunnelRefused) and error.code != ANSWER_UNKNOWN
                if said or self._loop.time() + RETRY_S > deadline:
                    raise
            await asyncio.sleep(RETRY_S)

    async def _dial(self) -> ResponseHandler:
        through = self._through
        handshake = _Handshake()
        transport: asyncio.Transport | None = None
        try:
            # Of each part: the way to the agent, and then its own way to the dev server.
            async with asyncio.timeout(self._connect_timeout_s):
                transport, _ = await self._loop.create_connection(
                    lambda: handshake, through.host, through.port, ssl=self._tls
                )
            transport.write(self._request)
            async with asyncio.timeout(2 * self._connect_timeout_s):
                await handshake.accepted
        except BaseException as error:
            if transport is not None:
                transport.abort()
            if isinstance(error, TunnelRefused):
                log.info("tunnel refused", extra={"vm_id": through.vm_id, "code": error.code})
            if isinstance(error, TimeoutError):
                raise aiohttp.ConnectionTimeoutError("The VM's agent opened no tunnel in time.") from error
            raise
        if handshake.lost:  # in between: nobody would tell the next protocol
            raise aiohttp.ServerDisconnectedError("The tunnel has ended.")
        protocol: ResponseHandler = self._factory()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if handshake.rest:
            protocol.data_received(handshake.rest)
        transport.resume_reading()
        return protocol


@functools.cache
def trusted() -> ssl.SSLContext:
    """Checks certificates by what this machine trusts, or `SSL_CERT_FILE` names. Made once: it reads them from the disk."""
    return ssl.create_default_context()


class _Handshake(asyncio.Protocol):
    """Reads the agent's answer. `accepted`: done once that is a 101; `lost`: the connection has ended."""

    def __init__(self) -> None:
        self.lost = False
        self.accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None
        self._got = bytearray()

    @property
    def rest(self) -> bytes:
        """What has come after the answer, as of now."""
        return bytes(self._got).partition(_HEAD_END)[2]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its type

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, end, rest = bytes(self._got).partition(_HEAD_END)
        if self.accepted.done():
            return
        status = _status_of(head)
        if end and status == 101:
            assert self._transport is not None
            self._transport.pause_reading()
            self.accepted.set_result(None)
        elif (end and len(rest) >= _length_of(head)) or len(self._got) > _REPLY_BYTES_MAX:
            self.accepted.set_exception(_refusal(status, rest))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if not self.accepted.done():
            head, _, rest = bytes(self._got).partition(_HEAD_END)
            if head:
                self.accepted.set_exception(_refusal(_status_of(head), rest))
            else:
                self.accepted.set_exception(
                    exc or aiohttp.ServerDisconnectedError("The VM's agent closed the connection.")
                )
        # Where nobody waits any more, it must not be reported as never retrieved.
        if not self.accepted.cancelled():
            self.accepted.exception()


def _status_of(head: bytes) -> int:
    parts = head.split(b"\r\n", 1)[0].split(b" ")
    return int(parts[1]) if len(parts) > 1 and parts[0].startswith(b"HTTP/1.") and parts[1].isdigit() else 0


def _length_of(head: bytes) -> int:
    """Of the body of a refusal; one that does not tell ends with the connection, or at our limit."""
    lines = head.partition(b"\r\n")[2]
    try:
        text = http.client.parse_headers(io.BytesIO(lines + _HEAD_END)).get("Content-Length", "")
    except http.client.HTTPException:
        return _REPLY_BYTES_MAX
    return int(text) if text.isascii() and text.isdecimal() else _REPLY_BYTES_MAX


def _refusal(status: int, body: bytes) -> TunnelRefused:
    try:
        problem = msgspec.json.decode(body, type=ErrorBody)
    except UNREADABLE:
        return TunnelRefused(ANSWER_UNKNOWN, f"Something answered for the VM's agent, with status {status}.")
    return TunnelRefused(problem.code, problem.message)
