"""One HTTP request on its way to a preview's dev server, and its answer on the way back: streamed, watched, broken off.

It is given where to dial, and buffers no body.
"""

import asyncio
import logging
import socket
import struct
from collections.abc import AsyncIterator, Awaitable
from types import TracebackType
from typing import Literal, Self

import aiohttp
from aiohttp import web
from yarl import URL

from services.gateway.adapters.preview_target import ProxyConfig
from services.gateway.adapters.proxy_headers import Route, request_headers, response_headers
from shared.errors import DrapeError

_log = logging.getLogger("drape.proxy")
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, for 0 s
_UNREACHABLE_HINT = "It may be restarting: try again in a moment, and look at the preview's log."
Ended = Literal["client_gone", "too_slow", "too_large"]


class Exchange:
    """One HTTP request to the dev server and its answer, with a watch on both ends.

    Every byte that moves counts as progress; a timer looks now and then whether the browser left or nothing has moved
    for too long, and ends the exchange. One timer for all waits costs less than a time-out around each of them.
    """

    def __init__(self, request: web.Request, route: Route, config: ProxyConfig, *, trust_forwarded: bool) -> None:
        self._request = request
        self._route = route
        self._config = config
        self._trust_forwarded = trust_forwarded
        self._loop = asyncio.get_running_loop()
        self._limit_s = config.first_byte_timeout_s
        self._moved_at = self._loop.time()
        self._ended: Ended | None = None
        self._scope = asyncio.timeout(None)
        self._timer = self._loop.call_later(config.client_check_interval_s, self._check)

    async def run(self, session: aiohttp.ClientSession, url: URL) -> web.StreamResponse:
        """The answer, sent. Raises a DrapeError as long as none has begun; later failures break the connection off."""
        response: _Answer | None = None
        try:
            async with self:
                answer = await self._ask(session, url)
                try:
                    self._limit_s = self._config.idle_timeout_s
                    response = _Answer(answer, self._route, self._config.answer_headers_bytes_max)
                    await self._pass_on(answer, response)
                finally:
                    answer.close()
        except (aiohttp.ClientError, OSError, ValueError) as error:  # OSError: also the end of our own time
            return self._broken(response, error)
        return response

    async def __aenter__(self) -> Self:
        await self._scope.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        await self._scope.__aexit__(kind, error, trace)  # raises TimeoutError where `_check` ended it

    def _check(self) -> None:
        now = self._loop.time()
        transport = self._request.transport
        if transport is None or transport.is_closing():
            self._ended = "client_gone"
        elif now - self._moved_at >= self._limit_s:
            self._ended = "too_slow"
        else:
            self._timer = self._loop.call_later(self._config.client_check_interval_s, self._check)
            return
        self._scope.reschedule(now)

    async def _ask(self, session: aiohttp.ClientSession, url: URL) -> aiohttp.ClientResponse:
        request = self._request
        return await session.request(
            request.method,
            url,
            headers=request_headers(request.headers, self._route, trust_forwarded=self._trust_forwarded),
            data=self._body() if request.can_read_body else None,
            allow_redirects=False,
        )

    async def _body(self) -> AsyncIterator[bytes]:
        """The request's body as it arrives. Fails, so that the dev server sees it broken, when the browser leaves."""
        sent_bytes = 0
        try:
            async for chunk in self._request.content.iter_any():
                sent_bytes += len(chunk)
                if sent_bytes > self._config.request_body_bytes_max:
                    self._ended = "too_large"
                    raise _BodyTooLargeError
                self._moved_at = self._loop.time()
                yield chunk
        except (ConnectionError, aiohttp.ClientError, web.RequestPayloadError):
            self._ended = "client_gone"
            raise
        self._moved_at = self._loop.time()

    async def _pass_on(self, answer: aiohttp.ClientResponse, response: "_Answer") -> None:
        await self._to_client(response.prepare(self._request))
        if not response.is_empty_for(self._request.method):
            async for chunk in answer.content.iter_any():
                self._moved_at = self._loop.time()
                await self._to_client(response.write(chunk))
                self._moved_at = self._loop.time()
        await self._to_client(response.write_eof())

    async def _to_client(self, sending: Awaitable[object]) -> None:
        """Both sides' lost connections raise the same errors: note which side it was."""
        try:
            await sending
        except ConnectionError:
            self._ended = "client_gone"
            raise

    def _broken(self, response: "_Answer | None", error: Exception) -> web.StreamResponse:
        preview_id = self._request.host
        if self._ended == "client_gone" or self._request.transport is None:
            self._abort()
            return response or web.Response(status=499, reason="Client Closed Request")
        if response is not None and response.prepared:
            # A clean end would make a half body look whole.
            _log.info("answer broken off", extra={"preview": preview_id, "cause": self._ended or type(error).__name__})
            self._abort()
            return response
        if self._ended == "too_large":
            raise too_large(self._config) from error
        if self._ended == "too_slow":
            raise too_slow(f"within {self._limit_s:g} s") from error
        if isinstance(error, aiohttp.ClientResponseError | aiohttp.ClientPayloadError | ValueError):
            raise bad_answer("is no HTTP that can be passed on") from error
        raise unreachable(preview_id, error) from error

    def _abort(self) -> None:
        """Reset the browser's connection: a plain close is a clean end for a body that ends with its connection."""
        transport = self._request.transport
        if transport is not None:
            sock = transport.get_extra_info("socket")
            if sock is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            transport.abort()


class _BodyTooLargeError(Exception):
    """The request's body went past its limit on the way."""


class _Answer(web.StreamResponse):
    """The dev server's answer: its status, reason and headers, and none that aiohttp would add."""

    def __init__(self, answer: aiohttp.ClientResponse, route: Route, headers_bytes_max: int) -> None:
        if answer.status < 200:  # an upgrade that nobody asked for: what follows would be no HTTP
            raise bad_answer(f"has the status {answer.status}")
        size = sum(len(name) + len(value) for name, value in answer.raw_headers)
        if size > headers_bytes_max:
            raise bad_answer(f"has {size} bytes of headers, more than {headers_bytes_max}")
        super().__init__(
            status=answer.status, reason=answer.reason or "", headers=response_headers(answer.headers, route)
        )
        self._typed = "Content-Type" in answer.headers
        self._named = "Server" in answer.headers

    def is_empty_for(self, method: str) -> bool:
        """True when this answer has no body by definition (RFC 9110 6.4.1)."""
        return method == "HEAD" or self.status in {204, 304} or self.status < 200

    async def _prepare_headers(self) -> None:
        await super()._prepare_headers()
        if not self._typed:
            self.headers.pop("Content-Type", None)
        if not self._named:
            self.headers.pop("Server", None)


def unreachable(preview: str, error: BaseException) -> DrapeError:
    """The dev server refused the connection, or dropped it before an answer began."""
    _log.info("dev server unreachable", extra={"preview": preview, "cause": type(error).__name__})
    return DrapeError(
        "dev_server_unreachable",
        "The preview's dev server did not take the request, or ended while answering it.",
        _UNREACHABLE_HINT,
        status=502,
    )


def bad_answer(why: str) -> DrapeError:
    """The dev server answered, and not as a web server may."""
    return DrapeError(
        "dev_server_bad_answer",
        f"The dev server's answer {why}.",
        "Look at what the project answers on this path.",
        status=502,
    )


def too_slow(what: str) -> DrapeError:
    """The dev server took the request and let the time pass."""
    return DrapeError("dev_server_timeout", f"The dev server did not answer {what}.", _UNREACHABLE_HINT, status=504)


def too_large(config: ProxyConfig) -> DrapeError:
    """The request's body is over the limit."""
    return DrapeError(
        "request_too_large",
        f"The request's body is larger than the {config.request_body_bytes_max} bytes that may pass.",
        "Send less at once.",
        status=413,
    )
