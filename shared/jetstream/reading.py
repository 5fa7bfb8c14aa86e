"""Events of a stretch of the log, for readers that take their time: a batch is asked for once the last one was taken.

A consumer would push all the rest of the log, however little of it is wanted. A direct get answers with what was asked
for and ends; any replica of the stream may answer it, so one that lags is asked again.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import api

from shared.codec import Recorded, decode
from shared.jetstream.following import unreachable
from shared.jetstream.topology import EVENTS

BATCH_EVENTS = 500
BATCH_BYTES_MAX = 4 * 1024 * 1024
ANSWER_TIMEOUT_S = 3.0
"""For a whole batch. What came of it until then counts."""
READ_TIMEOUT_S = 10.0
"""Without one event of those that are there: longer than an election takes."""
AGAIN_S = 0.1

_SUBJECT = f"$JS.API.DIRECT.GET.{EVENTS}"


async def stretch(client: Client, after: int, until: int) -> AsyncIterator[Recorded]:
    """The events after `after` up to `until`, all of which the log holds; never more than a batch is in memory.

    Raises `Unavailable` where none came for `READ_TIMEOUT_S`, and at once where the log is away when it begins.
    """
    clock = asyncio.get_running_loop().time
    patience = clock() + READ_TIMEOUT_S
    begin = after
    while after < until:
        batch: list[Recorded] = []
        try:
            batch = await _batch(client, after + 1, min(BATCH_EVENTS, until - after))
        except nats.errors.Error as error:
            if after == begin or clock() > patience:
                raise unreachable(error) from error
        for recorded in batch:
            after = recorded.seq
            yield recorded
        if batch:
            patience = clock() + READ_TIMEOUT_S
        elif clock() > patience:
            raise unreachable(TimeoutError(f"it gave nothing after event {after}"))
        else:
            await asyncio.sleep(AGAIN_S)


async def _batch(client: Client, seq: int, count: int) -> list[Recorded]:
    """The events from `seq` on, without a gap: `count`, or fewer where not all came."""
    found: list[Msg] = []
    ended = asyncio.Event()

    async def take(message: Msg) -> None:
        if api.Header.STATUS.value in (message.headers or {}):  # the end, an error, or nobody there
            ended.set()
            return
        found.append(message)
        if len(found) == count:
            ended.set()

    # Each in an inbox of its own, so that what is late of one is not taken for the next one's.
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox, cb=take)
    try:
        request = {"seq": seq, "batch": count, "max_bytes": BATCH_BYTES_MAX}
        await client.publish(_SUBJECT, msgspec.json.encode(request), reply=inbox)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), ANSWER_TIMEOUT_S)
    finally:
        with contextlib.suppress(nats.errors.Error):  # already closed
            await subscription.unsubscribe()
    events: list[Recorded] = []
    for message in found:
        recorded = recorded_of(message)
        if recorded.seq != seq + len(events):
            break
        events.append(recorded)
    return events


def recorded_of(message: Msg) -> Recorded:
    """The event that a direct get answered with."""
    headers = message.headers or {}
    return decode(
        message.data,
        seq=int(headers["Nats-Sequence"]),
        subject=headers["Nats-Subject"],
        traceparent=headers.get("traceparent", ""),
    )
