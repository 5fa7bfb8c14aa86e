"""Durable consumers and requests at the end of a wire: given out to any replica that can be reached, given out again when
no word of them comes back in time."""

import asyncio
import contextvars
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from random import Random
from typing import Any

from deploy.simulation.wire import Wire
from shared.asking import Absent, Asking
from shared.codec import Recorded
from shared.memory import ACK_WAIT_S
from shared.memory.commands import Served, answered
from shared.ports import Delivery, Handler, Subscription, TimerFired

log = logging.getLogger("drape.simulation")

UNDER_WAY_MAX = 1_000
"""Messages of a consumer that are given out and not acknowledged; more wait."""


class Message:
    """One message of a durable consumer. `deliveries`: how often it was given out; only the newest one may expire."""

    def __init__(self, item: Any) -> None:
        self.item = item
        self.deliveries = 0
        self.acknowledged = False
        self.waiting = True


class Durable:
    """A durable consumer, as the server keeps it; in the place of `shared.memory`'s queue."""

    def __init__(self, random: Random) -> None:
        self.types: frozenset[str] | None = None
        self.messages: deque[Message] = deque()
        self.under_way: set[Message] = set()
        self.longest = 0
        self._random = random
        self._consumers: list[_Consumer] = []

    @property
    def waiting(self) -> list[tuple[Any, int]]:
        """What nobody has got, with how often it was given out before."""
        return [(message.item, message.deliveries) for message in self.messages]

    def put(self, item: Any, attempts: int = 1) -> None:
        self._queue(Message(item))

    def again(self, message: Message) -> None:
        """Give it out once more, unless it has been acknowledged meanwhile, or waits already."""
        if not message.acknowledged and not message.waiting:
            message.waiting = True
            self._queue(message)

    def _queue(self, message: Message) -> None:
        self.under_way.discard(message)
        self.messages.append(message)
        self.longest = max(self.longest, len(self.messages))
        self.give_out()

    def end(self, message: Message) -> None:
        """It is done, or parked."""
        message.acknowledged = True
        self.under_way.discard(message)
        self.give_out()

    def give_out(self) -> None:
        """As many as there are takers for. One that is cut off is not known to be: what it gets is lost until it expires."""
        while self.messages and self._consumers and len(self.under_way) < UNDER_WAY_MAX:
            message = self.messages.popleft()
            message.waiting = False
            if message.acknowledged:
                continue
            message.deliveries += 1
            self.under_way.add(message)
            self._random.choice(self._consumers).deliver(message, message.deliveries)

    def join(self, consumer: "_Consumer") -> None:
        self._consumers.append(consumer)
        self.give_out()

    def leave(self, consumer: "_Consumer") -> None:
        if consumer in self._consumers:
            self._consumers.remove(consumer)


class RemoteReactions:
    """`first_ack`: acknowledge before the work, as one must not."""

    def __init__(self, wire: Wire, *, first_ack: bool = False) -> None:
        self._wire = wire
        self._first_ack = first_ack

    async def events(self, service: str, handler: Callable[[Recorded, Delivery], Awaitable[None]]) -> Subscription:
        return self._consume(service, self._wire.broker.event_queues[service], handler)

    async def timers(self, service: str, handler: Callable[[TimerFired, Delivery], Awaitable[None]]) -> Subscription:
        return self._consume(service, self._wire.broker.timer_queues[service], handler)

    def _consume(self, service: str, queue: Any, handler: Callable[[Any, Delivery], Awaitable[None]]) -> Subscription:
        consumer = _Consumer(self._wire, queue, handler, service, self._first_ack)
        queue.join(consumer)
        return consumer


class _Consumer:
    """One replica's pull on a durable consumer."""

    def __init__(
        self,
        wire: Wire,
        queue: Durable,
        handler: Callable[[Any, Delivery], Awaitable[None]],
        service: str,
        first_ack: bool,
    ) -> None:
        self._wire = wire
        self._queue = queue
        self._handler = handler
        self._service = service
        self._first_ack = first_ack
        self._draining = False
        self._context = contextvars.copy_context()
        self._tasks: dict[asyncio.Task[None], RemoteDelivery] = {}

    def deliver(self, message: Message, attempts: int) -> None:
        """On its way; and back in the queue, unless word of it comes."""
        delivery = RemoteDelivery(self._wire, self._queue, message, attempts, self._service)
        self._wire.receive(lambda: self._begin(message.item, delivery))

    def _begin(self, item: Any, delivery: "RemoteDelivery") -> None:
        work = self._work(item, delivery)
        task = asyncio.create_task(work, name=f"{self._service}-reaction", context=self._context.copy())
        self._tasks[task] = delivery
        task.add_done_callback(partial(self._done, delivery))

    def _done(self, delivery: "RemoteDelivery", task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if self._draining:
            delivery.hand_back()

    async def _work(self, item: Any, delivery: "RemoteDelivery") -> None:
        if self._first_ack:
            await delivery.ack()
        try:
            await self._handler(item, delivery)
        except Exception:
            log.exception("reaction_broke", extra={"consumer": self._service})

    async def drain(self, limit_s: float) -> None:
        """As the JetStream pull loop does it: what lasts is handed back, what is short may end."""
        self._draining = True
        self._queue.leave(self)
        await self._cancel([task for task, delivery in self._tasks.items() if delivery.lasting])
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=limit_s)
        await self._cancel(list(self._tasks))

    async def _cancel(self, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def stop(self) -> None:
        self._queue.leave(self)
        await self._cancel(list(self._tasks))


class RemoteDelivery:
    """One giving-out of a message. Its words go to the server unheard of, as acknowledgements do."""

    def __init__(self, wire: Wire, queue: Durable, message: Message, attempts: int, service: str) -> None:
        self._wire = wire
        self._queue = queue
        self._message = message
        self._service = service
        self.attempts = attempts
        self.lasting = False
        self._ended = False
        self._expiry = asyncio.get_running_loop().call_later(ACK_WAIT_S, self._expire)

    def _expire(self) -> None:
        if self._message.deliveries == self.attempts:
            self._queue.again(self._message)

    def hand_back(self) -> None:
        """Its work has not ended here: another replica may take it up at once."""
        if not self._ended:
            self._wire.send(self._expire)

    async def ack(self) -> None:
        self._ended = True
        if self._wire.random.random() >= self._wire.weather.again:
            self._wire.send(self._end)

    def _end(self) -> None:
        self._expiry.cancel()
        self._queue.end(self._message)

    async def retry(self, delay_s: float) -> None:
        self._ended = True

        def arrive() -> None:
            self._expiry.cancel()
            asyncio.get_running_loop().call_later(delay_s, self._expire)

        self._wire.send(arrive)

    async def in_progress(self) -> None:
        def arrive() -> None:
            if not self._expiry.cancelled() and not self._message.acknowledged:
                self._expiry.cancel()
                self._expiry = asyncio.get_running_loop().call_later(ACK_WAIT_S, self._expire)

        self._wire.send(arrive)

    async def park(self, reason: str) -> None:
        def arrive() -> None:
            self._wire.broker.parked.park(self._service, self._message.item, self.attempts, reason)
            self._end()

        self._ended = True
        await self._wire.ask(arrive)


class RemoteCommands(Asking):
    """Requests: answered by any replica of the service; what was done may stay unheard of."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def _request(self, subject: str, body: bytes, headers: dict[str, str], timeout_s: float) -> bytes:
        answer: asyncio.Future[bytes | Exception] = asyncio.get_running_loop().create_future()

        def resolve(outcome: bytes | Exception) -> None:
            if not answer.done():
                answer.set_result(outcome)

        def respond(outcome: bytes | Exception) -> None:
            if self._wire.random.random() >= self._wire.weather.lost:
                self._wire.receive(partial(resolve, outcome))

        def arrive() -> None:
            endpoints = self._wire.broker.endpoints.get(subject)
            if not endpoints:
                respond(Absent(subject))
                return
            handler, context = self._wire.random.choice(endpoints)
            context[_reach](partial(_begin, handler, body, headers, respond, subject, context))

        self._wire.send(arrive)
        await asyncio.wait({answer}, timeout=timeout_s)
        if not answer.done():
            raise TimeoutError
        outcome = answer.result()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def serve(
        self, service: str, commands: Mapping[str, Handler], queries: Mapping[str, Handler]
    ) -> Subscription:
        served = [(f"cmd.{service}.{name}", handler) for name, handler in commands.items()]
        served += [(f"query.{service}.{name}", handler) for name, handler in queries.items()]
        context = contextvars.copy_context()
        context.run(_reach.set, self._wire.receive)
        context.run(_answering.set, self._wire)
        for subject, handler in served:
            self._wire.broker.endpoints[subject].append((handler, context))
        return Served(self._wire.broker, served)


_reach: contextvars.ContextVar[Callable[[Callable[[], None]], None]] = contextvars.ContextVar("reach")
"""Gets a request to the replica that serves it."""
_answering: contextvars.ContextVar[Wire] = contextvars.ContextVar("answering")


def _begin(
    handler: Handler,
    body: bytes,
    headers: Mapping[str, str],
    respond: Callable[[bytes | Exception], None],
    subject: str,
    context: contextvars.Context,
) -> None:
    """A task of the server's: it goes on without its caller, and ends with its replica."""

    async def answer() -> None:
        outcome = await answered(handler, body, headers)
        _answering.get().send(partial(respond, outcome))

    asyncio.create_task(answer(), name=subject, context=context.copy())  # noqa: RUF006 the replica holds its tasks
