"""What came before a gateway's memory begins: read from the log for a client that comes back with an older `since`."""

import asyncio
from collections.abc import Awaitable, Callable

from shared.codec import Recorded
from shared.errors import Unavailable
from shared.ports import EventLog


class History:
    """The log behind one gateway's feed. At most `events_max` events are read for one client."""

    def __init__(
        self,
        log: EventLog,
        seq: Callable[[], int],
        catch_up: Callable[[], Awaitable[None]],
        events_max: int,
        readers_max: int,
    ) -> None:
        """`seq`: up to where this gateway has read; `catch_up`: reads on to the log's end."""
        self._log = log
        self._seq = seq
        self._catch_up = catch_up
        self._events_max = events_max
        self._readers = asyncio.Semaphore(readers_max)

    async def reach(self, since: int) -> None:
        """Return once this gateway knows what the client does: it may have heard of more from another replica."""
        if since > self._seq():
            await self._catch_up()

    async def after(self, since: int) -> list[Recorded] | None:
        """The events after `since` up to where this gateway is now; None where they are too many, or out of reach."""
        until = self._seq()
        if until - since > self._events_max:
            return None
        try:
            async with self._readers:
                return [recorded async for recorded in self._log.read(since, until)]
        except (Unavailable, TimeoutError):
            return None
