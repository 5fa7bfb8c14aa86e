"""The event log: one append function, one way to follow."""

import asyncio
from collections.abc import AsyncIterator, Callable

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import api
from nats.js.errors import APIError, NotFoundError

from shared.codec import ALL_EVENTS, Meta, Recorded, decode, encode, filter_of, subject_of
from shared.errors import Unavailable
from shared.events import Event, aggregate_key
from shared.jetstream.bulk import Replay
from shared.jetstream.following import CHECK_S, Follower, unreachable
from shared.jetstream.outages import passing
from shared.jetstream.reading import stretch
from shared.jetstream.topology import EVENTS
from shared.ports import Head, Subscription, WrongLastSequence

APPEND_TIMEOUT_S = 3.0
"""One try: longer than a loaded disk's sync, and short enough for a second one to reach the next leader."""
APPEND_LIMIT_S = 9.0
"""All tries: an election takes 4 to 9 s, and whoever sent the command waits 10."""
APPEND_PAUSE_S = 0.1
YIELD_EVERY = 500
"""Events folded before other work gets its turn: a long replay must not starve the connection's pings."""

WRONG_LAST_SEQUENCE = (10071, 10164)
"""10071 comes from a single server, 10164 from a cluster when two writers race."""
BEING_STORED = 10158
"""The cluster has this id already, from an earlier try, and has not heard from its majority yet."""


class NatsEventLog:
    """The stream `DRAPE_EVENTS`."""

    def __init__(self, client: Client, *, check_s: float = CHECK_S) -> None:
        self._js = client.jetstream(timeout=APPEND_TIMEOUT_S)
        self._client = client
        self._check_s = check_s

    async def append(self, event: Event, meta: Meta, *, after: int) -> int:
        """As the port says. Tried again under the same id, for `APPEND_LIMIT_S`, where no answer came or nobody leads."""
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
        subject, body = subject_of(event), encode(event, meta)
        deadline = asyncio.get_running_loop().time() + APPEND_LIMIT_S
        while True:
            try:
                return (await self._js.publish(subject, body, headers=headers)).seq
            except (nats.errors.Error, TimeoutError) as error:
                stored = await self._unless_refused(error, aggregate_key(event), meta.id, after)
                if stored is not None:
                    return stored
                if self._away() or asyncio.get_running_loop().time() >= deadline:
                    raise unreachable(error) from error
            await asyncio.sleep(APPEND_PAUSE_S)

    def _away(self) -> bool:
        """Whether waiting is in vain: the connection is lost, and no other server of a cluster takes its place."""
        return not self._client.is_connected and len(self._client.server_pool) < 2

    async def _unless_refused(self, error: BaseException, key: str, event_id: str, after: int) -> int | None:
        """The sequence at which the event is stored already; None where it can be tried again. Raises what is final.

        An earlier try may have been stored without our hearing of it. A single server then says "conflict", for it
        compares sequences before ids. It was stored as its aggregate's first event after `after`, or not at all.
        """
        if not isinstance(error, APIError) or error.err_code not in WRONG_LAST_SEQUENCE:
            if passing(error) or getattr(error, "err_code", None) == BEING_STORED:
                return None
            description = error.description if isinstance(error, APIError) else str(error)
            raise Unavailable("append_failed", f"The event log refused an append: {description}") from error
        try:
            first = await self._first_after(key, after)
        except Unavailable:
            return None
        if first is None:
            return None  # the writer that was ahead of us has not got its event stored, and may never get it
        if first.meta.id == event_id:
            return first.seq
        raise WrongLastSequence(str(error.description)) from error

    async def _first_after(self, key: str, after: int) -> Recorded | None:
        """The aggregate's first event after `after`, by the stream's leader: others may not have it yet."""
        try:
            message = await self._js.get_msg(EVENTS, seq=after + 1, subject=filter_of(key), next=True)
        except NotFoundError:
            return None
        except (nats.errors.Error, APIError, TimeoutError) as error:
            raise unreachable(error) from error
        return decode(message.data or b"", seq=message.seq or 0, subject=message.subject or "")

    async def head(self, key: str) -> Head:
        try:
            message = await self._js.get_last_msg(EVENTS, filter_of(key), direct=False)
        except NotFoundError:
            return Head()
        except (nats.errors.Error, APIError, TimeoutError) as error:
            raise unreachable(error) from error
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
            raise unreachable(error) from error

    async def follow(
        self, after: int, deliver: Callable[[Recorded], None], failed: Callable[[BaseException], None]
    ) -> Subscription:
        async def on_message(message: Msg, seq: int) -> bool:
            traceparent = (message.headers or {}).get("traceparent", "")
            try:
                deliver(decode(message.data, seq=seq, subject=message.subject, traceparent=traceparent))
            except Exception as error:
                # A fold that fails must stop the service: going on would mean a state that nobody can rebuild.
                failed(error)
                return False
            if seq % YIELD_EVERY == 0:
                await asyncio.sleep(0)
            return True

        follower = Follower(self._js, EVENTS, ALL_EVENTS, after, on_message, contiguous=True, check_s=self._check_s)
        await follower.start()
        return follower

    async def replay(
        self, after: int, until: int, types: frozenset[str] | None, deliver: Callable[[Recorded], None]
    ) -> None:
        await Replay(self._client, after, until, types, deliver).run()

    async def read(self, after: int = 0, until: int | None = None) -> AsyncIterator[Recorded]:
        last = await self.last_seq() if until is None else until
        async for recorded in stretch(self._client, after, last):
            yield recorded
