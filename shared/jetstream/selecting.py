"""Events under some subjects only, in order and once each: those that are there, and, followed, those that come.

The server picks them, and keeps what was not asked for yet: whoever reads slowly has no queue that could overflow. Where
the connection, the server or the consumer is lost, another consumer begins behind the last event that was taken.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import api
from nats.js.errors import APIError

from shared.codec import Recorded, decode
from shared.jetstream.following import unreachable
from shared.jetstream.outages import passing
from shared.jetstream.topology import EVENTS

BATCH_EVENTS = 200
"""Asked for at a time, so at most as many wait in memory."""
ASK_S = 10.0
"""A request for events that are yet to come lasts so long, then the next one is sent."""
HEARTBEAT_S = 1.0
SILENCE_MAX_S = 4.0
"""Without an event, an answer or a heartbeat for so long, the consumer counts as lost."""
SETTLE_S = 1.0
"""On a cluster a server may be behind by so much when it says that there is no more."""
INACTIVE_S = 10.0
"""After so long without a request the server forgets a consumer that was left behind."""
AGAIN_S = 0.5
PATIENCE_S = 30.0
"""Of who reads what is there. Who follows waits for ever."""
REQUEST_TIMEOUT_S = 5.0

_ENDED = ("404", "408")
_HEARTBEAT = "100"


class _Lost(Exception):
    """The consumer gives no more, or has left something out; the message says why."""


async def selected(client: Client, subjects: Sequence[str], after: int, until: int | None) -> AsyncGenerator[Recorded]:
    """The events under `subjects` (none overlaps another) after `after`, up to `until`; for ever where that is None.

    Raises `Unavailable` where the log is away when it begins, or, with `until`, for `PATIENCE_S`.
    """
    clock = asyncio.get_running_loop().time
    patience, begun = clock() + PATIENCE_S, False
    while until is None or after < until:
        try:
            async with _Consumer(client, subjects, after, follow=until is None) as consumer:
                begun = True
                async for recorded in consumer.events():
                    if until is not None and recorded.seq > until:
                        return
                    after, patience = recorded.seq, clock() + PATIENCE_S
                    yield recorded
            return
        except (_Lost, nats.errors.Error, TimeoutError) as error:
            refused = isinstance(error, APIError) and not passing(error)
            if refused or not begun or (until is not None and clock() > patience):
                raise unreachable(error) from error
        await asyncio.sleep(AGAIN_S)


class _Consumer:
    """One consumer of the server's, for as long as it lives."""

    def __init__(self, client: Client, subjects: Sequence[str], after: int, *, follow: bool) -> None:
        self._client = client
        self._subjects = list(subjects)
        self._after = after
        self._follow = follow
        self._alone = len(client.servers) < 2
        self._arrived: asyncio.Queue[Msg] = asyncio.Queue()  # never more than was asked for, and some answers
        self._inbox = client.new_inbox()
        self._ask = ""
        self._taken = 0

    async def __aenter__(self) -> "_Consumer":
        self._subscription = await self._client.subscribe(self._inbox, cb=self._arrived.put)
        config = api.ConsumerConfig(
            description="Reads selected events, for a person",
            deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=self._after + 1,
            filter_subjects=self._subjects,
            ack_policy=api.AckPolicy.NONE,
            max_deliver=1,
            inactive_threshold=INACTIVE_S,
            mem_storage=True,
            num_replicas=1,
        )
        made = await self._client.jetstream(timeout=REQUEST_TIMEOUT_S).add_consumer(EVENTS, config)
        self._ask = f"$JS.API.CONSUMER.MSG.NEXT.{EVENTS}.{made.name}"
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(nats.errors.Error):  # already closed
            await self._subscription.unsubscribe()

    async def events(self) -> AsyncIterator[Recorded]:
        """One after the other. Ends where there are no more and nobody wants to wait for others."""
        wait_s = ASK_S if self._follow else 0.0
        while True:
            async for message in self._answer(wait_s):
                seq = message.metadata.sequence
                self._taken += 1
                if seq.consumer != self._taken:
                    raise _Lost(f"message {self._taken} of the consumer did not arrive")
                traceparent = (message.headers or {}).get("traceparent", "")
                yield decode(message.data, seq=seq.stream, subject=message.subject, traceparent=traceparent)
            if not self._follow and self._over and (self._alone or wait_s):
                return
            wait_s = ASK_S if self._follow else SETTLE_S if self._over else 0.0

    async def _answer(self, wait_s: float) -> AsyncIterator[Msg]:
        """What one request brings; `_over`: fewer than were asked for."""
        request: dict[str, object] = {"batch": BATCH_EVENTS}
        if wait_s:
            request["expires"] = int(wait_s * 1e9)
            if wait_s > 2 * HEARTBEAT_S:
                request["idle_heartbeat"] = int(HEARTBEAT_S * 1e9)
        else:
            request["no_wait"] = True
        self._over = False
        await self._client.publish(self._ask, msgspec.json.encode(request), reply=self._inbox)
        left = BATCH_EVENTS
        while left:
            message = await asyncio.wait_for(self._arrived.get(), SILENCE_MAX_S)
            status = (message.headers or {}).get(api.Header.STATUS.value)
            if status == _HEARTBEAT:
                continue
            if status in _ENDED:
                self._over = True
                return
            if status is not None:
                raise _Lost((message.headers or {}).get(api.Header.DESCRIPTION.value) or f"status {status}")
            left -= 1
            yield message
