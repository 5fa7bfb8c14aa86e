"""Parked reactions in memory, for `shared.memory`."""

import itertools
from collections.abc import Callable
from datetime import UTC, datetime

from shared.codec import Recorded
from shared.parked import REPLAY, Parked
from shared.ports import TimerFired

Fire = Callable[[str, str, str, dict[str, str | int]], None]


class MemoryParked:
    """Serves `ParkedReactions`. `fire`: makes a timer due, by service, name, id and data."""

    def __init__(self, fire: Fire, clock: Callable[[], float]) -> None:
        self.items: dict[str, Parked] = {}
        self._fire = fire
        self._clock = clock
        self._timers = itertools.count(1)

    def park(self, service: str, item: Recorded | TimerFired, attempts: int, reason: str) -> None:
        """An event under its own sequence, also where it was tried again."""
        is_timer = isinstance(item, TimerFired) and item.name != REPLAY
        data: dict[str, str | int] = item.data if isinstance(item, TimerFired) else {"seq": item.seq}
        parked = Parked(
            service=service,
            kind="timer" if is_timer else "event",
            seq=next(self._timers) if is_timer else int(data["seq"]),
            subject=f"{item.name}.{item.id}" if isinstance(item, TimerFired) else item.key,
            reason=reason,
            attempts=attempts,
            at=datetime.fromtimestamp(self._clock(), UTC).isoformat(),
            data=data,
        )
        self.items[parked.key] = parked

    async def list(self) -> list[Parked]:
        return [*self.items.values()]

    async def count(self) -> int:
        return len(self.items)

    async def replay(self, parked: Parked) -> None:
        name, _, timer_id = parked.subject.partition(".")
        if parked.kind == "event":
            name, timer_id = REPLAY, str(parked.seq)
        self._fire(parked.service, name, timer_id, dict(parked.data))
        await self.drop(parked)

    async def drop(self, parked: Parked) -> None:
        self.items.pop(parked.key, None)
