"""The fake's public address: one port for all machines, `fly-force-instance-id` says which. Any protocol over HTTP/1.1."""

import asyncio
import ssl

from services.pool.adapters.fly_machines import FORCE_INSTANCE
from tests.fly.guests import Connections, Guests, joined

HEAD_BYTES_MAX = 1 << 16
UNROUTED = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Edge:
    """Listens on loopback, over TLS where `tls` is given. A request a connection: the next one may be for another machine."""

    def __init__(self, guests: Guests, tls: ssl.SSLContext | None = None) -> None:
        self._guests = guests
        self._tls = tls
        self._connections = Connections()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(
            self._connections.served(self._serve), "127.0.0.1", 0, limit=HEAD_BYTES_MAX, ssl=self._tls
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        await self._connections.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head[:-4].split(b"\r\n")
            headers = {
                name.strip().lower(): value.strip() for name, _, value in (each.partition(b":") for each in lines)
            }
            inner = await self._guests.connect(headers.get(FORCE_INSTANCE.encode(), b"").decode())
            if b"upgrade" not in headers:
                lines = [line for line in lines if not line.lower().startswith(b"connection:")] + [b"Connection: close"]
            inner[1].write(b"\r\n".join(lines) + b"\r\n\r\n")
            await joined((reader, writer), inner)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            if not writer.is_closing():
                writer.write(UNROUTED)
        finally:
            writer.close()
