"""The gateway's API as the CLI uses it."""

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec

from shared.errors import DrapeError, Problem, Unavailable, from_problem
from shared.ulids import new_id

REQUEST_TIMEOUT_S = 60.0
BUSY_WAIT_S = 20.0
"""So long a request is repeated that the gateway asks to have repeated: an election in the log's cluster takes 4 to 9 s."""
BUSY_PAUSE_MAX_S = 3.0
UPLOAD_TIMEOUT_S = 600.0
STREAM_SILENCE_S = 60.0

Json = dict[str, Any]


class Api:
    """One gateway. `DRAPE_API_TOKEN` is sent where it is set."""

    def __init__(self, gateway_url: str, session: aiohttp.ClientSession) -> None:
        self._base = gateway_url.rstrip("/")
        self._session = session
        token = os.environ.get("DRAPE_API_TOKEN", "")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.identity = hashlib.sha256(token.encode()).hexdigest()[:16] if token else ""
        """Stands for who we are to the gateway, without the token."""

    async def call(self, method: str, path: str, *, json: Any = None, headers: dict[str, str] | None = None) -> Any:
        """A request and its JSON answer. Raises the `DrapeError` that the gateway answered."""
        body = msgspec.json.encode(json) if json is not None else None
        given = {"Content-Type": "application/json"} if body is not None else {}
        # One key for all tries: what was done although the answer said no is not done twice.
        given |= {"Idempotency-Key": new_id()} if method == "POST" else {}
        return await self._patiently(method, path, body, {**given, **(headers or {})}, REQUEST_TIMEOUT_S)

    async def upload(self, method: str, path: str, tar: bytes | AsyncIterator[bytes]) -> Any:
        """Send files."""
        headers = {"Content-Type": "application/x-tar"}
        if not isinstance(tar, bytes):  # it can be read once only
            return await self._send(method, path, tar, headers, UPLOAD_TIMEOUT_S)
        return await self._patiently(method, path, tar, headers, UPLOAD_TIMEOUT_S)

    async def _patiently(self, method: str, path: str, body: Any, headers: dict[str, str], timeout_s: float) -> Any:
        """Again for `BUSY_WAIT_S` where the gateway is there and what it stands on is away for a moment."""
        until = time.monotonic() + BUSY_WAIT_S
        while True:
            try:
                return await self._send(method, path, body, headers, timeout_s)
            except DrapeError as error:
                wait_s = min(BUSY_PAUSE_MAX_S, error.retry_after_s or BUSY_PAUSE_MAX_S)
                if not error.code.endswith("_unavailable") or time.monotonic() + wait_s > until:
                    raise
                await asyncio.sleep(wait_s)

    async def _send(self, method: str, path: str, body: Any, headers: dict[str, str], timeout_s: float) -> Any:
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=5)
        try:
            async with self._session.request(
                method, self._base + path, data=body, headers={**self._headers, **headers}, timeout=timeout
            ) as response:
                data = await response.read()
                if response.status >= 400:
                    raise _problem(response.status, data)
                return msgspec.json.decode(data) if data else None
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(
                "gateway_unreachable",
                f"The gateway at {self._base} does not answer ({str(error) or type(error).__name__}).",
                "`drape status` tells what runs.",
            ) from error

    async def stream(self, path: str, last_id: str = "") -> AsyncIterator[tuple[str, str, Json]]:
        """Server-sent events: (event, id, data). Ends when the gateway ends it; raises `Unavailable` when it breaks."""
        headers = {"Accept": "text/event-stream", **self._headers}
        if last_id:
            headers["Last-Event-ID"] = last_id
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=STREAM_SILENCE_S)
        try:
            async with self._session.get(self._base + path, headers=headers, timeout=timeout) as response:
                if response.status >= 400:
                    raise _problem(response.status, await response.read())
                async for item in _events(response):
                    yield item
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable("stream_broken", f"The stream of {path} broke off ({type(error).__name__}).") from error


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, str, Json]]:
    kind, event_id, data = "message", "", ""
    while line := await response.content.readuntil(b"\n"):
        text = line.decode().rstrip("\r\n")
        if not text:
            if data:
                yield kind, event_id, msgspec.json.decode(data)
            kind, event_id, data = "message", "", ""
            continue
        name, _, value = text.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "event":
                kind = value
            case "id":
                event_id = value
            case "data":
                data += value


def _problem(status: int, data: bytes) -> DrapeError:
    try:
        return from_problem(msgspec.json.decode(data, type=Problem))
    except msgspec.DecodeError:
        return DrapeError("gateway_error", f"The gateway answered {status}.", status=status)
