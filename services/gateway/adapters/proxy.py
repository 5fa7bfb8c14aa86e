"""The preview proxy: `<id>.<base domain>` in the browser is the dev server of preview `<id>`, streamed both ways.

It dials what the resolver names and nothing else, whatever the request's target or headers say; it serves no API on
preview hosts; it buffers no body. `/__drape/` on a preview's host is its own and never reaches the dev server.
"""

import asyncio
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import aiohttp
from aiohttp import WSCloseCode, hdrs, web
from yarl import URL

from services.gateway.adapters import pages
from services.gateway.adapters.activity import Activity
from services.gateway.adapters.bad_requests import without_their_words
from services.gateway.adapters.clients import Clients
from services.gateway.adapters.preview_target import Holding, ProxyConfig, Resolver, Upstream
from services.gateway.adapters.private import Guard
from services.gateway.adapters.proxy_answers import held, plain_json, refusal_of, refused, status_of
from services.gateway.adapters.proxy_exchange import Exchange, too_large, too_slow, unreachable
from services.gateway.adapters.proxy_headers import (
    Route,
    is_plainly_framed,
    offered_protocols,
    public_scheme,
    request_headers,
    wants_websocket,
)
from services.gateway.adapters.proxy_websocket import BrowserSocket, join
from services.gateway.adapters.upstreams import Upstreams
from shared.errors import DrapeError, NotFound, Unavailable
from shared.ids import is_token

__all__ = ["Holding", "PreviewProxy", "ProxyConfig", "Resolver", "Upstream", "Upstreams", "runner_options"]

_REFUSED_METHODS = frozenset({"CONNECT", "TRACE"})
"""No tunnels, and no echo of what browsers keep from scripts."""
_OWN_PATHS = "/__drape"
_http_log = logging.getLogger("drape.http")
_http_log.addFilter(without_their_words)
_PORT = re.compile(r":\d{1,5}\Z")


def runner_options(config: ProxyConfig) -> dict[str, Any]:
    """Keyword arguments for the `web.AppRunner` that serves this proxy.

    `auto_decompress` off is what lets a compressed upload through unchanged; with it on, its body would no longer be
    what its headers say.
    """
    return {
        "logger": _http_log,
        "auto_decompress": False,
        "max_line_size": config.header_bytes_max,
        "max_field_size": config.header_bytes_max,
        "read_bufsize": config.read_buffer_bytes,
        "lingering_time": config.lingering_s,
    }


class PreviewProxy:
    """Answers every request that arrives on a preview's host name."""

    def __init__(
        self,
        resolve: Resolver,
        wake: Resolver,
        activity: Activity,
        *,
        config: ProxyConfig,
        upstreams: Upstreams,
        guard: Guard | None = None,
        clients: Clients | None = None,
    ) -> None:
        """`wake`: says the same as `resolve` about a preview that is suspended, after it has tried to wake it. `guard`:
        keeps private previews; `clients`: whose X-Forwarded-* headers are believed."""
        self._resolve = resolve
        self._wake = wake
        self._activity = activity
        self._config = config
        self._upstreams = upstreams
        self._guard = guard
        self._clients = clients
        self._suffix = f".{config.base_domain.lower()}"
        self._sockets: set[BrowserSocket] = set()

    def preview_id(self, host_header: str) -> str | None:
        """`"<id>.preview.localhost:8080"` -> id; None for a host that is no preview's.

        Any name below the base domain belongs to the proxy, also one that no id can have (`handle` answers 404 there),
        so that none of them reaches the gateway's own routes.
        """
        host = _PORT.sub("", host_header.strip().lower()).removesuffix(".")
        return host.removesuffix(self._suffix) if host.endswith(self._suffix) and host != self._suffix else None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request for a preview: from its dev server, or with why that cannot be."""
        preview_id = self.preview_id(request.host)
        try:
            if self._guard is not None and preview_id is not None:
                answered = self._guard(preview_id, request, self._scheme(request))
                if answered is not None:
                    return answered
            target = await self._target(preview_id, request)
            if request.path == _OWN_PATHS or request.path.startswith(f"{_OWN_PATHS}/"):
                return self._own(request, target)
            if isinstance(target, Holding) and target.status != "suspended":
                return held(request, target)
            with self._counted(target.preview_id):
                if isinstance(target, Holding):
                    target = await self._wake(target.preview_id, request)
                if isinstance(target, Holding):
                    return held(request, target)
                return await self._forward(request, target)
        except DrapeError as error:
            answer = refused(request, error.problem())
            if error.code == "bad_framing":
                answer.force_close()  # where the next request begins is anybody's guess
            return answer

    async def _target(self, preview_id: str | None, request: web.Request) -> Upstream | Holding:
        if preview_id is None or not is_token(preview_id):
            return Holding("unknown", preview_id or "")
        return await self._resolve(preview_id, request)

    async def leave(self) -> None:
        """This gateway ends: sockets would never end by themselves, so their browsers are told to come again."""
        closing = (each.close(code=WSCloseCode.SERVICE_RESTART, message=b"restarting") for each in self._sockets)
        await asyncio.gather(*closing, return_exceptions=True)

    def _own(self, request: web.Request, target: Upstream | Holding) -> web.Response:
        """The proxy's own paths: the state that a waiting page asks for, and that page's script and style."""
        name = request.path.removeprefix(f"{_OWN_PATHS}/")
        if request.method in {"GET", "HEAD"} and name == "status":
            return plain_json(status_of(target))
        asset = pages.asset(name.removeprefix("assets/")) if name.startswith("assets/") else None
        if asset is None or request.method not in {"GET", "HEAD"}:
            raise NotFound("not_found", "There is nothing at this address.", "Paths under /__drape/ are Drape's own.")
        return web.Response(body=asset.body, headers={**pages.ASSET_HEADERS, "Content-Type": asset.content_type})

    @contextmanager
    def _counted(self, preview_id: str) -> Iterator[None]:
        """Holds one place among the exchanges that may be open at once."""
        if self._activity.total >= self._config.connections_max:
            raise Unavailable(
                "gateway_busy", "The gateway has as many preview connections as it may.", "Try again in a moment."
            )
        if self._activity.open_on(preview_id) >= self._config.connections_per_preview_max:
            raise Unavailable(
                "preview_busy",
                f"This preview has {self._config.connections_per_preview_max} connections open, as many as it may.",
                "Close some of its tabs, then try again.",
            )
        with self._activity.using(preview_id):
            yield

    async def _forward(self, request: web.Request, upstream: Upstream) -> web.StreamResponse:
        if request.method in _REFUSED_METHODS:
            raise DrapeError("method_not_allowed", f"{request.method} is not possible here.", status=405)
        if not is_plainly_framed(request.headers):
            raise DrapeError(
                "bad_framing", "Transfer-Encoding is something else than `chunked`.", "Send it as chunked.", status=400
            )
        route = self._route(request, upstream)
        async with self._upstreams.session(upstream) as session:
            if wants_websocket(request.method, request.headers):
                return await self._websocket(request, upstream, route, session)
            length = request.content_length
            if length is not None and length > self._config.request_body_bytes_max:
                raise too_large(self._config)
            exchange = Exchange(request, route, self._config, trust_forwarded=self._trusts(request))
            answer = await exchange.run(session, _target_url(request, upstream, "http"))
        if hdrs.UPGRADE in request.headers:
            answer.force_close()  # whatever comes next on this connection may be of the protocol that we did not take
        return answer

    def _trusts(self, request: web.Request) -> bool:
        return self._clients is not None and self._clients.trusts(request)

    def _scheme(self, request: web.Request) -> str:
        return public_scheme(request.headers, self._config.public_scheme, trust_forwarded=self._trusts(request))

    def _route(self, request: web.Request, upstream: Upstream) -> Route:
        return Route(
            public_scheme=self._scheme(request),
            public_host=request.host,
            upstream_host=upstream.host,
            upstream_port=upstream.port,
            client_address=request.remote or "",
        )

    async def _websocket(
        self, request: web.Request, upstream: Upstream, route: Route, session: aiohttp.ClientSession
    ) -> web.StreamResponse:
        """Shake hands with the dev server first, so that its refusal is the browser's refusal; then join the two."""
        config = self._config
        try:
            async with asyncio.timeout(config.ws_handshake_timeout_s):
                server = await session.ws_connect(
                    _target_url(request, upstream, "ws"),
                    protocols=offered_protocols(request.headers),
                    headers=request_headers(request.headers, route, trust_forwarded=self._trusts(request)),
                    autoclose=False,
                    autoping=False,
                    max_msg_size=config.ws_message_bytes_max,
                    timeout=aiohttp.ClientWSTimeout(ws_close=config.ws_close_timeout_s),
                )
        except aiohttp.WSServerHandshakeError as error:
            return refusal_of(error, route)
        except TimeoutError as error:
            raise too_slow(f"the WebSocket handshake within {config.ws_handshake_timeout_s:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise unreachable(upstream.preview_id, error) from error
        browser = BrowserSocket(
            protocols=(server.protocol,) if server.protocol else (),
            autoclose=False,
            autoping=False,
            compress=False,
            heartbeat=config.ws_heartbeat_s,
            max_msg_size=config.ws_message_bytes_max,
            timeout=config.ws_close_timeout_s,
        )
        try:
            try:
                await browser.prepare(request)
            except ConnectionError:
                return browser  # the browser left during the handshake
            self._sockets.add(browser)
            await join(browser, server, close_timeout_s=config.ws_close_timeout_s)
            return browser
        finally:
            self._sockets.discard(browser)
            await server.close()


def _target_url(request: web.Request, upstream: Upstream, scheme: Literal["http", "ws"]) -> URL:
    """The upstream's address with the request's own path and query, character by character."""
    target = request.raw_path
    if not target.startswith("/"):  # absolute form ("GET http://elsewhere/x") or "*": only its path counts
        target = request.rel_url.raw_path_qs if request.rel_url.raw_path.startswith("/") else "/"
    host = f"[{upstream.host}]" if ":" in upstream.host else upstream.host
    return URL.build(scheme=scheme, host=host, port=upstream.port, path=target.partition("#")[0], encoded=True)
