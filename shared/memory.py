"""The ports of `shared.ports` in memory: for journeys in virtual time and for simulations. Same promises as JetStream:
an optimistic log, durable consumers that deliver again what was not acknowledged, timers that outlive their service.

Events go through the real codec, so that what cannot be stored cannot pass here either.
"""

import asyncio
import contextvars
import itertools
import logging
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

import msgspec

from shared.codec import Meta, Recorded, decode, encode, event_id, subject_of
from shared.commands import Command
from shared.errors import DrapeError, NotFound, Unavailable, internal
from shared.events import Event, aggregate_key
from shared.ids import PreviewId
from shared.memory_parked import MemoryParked
from shared.ports import (
    Bus,
    Cause,
    Delivery,
    Handler,
    Head,
    LogBatch,
    LogLine,
    Progress,
    Subscription,
    Timer,
    TimerFired,
    WrongLastSequence,
)

log = logging.getLogger("drape.memory")

T = TypeVar("T")

ACK_WAIT_S = 10.0
REQUEST_TIMEOUT_S = 10.0
CONNECT_POLL_S = 0.1
"""How often a consumer that is cut off looks whether it still is."""


class MemoryBroker:
    """What the replicas of all services share: the log, the consumers' positions, the timers."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.connected = True
        self.records: list[Recorded] = []
        self.parked = MemoryParked(self.fire, clock)
        self.heads: dict[str, Head] = {}
        self.followers: list[Callable[[Recorded], None]] = []
        self.event_queues: dict[str, _Queue] = defaultdict(_Queue)
        self.timer_queues: dict[str, _Queue] = defaultdict(_Queue)
        self.endpoints: dict[str, list[tuple[Handler, contextvars.Context]]] = defaultdict(list)
        self.serving: set[asyncio.Task[bytes | DrapeError]] = set()
        self.progress_listeners: list[Callable[[Progress], None]] = []
        self.activity_listeners: list[Callable[[PreviewId], None]] = []
        self.log_listeners: list[Callable[[LogBatch], None]] = []
        self.preview_logs: dict[PreviewId, list[LogBatch]] = defaultdict(list)
        self.objects: dict[str, bytes] = {}
        self.schedules: dict[str, asyncio.TimerHandle] = {}
        self._log_seq = itertools.count(1)
        self._firings = itertools.count(1)
        self._ids: dict[str, int] = {}

    def bus(self, reacts_to: Mapping[str, Sequence[type[Event]]] | None = None) -> Bus:
        """The ports for one replica. `reacts_to`: the event types of each service's consumer."""

        async def close() -> None:
            return

        for service, kinds in (reacts_to or {}).items():
            self.event_queues[service].types = frozenset(kind.__name__ for kind in kinds)
        return Bus(
            log=_MemoryLog(self),
            reactions=_MemoryReactions(self),
            commands=_MemoryCommands(self),
            timers=_MemoryTimers(self),
            progress=_MemoryFeed(self.progress_listeners),
            activity=_MemoryFeed(self.activity_listeners),
            preview_logs=_MemoryPreviewLogs(self),
            objects=_MemoryObjects(self),
            parked=self.parked,
            connected=lambda: self.connected,
            close=close,
        )

    def check(self) -> None:
        """Raise `Unavailable` while the broker is cut off."""
        if not self.connected:
            raise Unavailable("log_unavailable", "The event log does not answer (cut off).")

    def store(self, event: Event, meta: Meta, after: int) -> int:
        """Append under the same rules as JetStream on one node: expectation first, then duplicates."""
        key = aggregate_key(event)
        if self.heads.get(key, Head()).seq != after:
            raise WrongLastSequence(key)
        if meta.id in self._ids:
            return self._ids[meta.id]
        seq = len(self.records) + 1
        recorded = decode(encode(event, meta), seq=seq, subject=subject_of(event), traceparent=meta.traceparent)
        self.records.append(recorded)
        self.heads[key] = Head(seq, meta.rev)
        self._ids[meta.id] = seq
        loop = asyncio.get_running_loop()
        for deliver in list(self.followers):
            loop.call_soon(deliver, recorded)
        for queue in self.event_queues.values():
            if queue.types is None or recorded.type in queue.types:
                queue.put(recorded)
        return seq

    def record(self, event: Event, *, command_id: str = "given", at: float | None = None) -> int:
        """Append a fact from a test, whatever the revision."""
        head = self.heads.get(aggregate_key(event), Head())
        meta = Meta(
            id=event_id(f"{command_id}-{len(self.records)}", event),
            at=self.clock() if at is None else at,
            rev=head.rev + 1,
            correlation_id=event.aggregate_id,
            causation_id=command_id,
            actor="test",
        )
        return self.store(event, meta, head.seq)

    def fire(self, service: str, name: str, timer_id: str, data: dict[str, str | int]) -> None:
        """A timer is due."""
        key = f"{name}-{timer_id}-{next(self._firings)}"
        self.timer_queues[service].put(TimerFired(name=name, id=timer_id, key=key, data=data))

    def next_log_seq(self) -> int:
        return next(self._log_seq)


class _Queue:
    """A durable consumer: what is not acknowledged comes again."""

    def __init__(self) -> None:
        self.types: frozenset[str] | None = None
        self.waiting: deque[tuple[Any, int]] = deque()
        self.arrived = asyncio.Event()

    def put(self, item: Any, attempts: int = 1) -> None:
        self.waiting.append((item, attempts))
        self.arrived.set()

    async def get(self) -> tuple[Any, int]:
        while not self.waiting:
            self.arrived.clear()
            await self.arrived.wait()
        return self.waiting.popleft()


class _MemoryLog:
    def __init__(self, broker: MemoryBroker) -> None:
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
        return _Removable(self._broker.followers, guarded)

    async def read(self, after: int = 0, until: int | None = None) -> AsyncIterator[Recorded]:
        for recorded in self._broker.records[after : len(self._broker.records) if until is None else until]:
            yield recorded


class _Removable:
    def __init__(self, items: list[Any], item: Any) -> None:
        self._items = items
        self._item = item

    async def stop(self) -> None:
        if self._item in self._items:
            self._items.remove(self._item)


class _MemoryReactions:
    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    async def events(self, service: str, handler: Callable[[Recorded, Delivery], Awaitable[None]]) -> Subscription:
        return _Consumer(self._broker, self._broker.event_queues[service], handler, service)

    async def timers(self, service: str, handler: Callable[[TimerFired, Delivery], Awaitable[None]]) -> Subscription:
        return _Consumer(self._broker, self._broker.timer_queues[service], handler, service)


class _Consumer:
    """Pulls from a queue and starts a task per message, as the JetStream pull loop does."""

    def __init__(
        self, broker: MemoryBroker, queue: _Queue, handler: Callable[[Any, Delivery], Awaitable[None]], service: str
    ) -> None:
        self._broker = broker
        self._queue = queue
        self._handler = handler
        self._service = service
        self._tasks: set[asyncio.Task[None]] = set()
        self._puller = asyncio.create_task(self._pull(), name=f"{service}-consumer")

    async def _pull(self) -> None:
        while True:
            item, attempts = await self._queue.get()
            if not self._broker.connected:
                self._queue.waiting.appendleft((item, attempts))
                await asyncio.sleep(CONNECT_POLL_S)
                continue
            delivery = _MemoryDelivery(self._broker, self._queue, item, attempts, self._service)
            task = asyncio.create_task(self._run(item, delivery), name=f"{self._service}-reaction")
            self._tasks.add(task)
            task.add_done_callback(partial(self._done, delivery))

    async def _run(self, item: Any, delivery: "_MemoryDelivery") -> None:
        try:
            await self._handler(item, delivery)
        except Exception:
            log.exception("reaction_broke", extra={"consumer": self._service})

    def _done(self, delivery: "_MemoryDelivery", task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not delivery.ended:
            # The replica went away (maybe before the task's first step): the consumer gives the message out again.
            task.get_loop().call_later(ACK_WAIT_S, delivery.again)

    async def stop(self) -> None:
        tasks = [self._puller, *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _MemoryDelivery:
    def __init__(self, broker: MemoryBroker, queue: _Queue, item: Any, attempts: int, service: str) -> None:
        self._broker = broker
        self._queue = queue
        self._item = item
        self._service = service
        self.attempts = attempts
        self.ended = False

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


class _MemoryCommands:
    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    async def send(self, command: Command, cause: Cause) -> bytes:
        headers = {
            "Drape-Correlation-Id": cause.correlation_id,
            "Drape-Causation-Id": cause.causation_id,
            "Drape-Actor": cause.actor,
            "traceparent": cause.traceparent,
        }
        return await self._request(f"cmd.{command.service}.{command.verb}", msgspec.json.encode(command), headers)

    async def query(self, service: str, name: str, body: bytes = b"{}", *, timeout_s: float = 5.0) -> bytes:
        return await asyncio.wait_for(self._request(f"query.{service}.{name}", body, {}), timeout_s)

    async def _request(self, subject: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        self._broker.check()
        handlers = self._broker.endpoints.get(subject)
        if not handlers:
            raise Unavailable("service_unavailable", f"Nobody answers {subject}.")
        handlers.append(handlers.pop(0))
        handler, context = handlers[-1]
        # A task of the server's: as over a wire, it goes on without its caller, and ends with its replica.
        task = asyncio.create_task(_answer(handler, body, headers), name=subject, context=context.copy())
        self._broker.serving.add(task)
        task.add_done_callback(self._broker.serving.discard)
        await asyncio.wait({task}, timeout=REQUEST_TIMEOUT_S)
        if not task.done() or task.cancelled():
            raise Unavailable("service_silent", f"{subject} was not answered.")
        answer = task.result()
        if isinstance(answer, DrapeError):
            raise answer
        return answer

    async def serve(
        self, service: str, commands: Mapping[str, Handler], queries: Mapping[str, Handler]
    ) -> Subscription:
        served = [(f"cmd.{service}.{name}", handler) for name, handler in commands.items()]
        served += [(f"query.{service}.{name}", handler) for name, handler in queries.items()]
        context = contextvars.copy_context()
        for subject, handler in served:
            self._broker.endpoints[subject].append((handler, context))
        return _Served(self._broker, served)


async def _answer(handler: Handler, body: bytes, headers: Mapping[str, str]) -> bytes | DrapeError:
    try:
        return await handler(body, headers)
    except DrapeError as error:
        return error
    except Exception as error:
        problem = internal(error)
        return DrapeError(problem.code, problem.detail)


class _Served:
    def __init__(self, broker: MemoryBroker, served: list[tuple[str, Handler]]) -> None:
        self._broker = broker
        self._served = served

    async def stop(self) -> None:
        for subject, mine in self._served:
            endpoints = self._broker.endpoints[subject]
            self._broker.endpoints[subject] = [each for each in endpoints if each[0] != mine]


class _MemoryTimers:
    def __init__(self, broker: MemoryBroker) -> None:
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


class _MemoryFeed(Generic[T]):
    """What whoever listens hears, and nobody stores."""

    def __init__(self, listeners: list[Callable[[T], None]]) -> None:
        self._listeners = listeners

    async def publish(self, item: T) -> None:
        for listener in list(self._listeners):
            listener(item)

    async def subscribe(self, handler: Callable[[T], None]) -> Subscription:
        self._listeners.append(handler)
        return _Removable(self._listeners, handler)


class _MemoryPreviewLogs:
    def __init__(self, broker: MemoryBroker) -> None:
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
        return _Removable(self._broker.log_listeners, handler)


class _MemoryObjects:
    def __init__(self, broker: MemoryBroker) -> None:
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
