"""The gateway's HTTP server: where it listens, and how it ends without refusing anybody."""

import asyncio
import logging
import socket
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from services.gateway.adapters.feed import Feed
from services.gateway.adapters.proxy import PreviewProxy
from services.gateway.config import GatewayConfig
from shared.errors import Invalid

log = logging.getLogger("drape.gateway")

CUT_S = 0.5
"""What is still under way after the drain's limit is cut off within this."""


class HttpServer:
    """One application on its sockets. With `listen_fds` they are the supervisor's, which all replicas share: what this
    one does not accept, another does."""

    def __init__(
        self, application: web.Application, proxy: PreviewProxy, feed: Feed, config: GatewayConfig, **options: Any
    ) -> None:
        self._proxy = proxy
        self._feed = feed
        self._config = config
        self._under_way = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        application.middlewares.insert(0, self._counted)
        application.on_response_prepare.append(self._close_after)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=CUT_S, **options)

    async def open(self) -> None:
        """Listen. Raises `Invalid` (`port_taken`, `listen_fds_unusable`)."""
        await self._runner.setup()
        config = self._config
        try:
            if config.listen_fds:
                for each in config.listen_fds.split(","):
                    await web.SockSite(self._runner, _inherited(each)).start()
                return
            for host in config.host.split(","):
                await web.TCPSite(self._runner, host.strip(), config.port, reuse_address=True).start()
        except OSError as error:
            raise Invalid(
                "port_taken",
                f"The gateway can't listen on {config.host}:{config.port}: {error.strerror or error}.",
                "Choose another port: `drape up --port N`.",
            ) from error

    async def drain(self) -> None:
        """Accept nothing more, send clients to another replica, and answer what is under way within `drain_s`."""
        for site in list(self._runner.sites):
            await site.stop()
        self._feed.leave()
        await self._proxy.leave()
        if self._runner.server is not None and self._runner.server.connections:
            # Connections that are kept open: whoever uses one meanwhile is answered, and told that it closes.
            await asyncio.sleep(self._config.linger_s)
        try:
            async with asyncio.timeout(self._config.drain_s):
                await self._quiet.wait()
        except TimeoutError:
            log.warning("drain_cut", extra={"under_way": self._under_way})

    async def close(self) -> None:
        """End all connections."""
        await self._runner.cleanup()

    @web.middleware
    async def _counted(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._under_way += 1
        self._quiet.clear()
        try:
            return await handler(request)
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._quiet.set()

    async def _close_after(self, _request: web.Request, response: web.StreamResponse) -> None:
        if self._feed.leaving and response.status != 101:
            response.force_close()


def _inherited(text: str) -> socket.socket:
    """A socket that the supervisor listens on. It is closed here without an end to the supervisor's."""
    try:
        return socket.socket(fileno=socket.dup(int(text)))
    except (ValueError, OSError) as error:
        raise Invalid(
            "listen_fds_unusable",
            f"DRAPE_GATEWAY_LISTEN_FDS has {text!r}, which is no socket of this process.",
            "`drape up` sets it for the gateways that it starts; by hand, leave it out.",
        ) from error
