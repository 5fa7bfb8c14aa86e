"""What stands where the API should be, and does not answer as it does."""

import asyncio

from tests.fly.guests import Connections
from tests.pool.contract_home import Fault

ANSWERS: dict[Fault, bytes] = {
    "rate_limited": b'HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 25\r\n\r\n{"error": "slow down ok"}',
    "rubbish": b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 20\r\n\r\n<html>hello!!</html>",
}


class Front:
    """Listens on loopback; `down` closes at once, so that its port refuses connections."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault
        self._server: asyncio.Server | None = None
        self._connections = Connections()
        self.url = ""

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._connections.served(self._serve), "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        if self._fault == "down":
            self._server.close()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        await self._connections.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                if self._fault in ANSWERS:
                    writer.write(ANSWERS[self._fault])
                    await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()
