"""`python -m deploy.bench.flood`: one owner who asks for as much as can be asked for, until its standard input ends.

Then it prints what it was answered, as JSON: {kind: {status: count}}; 0 is a connection that broke.
"""

import asyncio
import io
import os
import sys
import tarfile
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable

import aiohttp
import msgspec

PROJECTS = 40
UPLOAD_BYTES = 4 * 1024 * 1024
READERS, WRITERS, UPLOADERS, ASKERS, LISTENERS = 24, 8, 12, 4, 100
REFUSED_PAUSE_S = 0.02
"""Far less than Retry-After asks for: a client that is badly behaved, and not one that measures its own loop."""
TIMEOUT_S = 30.0

Counts = dict[str, Counter[int]]
Ask = Callable[[], Awaitable[int]]


class Flood:
    """One owner's requests against one gateway."""

    def __init__(self, session: aiohttp.ClientSession, gateway: str) -> None:
        self._session = session
        self._gateway = gateway
        self.counts: Counts = defaultdict(Counter)
        self._projects: list[str] = []
        self._turn = 0

    async def call(
        self, method: str, path: str, *, json: object = None, data: bytes | None = None
    ) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/x-tar"} if data is not None else {}
        body = io.BytesIO(data) if data is not None else None
        try:
            async with self._session.request(
                method, self._gateway + path, json=json, data=body, headers=headers
            ) as answer:
                return answer.status, await answer.read()
        except (aiohttp.ClientError, TimeoutError):
            return 0, b""

    async def prepare(self) -> None:
        """Projects with files, to ask previews of."""
        site = _tar("index.html", b"<h1>flood</h1>")
        for number in range(PROJECTS):
            status, body = await self.call("POST", "/api/projects", json={"name": f"flood-{number}"})
            if status == 201:
                self._projects.append(msgspec.json.decode(body)["project_id"])
                await self.call("PUT", f"/api/projects/{self._projects[-1]}/files", data=site)

    async def run(self, kind: str, ask: Ask) -> None:
        """One request after the other, for ever."""
        while True:
            status = await ask()
            self.counts[kind][status] += 1
            if status in (0, 429, 503):
                await asyncio.sleep(REFUSED_PAUSE_S)

    async def read(self) -> int:
        return (await self.call("GET", "/api/projects"))[0]

    async def write(self) -> int:
        return (await self.call("PUT", f"/api/projects/{self._next()}/env", json={"A": "b"}))[0]

    async def upload(self) -> int:
        large = _tar("large.bin", os.urandom(16) * (UPLOAD_BYTES // 16))
        return (await self.call("PUT", f"/api/projects/{self._next()}/files", data=large))[0]

    async def ask(self) -> int:
        return (await self.call("POST", "/api/previews", json={"project_id": self._next()}))[0]

    async def listen(self) -> int:
        try:
            async with self._session.ws_connect(f"{self._gateway}/ws", headers={}) as socket:
                async for _ in socket:
                    continue
        except aiohttp.WSServerHandshakeError as error:
            return error.status
        except (aiohttp.ClientError, TimeoutError):
            return 0
        return 101

    def _next(self) -> str:
        self._turn += 1
        return self._projects[self._turn % len(self._projects)]


def _tar(name: str, content: bytes) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return raw.getvalue()


async def _main() -> None:
    headers = {"Authorization": f"Bearer {os.environ['DRAPE_API_TOKEN']}"}
    timeout, connector = aiohttp.ClientTimeout(total=TIMEOUT_S), aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout, connector=connector) as session:
        flood = Flood(session, os.environ["GATEWAY"])
        await flood.prepare()
        crowd = (
            ("reads", flood.read, READERS),
            ("writes", flood.write, WRITERS),
            ("uploads", flood.upload, UPLOADERS),
            ("previews", flood.ask, ASKERS),
            ("clients", flood.listen, LISTENERS),
        )
        tasks = [asyncio.create_task(flood.run(kind, ask)) for kind, ask, many in crowd for _ in range(many)]
        print("flooding", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        print(msgspec.json.encode({kind: dict(counts) for kind, counts in flood.counts.items()}).decode(), flush=True)


if __name__ == "__main__":
    asyncio.run(_main())
