"""The log in memory."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from shared.codec import Meta, Recorded
from shared.events import Event
from shared.fingerprint import passed_over
from shared.memory.broker import Shared
from shared.ports import (
    Head,
    Subscription,
)


class MemoryLog:
    def __init__(self, broker: Shared) -> None:
        self._broker = broker

    async def append(self, event: Event, meta: Meta, *, after: int) -> int:
        self._broker.check()
        await asyncio.sleep(0)
        return self._broker.store(event, meta, after)

    async def head(self, key: str) -> Head:
        self._broker.check()
        return self._broker.heads.get(key, Head())

    async def last_seq(self) -> int:
        self._broker.check()
        return len(self._broker.records)

    async def follow(
        self, after: int, deliver: Callable[[Recorded], None], failed: Callable[[BaseException], None]
    ) -> Subscription:
        stopped = False

        def guarded(recorded: Recorded) -> None:
            nonlocal stopped
            if stopped:
                return
            try:
                deliver(recorded)
            except Exception as error:
                stopped = True
                failed(error)

        for recorded in self._broker.records[after:]:
            guarded(recorded)
        self._broker.followers.append(guarded)
        return Removable(self._broker.followers, guarded)

    async def replay(
        self, after: int, until: int, types: frozenset[str] | None, deliver: Callable[[Recorded], None]
    ) -> None:
        self._broker.check()
        passed = passed_over(types)
        for recorded in self._broker.records[after:until]:
            if recorded.type in passed and recorded.seq != until:
                continue
            wanted = types is None or recorded.type in types
            deliver(recorded if wanted else msgspec.structs.replace(recorded, event=None))

    async def read(self, after: int = 0, until: int | None = None) -> AsyncIterator[Recorded]:
        for recorded in self._broker.records[after : len(self._broker.records) if until is None else until]:
            yield recorded


class Removable:
    def __init__(self, items: list[Any], item: Any) -> None:
        self._items = items
        self._item = item

    async def stop(self) -> None:
        if self._item in self._items:
            self._items.remove(self._item)
