"""The event log: one append function, one way to follow."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import api
from nats.js.client import JetStreamContext
from nats.js.errors import APIError, NotFoundError

from shared.codec import ALL_EVENTS, Meta, Recorded, decode, encode, filter_of, subject_of
from shared.errors import Unavailable
from shared.events import Event, aggregate_key
from shared.jetstream.bulk import Replay
from shared.jetstream.topology import EVENTS
from shared.ports import Head, Subscription, WrongLastSequence

log = logging.getLogger("drape.log")

APPEND_TIMEOUT_S = 5.0
FOLLOW_HEARTBEAT_S = 1.0
FOLLOW_RETRY_S = 0.5
YIELD_EVERY = 500
"""Events folded before other work gets its turn: a long replay must not starve the connection's pings."""

WRONG_LAST_SEQUENCE = (10071, 10164)
"""10071 comes from a single server, 10164 from a cluster when two writers race."""


class NatsEventLog:
    """The stream `DRAPE_EVENTS`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._js = client.jetstream(timeout=APPEND_TIMEOUT_S)

    async def append(self, event: Event, meta: Meta, *, after: int) -> int:
        headers = {
            api.Header.MSG_ID.value: meta.id,
            "Nats-Expected-Last-Subject-Sequence": str(after),
            "Nats-Expected-Last-Subject-Sequence-Subject": filter_of(aggregate_key(event)),
            "Drape-Correlation-Id": meta.correlation_id,
            "Drape-Causation-Id": meta.causation_id,
            "Drape-Actor": meta.actor,
        }
        if meta.traceparent:
            headers["traceparent"] = meta.traceparent
        try:
            ack = await self._js.publish(subject_of(event), encode(event, meta), headers=headers)
        except APIError as error:
            if error.err_code in WRONG_LAST_SEQUENCE:
                raise WrongLastSequence(str(error.description)) from error
            raise Unavailable("append_failed", f"The event log refused an append: {error.description}") from error
        except (nats.errors.Error, TimeoutError) as error:
            raise _unreachable(error) from error
        return ack.seq

    async def head(self, key: str) -> Head:
        try:
            message = await self._js.get_last_msg(EVENTS, filter_of(key), direct=False)
        except NotFoundError:
            return Head()
        except (nats.errors.Error, APIError, TimeoutError) as error:
            raise _unreachable(error) from error
        recorded = decode(message.data or b"", seq=message.seq or 0, subject=message.subject or "")
        return Head(seq=recorded.seq, rev=recorded.meta.rev)

    async def last_seq(self) -> int:
        try:
            return (await self._js.stream_info(EVENTS)).state.last_seq
        except NotFoundError as error:
            raise Unavailable(
                "not_provisioned", f"NATS has no stream {EVENTS}", "Run `drape provision` once (`drape up` does it)."
            ) from error
        except (nats.errors.Error, APIError, TimeoutError) as error:
            raise _unreachable(error) from error

    async def follow(
        self, after: int, deliver: Callable[[Recorded], None], failed: Callable[[BaseException], None]
    ) -> Subscription:
        follower = _Follower(self._js, after, deliver, failed)
        await follower.start()
        return follower

    async def replay(
        self, after: int, until: int, types: frozenset[str] | None, deliver: Callable[[Recorded], None]
    ) -> None:
        await Replay(self._client, after, until, types, deliver).run()

    async def read(self, after: int = 0, until: int | None = None) -> AsyncIterator[Recorded]:
        last = await self.last_seq() if until is None else until
        if last <= after:
            return
        queue: asyncio.Queue[Recorded | BaseException] = asyncio.Queue()
        follower = await self.follow(after, queue.put_nowait, queue.put_nowait)
        try:
            while True:
                item = await asyncio.wait_for(queue.get(), APPEND_TIMEOUT_S)
                if isinstance(item, BaseException):
                    raise item
                if item.seq <= last:
                    yield item
                if item.seq >= last:
                    return
        finally:
            await follower.stop()


class _Follower:
    """An ordered consumer that notices gaps: nats-py can lose messages when its queue overflows."""

    def __init__(
        self,
        js: JetStreamContext,
        after: int,
        deliver: Callable[[Recorded], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._js = js
        self._last = after
        self._deliver = deliver
        self._failed = failed
        self._subscription: JetStreamContext.PushSubscription | None = None
        self._restarting: asyncio.Task[None] | None = None
        self._stopped = False

    async def start(self) -> None:
        try:
            self._subscription = await self._js.subscribe(
                ALL_EVENTS,
                stream=EVENTS,
                ordered_consumer=True,
                idle_heartbeat=FOLLOW_HEARTBEAT_S,
                config=api.ConsumerConfig(
                    deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=self._last + 1
                ),
                cb=self._on_message,
            )
        except (nats.errors.Error, APIError, TimeoutError) as error:
            raise _unreachable(error) from error

    async def _on_message(self, message: Msg) -> None:
        seq = message.metadata.sequence.stream
        if self._stopped or self._restarting is not None or seq <= self._last:
            return
        if seq != self._last + 1:
            log.warning("follow_gap", extra={"expected": self._last + 1, "got": seq})
            self._restarting = asyncio.create_task(self._restart())
            return
        headers = message.headers or {}
        try:
            self._deliver(
                decode(message.data, seq=seq, subject=message.subject, traceparent=headers.get("traceparent", ""))
            )
        except Exception as error:
            # A fold that fails must stop the service: going on would mean a state that nobody can rebuild.
            self._stopped = True
            self._failed(error)
            return
        self._last = seq
        if seq % YIELD_EVERY == 0:
            await asyncio.sleep(0)

    async def _restart(self) -> None:
        while not self._stopped:
            try:
                await self._unsubscribe()
                self._restarting = None
                await self.start()
            except Unavailable:
                await asyncio.sleep(FOLLOW_RETRY_S)
            else:
                return

    async def _unsubscribe(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            with contextlib.suppress(nats.errors.Error):  # already closed: that is what we want
                await subscription.unsubscribe()

    async def stop(self) -> None:
        self._stopped = True
        if self._restarting is not None:
            self._restarting.cancel()
        await self._unsubscribe()


def _unreachable(error: BaseException) -> Unavailable:
    return Unavailable(
        "log_unavailable",
        f"The event log does not answer ({str(error) or type(error).__name__}).",
        "NATS may be restarting; the request can be repeated with the same id.",
    )
