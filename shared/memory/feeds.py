"""Timers, feeds, logs and objects in memory."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from shared.errors import NotFound
from shared.ids import PreviewId
from shared.memory.broker import Shared
from shared.memory.log import Removable
from shared.output import LogBatch, LogLine
from shared.ports import Subscription, Timer

T = TypeVar("T")


class MemoryTimers:
    def __init__(self, broker: Shared) -> None:
        self._broker = broker

    async def schedule(self, timer: Timer) -> None:
        self._broker.check()
        key = f"{timer.service}.{timer.name}.{timer.id}"
        earlier = self._broker.schedules.pop(key, None)
        if earlier is not None:
            earlier.cancel()
        delay_s = max(0.0, timer.at - self._broker.clock())
        fire = self._broker.fire
        loop = asyncio.get_running_loop()
        handle = loop.call_later(delay_s, fire, timer.service, timer.name, timer.id, dict(timer.data))
        self._broker.schedules[key] = handle

    async def every(self, service: str, name: str, period_s: float) -> None:
        key = f"every.{service}.{name}"
        if key not in self._broker.schedules:
            self._tick(key, service, name, period_s)

    def _tick(self, key: str, service: str, name: str, period_s: float) -> None:
        def fire() -> None:
            waiting = self._broker.timer_queues[service].waiting
            if all(fired.name != name for fired, _ in waiting):  # where nobody hears, a tick does not pile up
                self._broker.fire(service, name, "tick", {})
            self._tick(key, service, name, period_s)

        self._broker.schedules[key] = asyncio.get_running_loop().call_later(period_s, fire)


class MemoryFeed(Generic[T]):
    """What whoever listens hears, and nobody stores."""

    def __init__(self, listeners: list[Callable[[T], None]]) -> None:
        self._listeners = listeners

    async def publish(self, item: T) -> None:
        for listener in list(self._listeners):
            listener(item)

    async def subscribe(self, handler: Callable[[T], None]) -> Subscription:
        self._listeners.append(handler)
        return Removable(self._listeners, handler)


class MemoryPreviewLogs:
    def __init__(self, broker: Shared) -> None:
        self._broker = broker

    async def append(self, preview_id: PreviewId, lines: Sequence[LogLine]) -> None:
        self._broker.check()
        batch = LogBatch(preview_id=preview_id, seq=self._broker.next_log_seq(), lines=tuple(lines))
        self._broker.preview_logs[preview_id].append(batch)
        for listener in list(self._broker.log_listeners):
            listener(batch)

    async def read(self, preview_id: PreviewId, after: int = 0, limit: int = 1000) -> list[LogBatch]:
        self._broker.check()
        return [batch for batch in self._broker.preview_logs[preview_id] if batch.seq > after][:limit]

    async def last(self, preview_id: PreviewId) -> LogBatch | None:
        self._broker.check()
        batches = self._broker.preview_logs[preview_id]
        return batches[-1] if batches else None

    async def subscribe(self, handler: Callable[[LogBatch], None]) -> Subscription:
        self._broker.log_listeners.append(handler)
        return Removable(self._broker.log_listeners, handler)

    async def erase(self, preview_id: PreviewId) -> int:
        self._broker.check()
        return len(self._broker.preview_logs.pop(preview_id, []))


class MemoryObjects:
    def __init__(self, broker: Shared) -> None:
        self._broker = broker

    async def put(self, name: str, data: bytes) -> None:
        self._broker.check()
        self._broker.objects[name] = data

    async def get(self, name: str) -> bytes:
        self._broker.check()
        if name not in self._broker.objects:
            raise NotFound("object_not_found", f"The object store has no {name}.")
        return self._broker.objects[name]

    async def delete(self, name: str) -> None:
        self._broker.check()
        self._broker.objects.pop(name, None)

    async def erase(self, prefix: str) -> int:
        self._broker.check()
        names = [name for name in self._broker.objects if name.startswith(prefix)]
        for name in names:
            del self._broker.objects[name]
        return len(names)
