"""A client of the gateway's feed, as a browser with a WebSocket is one: it takes what comes, goes away, comes back."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from services.gateway.adapters.feed import Feed
from shared.errors import DrapeError

Json = dict[str, Any]
RECONNECT_S = 0.5


class Client:
    """`heard`: (when, message) of everything that came, over all connections."""

    def __init__(
        self,
        feed: Callable[[], tuple[Feed, asyncio.Event] | None],
        now: Callable[[], float],
        owner: str,
        project_id: str | None,
    ) -> None:
        self._feed = feed
        self._now = now
        self._owner = owner
        self._project_id = project_id
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self.seq: int | None = None
        self.heard: list[tuple[float, Json]] = []

    async def connect(self) -> None:
        """Follow the feed, with `since` where the client has been here before; again after the gateway has died."""
        self._task = asyncio.create_task(self._follow())

    async def leave(self) -> None:
        """Close the laptop."""
        assert self._task is not None
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _follow(self) -> None:
        while True:
            up = self._feed()
            if up is not None:
                with suppress(DrapeError):  # refused, as that gateway lags or is cut off: it comes back
                    await self._listen(*up)
            await asyncio.sleep(RECONNECT_S)

    async def _listen(self, feed: Feed, gone: asyncio.Event) -> None:
        older = await feed.before(self.seq)
        subscription = feed.subscribe(self._owner, project_id=self._project_id, since=self.seq, older=older)
        with subscription as subscriber:
            closed = asyncio.create_task(gone.wait())
            try:
                while not gone.is_set() and not subscriber.dropped.is_set():
                    coming = asyncio.create_task(subscriber.queue.get())
                    await asyncio.wait({coming, closed}, return_when=asyncio.FIRST_COMPLETED)
                    if coming.done():
                        self._take(coming.result())
                    else:
                        coming.cancel()
            finally:
                closed.cancel()

    def _take(self, message: Json) -> None:
        self.seq = max(self.seq or 0, message.get("seq", 0))
        self.heard.append((self._now(), message))
        self._news.set()

    async def until(self, wanted: Callable[[Json], bool], *, within_s: float) -> Json:
        """The first message, of those heard and those to come, that is wanted."""
        async with asyncio.timeout(within_s):
            while True:
                found = next((message for _, message in self.heard if wanted(message)), None)
                if found is not None:
                    return found
                self._news.clear()
                await self._news.wait()

    def of_type(self, kind: str) -> list[Json]:
        return [message for _, message in self.heard if message["type"] == kind]

    def bar(self, preview_id: str) -> list[tuple[float, str, float]]:
        """(when, step, percent) of each progress message of this preview."""
        return [
            (at, message["step"], message["percent"])
            for at, message in self.heard
            if message["type"] == "preview_progress" and message["preview_id"] == preview_id
        ]
