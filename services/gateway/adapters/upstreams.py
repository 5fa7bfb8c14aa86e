"""The connections to dev servers: each preview has its own, and each attempt of it.

Addresses come back: a port that one preview's dev server had may be another's a moment later. A connection that was kept
open for the first must never carry a request for the second.
"""

from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

import aiohttp

from services.gateway.adapters.preview_target import ProxyConfig, Through, Upstream
from services.gateway.adapters.tunnels import TunnelConnector


class Upstreams:
    """Client sessions by preview. Those that nobody uses are closed beyond `ProxyConfig.upstreams_max`, the oldest first."""

    def __init__(self, config: ProxyConfig, secret: str = "") -> None:
        """`secret`: the platform's, from which the agents' tokens are made."""
        self._config = config
        self._secret = secret
        self._held: OrderedDict[str, _Held] = OrderedDict()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._held:
            _, held = self._held.popitem()
            await held.session.close()

    @asynccontextmanager
    async def session(self, upstream: Upstream) -> AsyncIterator[aiohttp.ClientSession]:
        """The session for this dev server, for one exchange."""
        held = await self._taken(upstream)
        try:
            yield held.session
        finally:
            held.users -= 1
            if held.retired and not held.users:
                await held.session.close()
            await self._trim()

    async def _taken(self, upstream: Upstream) -> "_Held":
        of = (upstream.generation, upstream.host, upstream.port, upstream.through)
        earlier = self._held.get(upstream.preview_id)
        current = earlier if earlier is not None and earlier.of == of else _Held(of, self._open(upstream))
        current.users += 1
        self._held[upstream.preview_id] = current
        self._held.move_to_end(upstream.preview_id)
        if earlier is not None and earlier is not current:
            earlier.retired = True
            if not earlier.users:
                await earlier.session.close()
        return current

    def _open(self, upstream: Upstream) -> aiohttp.ClientSession:
        if upstream.through is None:
            return open_session(self._config)
        connector = TunnelConnector(upstream.through, upstream.port, self._secret, self._config)
        return open_session(self._config, connector)

    async def _trim(self) -> None:
        if len(self._held) <= self._config.upstreams_max:
            return
        idle = next((preview_id for preview_id, held in self._held.items() if not held.users), None)
        if idle is not None:
            await self._held.pop(idle).session.close()


class _Held:
    def __init__(self, of: tuple[str, str, int, Through | None], session: aiohttp.ClientSession) -> None:
        self.of = of
        self.session = session
        self.users = 0
        self.retired = False


def open_session(config: ProxyConfig, connector: aiohttp.BaseConnector | None = None) -> aiohttp.ClientSession:
    """A client session for one dev server: no cookie jar, no proxy from the environment, no total time-out. `connector`:
    how it is reached; None: as it listens."""
    return aiohttp.ClientSession(
        connector=connector
        or aiohttp.TCPConnector(limit=0, keepalive_timeout=config.upstream_keepalive_s, ttl_dns_cache=10),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=config.connect_timeout_s),
        skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        auto_decompress=False,
        trust_env=False,
        read_bufsize=config.read_buffer_bytes,
        max_line_size=config.header_bytes_max,
        max_field_size=config.header_bytes_max,
        max_headers=config.header_count_max,
    )
