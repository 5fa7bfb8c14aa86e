"""Which previews are in use at this gateway: exchanges and sockets that are open, and requests that came lately."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from shared.ids import PreviewId
from shared.ports import ActivityFeed


class Activity:
    """Counts what is open; remembers what was used since it was last told."""

    def __init__(self) -> None:
        self._open: Counter[PreviewId] = Counter()
        self._untold: set[PreviewId] = set()

    @property
    def total(self) -> int:
        """Exchanges and sockets that are open, of all previews."""
        return self._open.total()

    def open_on(self, preview_id: PreviewId) -> int:
        """Exchanges and sockets of this preview that are open."""
        return self._open[preview_id]

    def in_use(self, preview_id: PreviewId) -> bool:
        """Whether somebody uses the preview here, or has done so since that was last told."""
        return preview_id in self._open or preview_id in self._untold

    @contextmanager
    def using(self, preview_id: PreviewId) -> Iterator[None]:
        """One exchange or socket, for as long as it is open."""
        self._open[preview_id] += 1
        self._untold.add(preview_id)
        try:
            yield
        finally:
            self._open[preview_id] -= 1
            self._untold.add(preview_id)
            if not self._open[preview_id]:
                del self._open[preview_id]

    async def tell(self, feed: ActivityFeed, period_s: float) -> None:
        """Tell each period which previews are in use. Never returns."""
        while True:
            used, self._untold = self._untold | self._open.keys(), set()
            for preview_id in sorted(used):
                await feed.publish(preview_id)
            await asyncio.sleep(period_s)
