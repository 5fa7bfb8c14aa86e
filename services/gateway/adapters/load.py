"""The gateway's own door-keeping: how often, and how much at once. What is over is refused with a code and Retry-After, so
that the rest keeps its speed. All of it counts in this replica alone."""

import asyncio
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager

from aiohttp import web

from services.gateway.adapters.access import Access
from services.gateway.adapters.clients import Clients
from services.gateway.adapters.rates import Buckets
from services.gateway.config import GatewayConfig
from shared.errors import DrapeError, Refused, Unavailable

READS = frozenset({"GET", "HEAD", "OPTIONS"})
UNLIMITED = frozenset({"/health"})
"""Load balancers ask here whether this gateway lives: it has to say so, the more so under load."""
BUSY_RETRY_S = 1.0
CLIENTS_RETRY_S = 5.0


class Places:
    """So many at once: of one key, and in all."""

    def __init__(self, total_max: int, per_key_max: int) -> None:
        self._total_max = total_max
        self._per_key_max = per_key_max
        self._taken: Counter[Hashable] = Counter()
        self._total = 0

    @contextmanager
    def taken(self, key: Hashable, over: DrapeError, full: DrapeError) -> Iterator[None]:
        """Hold a place. Raises `over` where the key has as many as it may, `full` where all have."""
        if self._taken[key] >= self._per_key_max:
            raise over
        if self._total >= self._total_max:
            raise full
        self._taken[key] += 1
        self._total += 1
        try:
            yield
        finally:
            self._total -= 1
            self._taken[key] -= 1
            if not self._taken[key]:
                del self._taken[key]


class Load:
    """What every request to the API passes. Requests on previews' hosts don't: the proxy counts their connections."""

    def __init__(
        self, access: Access, clients: Clients, config: GatewayConfig, clock: Callable[[], float] | None = None
    ) -> None:
        now = clock or asyncio.get_running_loop().time
        self._access = access
        self._clients = clients
        self._config = config
        keys_max = config.rate_keys_max

        def buckets(rate_per_s: float, burst: int) -> Buckets:
            return Buckets(rate_per_s, burst, keys_max, now)

        self._by_token = {
            True: buckets(config.token_reads_per_s, config.token_reads_burst),
            False: buckets(config.token_writes_per_s, config.token_writes_burst),
        }
        self._by_address = {
            True: buckets(config.address_reads_per_s, config.address_reads_burst),
            False: buckets(config.address_writes_per_s, config.address_writes_burst),
        }
        self._starts = buckets(config.token_starts_per_s, config.token_starts_burst)
        self._requests = Places(config.api_requests_max, config.api_requests_per_owner_max)
        self._owners_streams = Places(config.websocket_clients_max, config.websocket_clients_per_owner_max)
        self._addresses_streams = Places(config.websocket_clients_max, config.websocket_clients_per_address_max)

    @contextmanager
    def admitted(self, request: web.Request) -> Iterator[None]:
        """One request, for as long as it is answered. Raises `Refused` (429) and `Unavailable` (503)."""
        if request.path in UNLIMITED:
            yield
            return
        address = self._clients.address_of(request)
        token = self._access.known_token(request)
        reads = request.method in READS
        self._check_rate(self._by_address[reads].take(address), "this address")
        if token:
            self._check_rate(self._by_token[reads].take(token), "this token")
        if _is_start(request):
            self._check_rate(self._starts.take(token or address), "previews for this token")
        owner = self._access.tokens[token] if token else address
        with ExitStack() as places:
            if _is_stream(request):
                places.enter_context(self._owners_streams.taken(owner, _clients_over("owner"), _clients_full()))
                places.enter_context(self._addresses_streams.taken(address, _clients_over("address"), _clients_full()))
            elif not _is_upload(request):
                places.enter_context(self._requests.taken(owner, _requests_over(self._config), _requests_full()))
            yield

    def _check_rate(self, wait_s: float, whose: str) -> None:
        if wait_s > 0:
            raise Refused(
                "rate_limited",
                f"Too many requests of {whose} in a short time.",
                "Wait as long as Retry-After says. docs/settings.md has the rates.",
                status=429,
                retry_after_s=wait_s,
            )


def _is_stream(request: web.Request) -> bool:
    """Server-sent events and WebSockets: they stay open, and cost little."""
    path = request.path
    if path == "/ws" or path.endswith("/events"):
        return True
    return path.endswith("/logs") and "text/event-stream" in request.headers.get("Accept", "")


def _is_start(request: web.Request) -> bool:
    """What may take a VM: one that fails at once and is asked for again would keep the pool booting."""
    path = request.path
    return request.method == "POST" and (path == "/api/previews" or path.endswith(("/restart", "/prepare")))


def _is_upload(request: web.Request) -> bool:
    """Uploads wait for places of their own."""
    return request.method in ("PUT", "PATCH") and request.path.endswith("/files")


def _requests_over(config: GatewayConfig) -> Refused:
    return Refused(
        "too_many_requests",
        f"{config.api_requests_per_owner_max} of your requests are being answered already.",
        "Send fewer at once.",
        status=429,
        retry_after_s=BUSY_RETRY_S,
    )


def _requests_full() -> Unavailable:
    return Unavailable(
        "gateway_busy", "The gateway answers as many requests as it may.", "Try again.", retry_after_s=BUSY_RETRY_S
    )


def _clients_over(whose: str) -> Refused:
    return Refused(
        "too_many_clients",
        f"This {whose} has as many WebSocket and SSE connections open as it may.",
        "Close some, or share one among several views.",
        status=429,
        retry_after_s=CLIENTS_RETRY_S,
    )


def _clients_full() -> Unavailable:
    return Unavailable(
        "clients_full",
        "The gateway has as many WebSocket and SSE connections open as it may.",
        "Try again, or another gateway.",
        retry_after_s=CLIENTS_RETRY_S,
    )
