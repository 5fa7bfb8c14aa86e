"""Durable consumers in memory: what is not acknowledged comes again."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from shared.codec import Recorded
from shared.memory.broker import Queue, Shared
from shared.ports import (
    Delivery,
    Subscription,
    TimerFired,
)

log = logging.getLogger("drape.memory")

ACK_WAIT_S = 10.0
CONNECT_POLL_S = 0.1
"""How often a consumer that is cut off looks whether it still is."""


class MemoryReactions:
    def __init__(self, broker: Shared) -> None:
        self._broker = broker

    async def events(self, service: str, handler: Callable[[Recorded, Delivery], Awaitable[None]]) -> Subscription:
        return _Consumer(self._broker, self._broker.event_queues[service], handler, service)

    async def timers(self, service: str, handler: Callable[[TimerFired, Delivery], Awaitable[None]]) -> Subscription:
        return _Consumer(self._broker, self._broker.timer_queues[service], handler, service)


class _Consumer:
    """Pulls from a queue and starts a task per message, as the JetStream pull loop does."""

    def __init__(
        self, broker: Shared, queue: Queue, handler: Callable[[Any, Delivery], Awaitable[None]], service: str
    ) -> None:
        self._broker = broker
        self._queue = queue
        self._handler = handler
        self._service = service
        self._draining = False
        self._tasks: dict[asyncio.Task[None], MemoryDelivery] = {}
        self._puller = asyncio.create_task(self._pull(), name=f"{service}-consumer")

    async def _pull(self) -> None:
        while True:
            item, attempts = await self._queue.get()
            if not self._broker.connected:
                self._queue.waiting.appendleft((item, attempts))
                await asyncio.sleep(CONNECT_POLL_S)
                continue
            delivery = MemoryDelivery(self._broker, self._queue, item, attempts, self._service)
            task = asyncio.create_task(self._run(item, delivery), name=f"{self._service}-reaction")
            self._tasks[task] = delivery
            task.add_done_callback(partial(self._done, delivery))

    async def _run(self, item: Any, delivery: "MemoryDelivery") -> None:
        try:
            await self._handler(item, delivery)
        except Exception:
            log.exception("reaction_broke", extra={"consumer": self._service})

    def _done(self, delivery: "MemoryDelivery", task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if not delivery.ended and self._draining:
            delivery.again()
        elif not delivery.ended:
            # The replica went away (maybe before the task's first step): the consumer gives the message out again.
            task.get_loop().call_later(ACK_WAIT_S, delivery.again)

    async def drain(self, limit_s: float) -> None:
        """As the JetStream pull loop does it."""
        self._draining = True
        await self._cancel([self._puller])
        await self._cancel([task for task, delivery in self._tasks.items() if delivery.lasting])
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=limit_s)
        await self._cancel(list(self._tasks))

    async def _cancel(self, tasks: "list[asyncio.Task[None]]") -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def stop(self) -> None:
        tasks = [self._puller, *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class MemoryDelivery:
    def __init__(self, broker: Shared, queue: Queue, item: Any, attempts: int, service: str) -> None:
        self._broker = broker
        self._queue = queue
        self._item = item
        self._service = service
        self.attempts = attempts
        self.ended = False
        self.lasting = False

    def again(self) -> None:
        self._queue.put(self._item, self.attempts + 1)

    async def ack(self) -> None:
        self.ended = True

    async def retry(self, delay_s: float) -> None:
        self.ended = True
        asyncio.get_running_loop().call_later(delay_s, self.again)

    async def in_progress(self) -> None:
        return

    async def park(self, reason: str) -> None:
        self.ended = True
        self._broker.parked.park(self._service, self._item, self.attempts, reason)
