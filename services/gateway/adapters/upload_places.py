"""Uploads at once: places of which one owner has only some, a short and bounded wait for one, and a limit on their bytes."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.gateway.config import GatewayConfig
from shared.errors import Refused, Unavailable
from shared.ids import OwnerId

RETRY_S = 2.0


class UploadPlaces:
    """Of this replica. The longest waiter of the owner with the fewest uploads under way is next."""

    def __init__(self, config: GatewayConfig) -> None:
        self._config = config
        self._open: Counter[OwnerId] = Counter()
        self._waiting: list[tuple[OwnerId, asyncio.Future[None]]] = []
        self._bytes = 0

    @asynccontextmanager
    async def place(self, owner: OwnerId) -> AsyncIterator["Place"]:
        """Hold a place. Raises `Refused` (429) where the owner, `Unavailable` (503) where everybody has to wait too long."""
        await self._take(owner)
        place = Place(self)
        try:
            yield place
        finally:
            self._bytes -= place.size
            self._free(owner)

    def grow(self, size: int) -> None:
        """More bytes are held. Raises `Unavailable` beyond what may be."""
        if self._bytes + size > self._config.uploads_bytes_max:
            raise Unavailable(
                "uploads_full",
                "The uploads under way hold as many bytes as they may.",
                "Send it again in a moment.",
                retry_after_s=RETRY_S,
            )
        self._bytes += size

    async def _take(self, owner: OwnerId) -> None:
        if self._may(owner):
            self._open[owner] += 1
            return
        self._check_queue(owner)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((owner, turn))
        try:
            await asyncio.wait({turn}, timeout=self._config.upload_wait_s)
        except asyncio.CancelledError:
            if not self._give_up(owner, turn):
                self._free(owner)
            raise
        if self._give_up(owner, turn):
            raise self._over(owner)

    def _may(self, owner: OwnerId) -> bool:
        return self._open.total() < self._config.uploads_max and self._open[owner] < self._config.uploads_per_owner_max

    def _check_queue(self, owner: OwnerId) -> None:
        mine = sum(each == owner for each, _ in self._waiting)
        if mine >= self._config.uploads_waiting_per_owner_max or len(self._waiting) >= self._config.uploads_waiting_max:
            raise self._over(owner)

    def _give_up(self, owner: OwnerId, turn: "asyncio.Future[None]") -> bool:
        """Leave the queue; False where the place was given meanwhile."""
        if turn.done():
            return False
        self._waiting.remove((owner, turn))
        turn.cancel()
        return True

    def _free(self, owner: OwnerId) -> None:
        self._open[owner] -= 1
        if not self._open[owner]:
            del self._open[owner]
        able = [each for each in self._waiting if self._may(each[0])]
        if able:
            chosen = min(able, key=lambda each: self._open[each[0]])  # the first of those that are equal
            self._waiting.remove(chosen)
            self._open[chosen[0]] += 1
            chosen[1].set_result(None)

    def _over(self, owner: OwnerId) -> Refused | Unavailable:
        if self._open[owner] >= self._config.uploads_per_owner_max:
            return Refused(
                "too_many_uploads",
                f"{self._config.uploads_per_owner_max} of your uploads are under way already.",
                "Send fewer at once.",
                status=429,
                retry_after_s=RETRY_S,
            )
        return Unavailable(
            "uploads_busy",
            "The gateway takes as many uploads as it may.",
            "Send it again in a moment.",
            retry_after_s=RETRY_S,
        )


class Place:
    """One upload under way."""

    def __init__(self, places: UploadPlaces) -> None:
        self._places = places
        self.size = 0

    def grow(self, size: int) -> None:
        """So many more bytes have come. Raises `Unavailable` where all uploads together hold too many."""
        self._places.grow(size)
        self.size += size
