"""From saving a file to seeing the change: over the dev server's own socket for edits, and by a GET.

The edit replaces one text of the page. It is seen once the socket has told of it, where there is one, and a GET shows
the new text; so both count that a browser needs.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec

from deploy.cli.folder import LocalFile
from services.orchestrator.rules.frameworks import Hmr
from shared.errors import DrapeError

SEEN_TIMEOUT_S = 20.0
ASK_TIMEOUT_S = 10.0
HANDSHAKE_TIMEOUT_S = 3.0
"""A dev server may hold on to a path that it does not know, and say nothing."""
DRAIN_TIMEOUT_S = 5.0
POLL_S = 0.005
QUIET_S = 0.3
"""A socket that has said nothing for so long has told all of the edit before."""
SOURCE_BYTES_MAX = 512 * 1024
CANDIDATES_MAX = 40
SOURCES = (".tsx", ".jsx", ".vue", ".svelte", ".astro", ".mdx", ".js", ".ts", ".mjs", ".py", ".html")
"""The likeliest to be what somebody edits first."""
FIRST = re.compile(r"(^|/)(app|page|index|\+page|server|main)\.[a-z]+$", re.IGNORECASE)
TEXT = re.compile(r"<([a-z][a-z0-9]*)(?:\s[^<>]*)?>([^<>{}\n]*[A-Za-z]{3}[^<>{}\n]*)</\1>")
"""An element that holds nothing but text."""
VITE_TOKEN = re.compile(r'wsToken = "([^"]+)"')
VITE_NEWS = frozenset({"update", "full-reload", "prune"})


class Unseen(DrapeError):
    """An edit that never showed."""


class Spot(msgspec.Struct, frozen=True):
    """A text that an edit replaces: where it stands in the sources, and the path whose answer shows it."""

    file: str
    text: str
    path: str

    def content(self, source: str, number: int) -> str:
        """The file after the edit of this number."""
        return source.replace(f">{self.text}<", f">{marker(number)}<", 1)


class Target(msgspec.Struct, frozen=True):
    """A dev server as a browser reaches it: `headers` name the preview's host where `url` is the gateway's."""

    url: str
    headers: dict[str, str] = {}

    async def page(self, session: aiohttp.ClientSession, path: str) -> tuple[int, str]:
        """Status and body. Raises `aiohttp.ClientError` and `TimeoutError`."""
        timeout = aiohttp.ClientTimeout(total=ASK_TIMEOUT_S)
        async with session.get(self.url + path, headers={**self.headers, "Accept": "*/*"}, timeout=timeout) as answer:
            return answer.status, (await answer.read()).decode("utf-8", "replace")


def marker(number: int) -> str:
    """What the page says after the edit of this number."""
    return f"drape bench {number:04d}"


def texts(files: Mapping[str, LocalFile]) -> list[tuple[str, str]]:
    """(file, text) of what might be edited, the likeliest first. Blocking."""

    def rank(name: str) -> tuple[int, bool, int, str]:
        return SOURCES.index(Path(name).suffix), FIRST.search(name) is None, name.count("/"), name

    named = [name for name in files if Path(name).suffix in SOURCES and files[name].size <= SOURCE_BYTES_MAX]
    found = []
    for name in sorted(named, key=rank)[:CANDIDATES_MAX]:
        source = files[name].path.read_text("utf-8", "replace")
        found += [(name, match[2]) for match in TEXT.finditer(source) if source.count(f">{match[2]}<") == 1]
    return found


async def find_spot(session: aiohttp.ClientSession, target: Target, files: Mapping[str, LocalFile]) -> Spot | None:
    """A text of the sources that an answer of the dev server shows: of its page, or of the module itself."""
    answers: dict[str, str] = {}
    for name, text in await asyncio.to_thread(texts, files):
        for path in (f"/{name}", "/"):
            if path not in answers:
                status, body = await target.page(session, path)
                answers[path] = body if status == 200 else ""
            if text in answers[path]:
                return Spot(name, text, path)
    return None


class Viewer:
    """A client that has the page open: it hears the socket, where there is one, and asks for what has changed."""

    def __init__(self, session: aiohttp.ClientSession, target: Target, spot: Spot, heard: "_Heard | None") -> None:
        self._session = session
        self._target = target
        self._spot = spot
        self._heard = heard

    @property
    def hears(self) -> bool:
        """Whether there is a socket."""
        return self._heard is not None

    async def time_edit(self, save: Callable[[str], Awaitable[None]], content: str, number: int) -> float:
        """Seconds from before the content is saved to its `marker(number)` being seen. Raises `Unseen`."""
        if self._heard is not None:
            await self._heard.drain()
        begun = time.perf_counter()
        await save(content)
        try:
            async with asyncio.timeout(SEEN_TIMEOUT_S):
                if self._heard is not None:
                    await self._heard.next()
                while not await self._shows(marker(number)):
                    await asyncio.sleep(POLL_S)
        except TimeoutError as error:
            url = self._target.headers.get("Host", self._target.url)
            raise Unseen(
                "bench_edit_unseen",
                f"Edit {number} of {self._spot.file} was not seen at {url} within {SEEN_TIMEOUT_S:g} s.",
            ) from error
        return time.perf_counter() - begun

    async def _shows(self, text: str) -> bool:
        try:
            status, body = await self._target.page(self._session, self._spot.path)
        except (aiohttp.ClientError, TimeoutError):
            return False  # it is starting anew
        return status == 200 and text in body


@asynccontextmanager
async def viewing(session: aiohttp.ClientSession, target: Target, spot: Spot, hmr: Hmr) -> AsyncIterator[Viewer]:
    """A viewer, with the socket where the framework has one that opens."""
    await target.page(session, spot.path)
    async with _socket(session, target, hmr) as socket:
        heard = _Heard(socket) if socket is not None else None
        try:
            yield Viewer(session, target, spot, heard)
        finally:
            if heard is not None:
                await heard.stop()


@asynccontextmanager
async def _socket(
    session: aiohttp.ClientSession, target: Target, hmr: Hmr
) -> AsyncIterator[aiohttp.ClientWebSocketResponse | None]:
    vite = hmr.protocol.startswith("vite")
    token = ""
    if hmr.paths and vite:
        found = VITE_TOKEN.search((await target.page(session, "/@vite/client"))[1])
        token = f"?token={found[1]}" if found is not None else ""
    host = target.headers.get("Host", target.url.partition("//")[2])
    for path in hmr.paths:
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
                socket = await session.ws_connect(
                    target.url + path + token,
                    headers={**target.headers, "Origin": f"http://{host}"},
                    protocols=("vite-hmr",) if vite else (),
                )
        except (aiohttp.ClientError, TimeoutError):
            continue
        try:
            yield socket
        finally:
            await socket.close()
        return
    yield None


class _Heard:
    """What the socket says, as far as it is about edits."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._news: asyncio.Queue[None] = asyncio.Queue(maxsize=1000)
        self._task = asyncio.create_task(self._listen(socket), name="bench-hmr")

    async def _listen(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            if message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY) and _is_news(message.data):
                await self._news.put(None)

    async def next(self) -> None:
        await self._news.get()

    async def drain(self) -> None:
        """Until it has been quiet for a moment; one that never is quiet is not waited for."""
        deadline = time.monotonic() + DRAIN_TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                await asyncio.wait_for(self._news.get(), QUIET_S)
            except TimeoutError:
                return

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def _is_news(data: str | bytes) -> bool:
    """Vite also greets, pings and tells of plugins' own things; elsewhere every message may be the news."""
    try:
        message = msgspec.json.decode(data)
    except msgspec.DecodeError:
        return True
    kind = message.get("type") if isinstance(message, dict) else None
    return kind in VITE_NEWS or kind not in ("connected", "ping", "pong", "custom")
