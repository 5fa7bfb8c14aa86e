"""Durable consumers: a pull loop of our own, since `fetch` waits for full batches and iterators are slow."""

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsSubscription

from shared.codec import Recorded, decode
from shared.jetstream.parked import parked_of
from shared.jetstream.timers import timer_data
from shared.jetstream.topology import EVENTS, PARKED_ROOT, TIMER_DUE, TIMERS, reactor_name, timer_consumer_name
from shared.ports import Delivery, Subscription, TimerFired

log = logging.getLogger("drape.reactions")

BATCH = 200
EXPIRES_S = 5.0
PULL_RETRY_S = 0.5
STATUS_HEADER = "Status"

OnMessage = Callable[[Msg, "_NatsDelivery"], Awaitable[None]]


class NatsReactions:
    """The consumers that `topology.provision` made."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def events(self, service: str, handler: Callable[[Recorded, Delivery], Awaitable[None]]) -> Subscription:
        async def on_message(message: Msg, delivery: "_NatsDelivery") -> None:
            headers = message.headers or {}
            recorded = decode(
                message.data,
                seq=message.metadata.sequence.stream,
                subject=message.subject,
                traceparent=headers.get("traceparent", ""),
            )
            await handler(recorded, delivery)

        return await self._loop(service, EVENTS, reactor_name(service), on_message)

    async def timers(self, service: str, handler: Callable[[TimerFired, Delivery], Awaitable[None]]) -> Subscription:
        prefix = f"{TIMER_DUE}.{service}."

        async def on_message(message: Msg, delivery: "_NatsDelivery") -> None:
            name, _, timer_id = message.subject.removeprefix(prefix).partition(".")
            fired = TimerFired(
                name=name,
                id=timer_id,
                key=f"{name}-{timer_id}-{message.metadata.sequence.stream}",
                data=timer_data(message.data),
            )
            await handler(fired, delivery)

        return await self._loop(service, TIMERS, timer_consumer_name(service), on_message)

    async def _loop(self, service: str, stream: str, consumer: str, on_message: OnMessage) -> Subscription:
        loop = _PullLoop(self._client, service, stream, consumer, on_message)
        await loop.start()
        return loop


class _PullLoop:
    """Keeps one pull request of `BATCH` open and starts a task for each message; the consumer bounds their number."""

    def __init__(self, client: Client, service: str, stream: str, consumer: str, on_message: OnMessage) -> None:
        self._client = client
        self._service = service
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._consumer = consumer
        self._on_message = on_message
        self._inbox = client.new_inbox()
        self._subscription: NatsSubscription | None = None
        self._pull_done = asyncio.Event()
        self._received = 0
        self._draining = False
        self._tasks: dict[asyncio.Task[None], _NatsDelivery] = {}
        self._puller: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._subscription = await self._client.subscribe(self._inbox, cb=self._deliver)
        self._puller = asyncio.create_task(self._pull(), name=f"pull-{self._consumer}")

    async def _pull(self) -> None:
        request = json.dumps({"batch": BATCH, "expires": int(EXPIRES_S * 1e9)}).encode()
        while True:
            self._pull_done.clear()
            self._received = 0
            try:
                await self._client.publish(self._subject, request, reply=self._inbox)
                # A server that went away never ends the pull: ask again a little after it should have.
                await asyncio.wait_for(self._pull_done.wait(), EXPIRES_S + 1.0)
            except TimeoutError:
                continue
            except nats.errors.Error:
                await asyncio.sleep(PULL_RETRY_S)

    async def _deliver(self, message: Msg) -> None:
        status = (message.headers or {}).get(STATUS_HEADER)
        if status is not None:
            if status not in ("404", "408", "409", "503"):
                log.warning("pull_status", extra={"consumer": self._consumer, "status": status})
            if status not in ("404", "408"):
                # 409: its leader has changed, or too much is unacknowledged; 503: there is no such consumer, or it has no
                # leader now. Asking at once again would never end.
                await asyncio.sleep(PULL_RETRY_S)
            self._pull_done.set()
            return
        self._received += 1
        if self._received >= BATCH:
            self._pull_done.set()
        delivery = _NatsDelivery(self._client, message, self._service)
        if self._draining:
            await delivery.hand_back()
            return
        task = asyncio.create_task(self._run(message, delivery), name=f"{self._consumer}-{message.subject}")
        self._tasks[task] = delivery
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    async def _run(self, message: Msg, delivery: "_NatsDelivery") -> None:
        try:
            await self._on_message(message, delivery)
        except nats.errors.Error as error:
            # The acknowledgement did not get through: the message comes again after its wait.
            log.warning("reaction_unacknowledged", extra={"consumer": self._consumer, "error": str(error)})
        except Exception:
            log.exception("reaction_broke", extra={"consumer": self._consumer, "subject": message.subject})

    async def drain(self, limit_s: float) -> None:
        """Take no more; what lasts is handed back at once, the rest when it has not ended within `limit_s`."""
        if self._draining:
            return
        self._draining = True
        await _cancelled([self._puller] if self._puller is not None else [])
        if self._subscription is not None:
            # Whatever the server has sent by now comes first: it is handed back by `_deliver`.
            await self._subscription.drain()  # type: ignore[no-untyped-call]
        await self._hand_back([task for task, delivery in self._tasks.items() if delivery.lasting])
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=limit_s)
        await self._hand_back(list(self._tasks))

    async def _hand_back(self, tasks: "list[asyncio.Task[None]]") -> None:
        taken = [self._tasks[task] for task in tasks if task in self._tasks]
        await _cancelled(tasks)
        for delivery in taken:
            await delivery.hand_back()

    async def stop(self) -> None:
        """Take no more; what is under way is cancelled and will be delivered to another replica, or to us again."""
        tasks = [*self._tasks, *([self._puller] if self._puller is not None else [])]
        if self._subscription is not None:
            with contextlib.suppress(nats.errors.Error):  # already closed
                await self._subscription.unsubscribe()
        await _cancelled(tasks)


async def _cancelled(tasks: "list[asyncio.Task[None]]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class _NatsDelivery:
    def __init__(self, client: Client, message: Msg, service: str) -> None:
        self._client = client
        self._message = message
        self._service = service
        self._ended = False
        self.lasting = False

    @property
    def attempts(self) -> int:
        return self._message.metadata.num_delivered

    async def ack(self) -> None:
        self._ended = True
        await self._message.ack()

    async def retry(self, delay_s: float) -> None:
        self._ended = True
        await self._message.nak(delay=delay_s)

    async def hand_back(self) -> None:
        """Another replica may have it now, unless it has ended."""
        if not self._ended:
            self._ended = True
            await self._message.nak()

    async def in_progress(self) -> None:
        await self._message.in_progress()

    async def park(self, reason: str) -> None:
        parked = parked_of(self._message, self._service, reason, datetime.now(UTC).isoformat())
        js = self._client.jetstream(timeout=5)
        await js.publish(f"{PARKED_ROOT}.{parked.key}", msgspec.json.encode(parked))
        self._ended = True
        await self._message.term()
