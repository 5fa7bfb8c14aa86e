"""Events of some subjects only, for readers that want little of a large log: never more than a batch is in memory."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import api
from nats.js.errors import APIError

from shared.codec import Recorded
from shared.jetstream.following import unreachable
from shared.jetstream.reading import ANSWER_TIMEOUT_S, BATCH_BYTES_MAX, BATCH_EVENTS, recorded_of
from shared.jetstream.topology import EVENTS

SUBJECTS_MAX = 100_000
_SUBJECT = f"$JS.API.DIRECT.GET.{EVENTS}"
_NOT_FOUND, _END = "404", "204"


async def of_subject(client: Client, subject: str, after: int = 0, until: int | None = None) -> AsyncIterator[Recorded]:
    """The events after `after`, up to `until` or the last one, whose subject fits (it may hold wildcards), in order.

    Raises `Unavailable` where the log does not answer.
    """
    while until is None or after < until:
        batch = await _batch(client, subject, after + 1)
        for recorded in batch:
            if until is not None and recorded.seq > until:
                return
            after = recorded.seq
            yield recorded
        if not batch:
            return


async def ids_of(client: Client, subject: str) -> list[str]:
    """The aggregates' ids of the subjects that fit; at most `SUBJECTS_MAX`. Raises `Unavailable`."""
    try:
        info = await client.jetstream().stream_info(EVENTS, subjects_filter=subject)
    except (nats.errors.Error, APIError, TimeoutError) as error:
        raise unreachable(error) from error
    return [each.split(".")[4] for each in list(info.state.subjects or {})[:SUBJECTS_MAX]]


async def _batch(client: Client, subject: str, seq: int) -> list[Recorded]:
    """The first events from `seq` on that fit; none: there are no more."""
    found: list[Msg] = []
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def take(message: Msg) -> None:
        status = (message.headers or {}).get(api.Header.STATUS.value)
        if status is None:
            found.append(message)
        elif not ended.done():
            ended.set_result(status)

    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox, cb=take)
    try:
        request = {"seq": seq, "next_by_subj": subject, "batch": BATCH_EVENTS, "max_bytes": BATCH_BYTES_MAX}
        await client.publish(_SUBJECT, msgspec.json.encode(request), reply=inbox)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(ended), ANSWER_TIMEOUT_S)
    except nats.errors.Error as error:
        raise unreachable(error) from error
    finally:
        with contextlib.suppress(nats.errors.Error):  # already closed
            await subscription.unsubscribe()
    status = ended.result() if ended.done() else ""
    if status not in (_NOT_FOUND, _END) and not found:
        raise unreachable(TimeoutError(f"it answered {status or 'nothing'}"))
    return [recorded_of(each) for each in found]
