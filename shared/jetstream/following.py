"""Following a stream: an ordered consumer that is made anew where it has lost something, or stands still."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

import nats.errors
from nats.aio.msg import Msg
from nats.js import api
from nats.js.client import JetStreamContext
from nats.js.errors import APIError

from shared.errors import Unavailable

log = logging.getLogger("drape.log")

HEARTBEAT_S = 1.0
CHECK_S = 5.0
"""How long nothing may come before the stream is asked whether there was something."""
RETRY_S = 0.5
INACTIVE_S = 5.0
"""After so long without a listener the server forgets a consumer: what a follower leaves behind needs no deleting, for
which a service has no permission. A stream takes 1,000 consumers; a follower leaves at most one in `CHECK_S`."""


class Follower:
    """Delivers what a stream has after `after`, in order, until it is stopped or `deliver` gives False.

    `contiguous`: the stream has no gaps, so that one that is met was lost on the way; nats-py can lose messages when its
    queue overflows.

    Once a consumer has only sent heartbeats for `CHECK_S` the stream's own last sequence is looked at: after a change of
    leader a consumer may live on and deliver nothing.
    """

    def __init__(
        self,
        js: JetStreamContext,
        stream: str,
        subject: str,
        after: int,
        deliver: Callable[[Msg, int], Awaitable[bool]],
        *,
        contiguous: bool,
        check_s: float = CHECK_S,
    ) -> None:
        self._js = js
        self._stream = stream
        self._subject = subject
        self._last = after
        self._deliver = deliver
        self._contiguous = contiguous
        self._check_s = check_s
        self._subscription: JetStreamContext.PushSubscription | None = None
        self._life = 0
        self._restarting: asyncio.Task[None] | None = None
        self._checking: asyncio.Task[None] | None = None
        self._stopped = False

    async def start(self) -> None:
        """Raises `Unavailable` when the stream does not answer."""
        await self._subscribe()
        self._checking = asyncio.create_task(self._check(), name=f"check-{self._stream}")

    async def _subscribe(self) -> None:
        self._life += 1
        life = self._life

        async def on_message(message: Msg) -> None:
            # What an earlier subscription still has in its queue comes again in this one.
            if life == self._life:
                await self._on_message(message)

        try:
            self._subscription = await self._js.subscribe(
                self._subject,
                stream=self._stream,
                ordered_consumer=True,
                idle_heartbeat=HEARTBEAT_S,
                config=api.ConsumerConfig(
                    deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE,
                    opt_start_seq=self._last + 1,
                    inactive_threshold=INACTIVE_S,
                ),
                cb=on_message,
            )
        except (nats.errors.Error, APIError, TimeoutError) as error:
            raise unreachable(error) from error

    async def _on_message(self, message: Msg) -> None:
        seq = message.metadata.sequence.stream
        if self._stopped or self._restarting is not None or seq <= self._last:
            return
        if self._contiguous and seq != self._last + 1:
            log.warning("follow_gap", extra={"stream": self._stream, "expected": self._last + 1, "got": seq})
            self._restart_soon()
            return
        self._last = seq
        if not await self._deliver(message, seq):
            self._stopped = True

    async def _check(self) -> None:
        """Compares what was delivered with what the stream had a whole period earlier."""
        there, seen = 0, self._last
        while not self._stopped:
            await asyncio.sleep(self._check_s)
            if self._restarting is not None:
                continue
            if self._last == seen < there:
                log.warning("follow_stalled", extra={"stream": self._stream, "at": self._last, "stream_at": there})
                self._restart_soon()
            seen = self._last
            try:
                there = (await self._js.stream_info(self._stream)).state.last_seq
            except (nats.errors.Error, APIError, TimeoutError) as error:
                log.info("follow_unchecked", extra={"stream": self._stream, "error": str(error)})

    def _restart_soon(self) -> None:
        self._restarting = asyncio.create_task(self._restart(), name=f"follow-{self._stream}")

    async def _restart(self) -> None:
        try:
            while not self._stopped:
                try:
                    await self._unsubscribe()
                    await self._subscribe()
                except Unavailable:
                    await asyncio.sleep(RETRY_S)
                else:
                    return
        finally:
            self._restarting = None

    async def _unsubscribe(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            with contextlib.suppress(nats.errors.Error):  # already closed: that is what we want
                await subscription.unsubscribe()

    async def stop(self) -> None:
        self._stopped = True
        for task in (self._checking, self._restarting):
            if task is not None:
                task.cancel()
        await self._unsubscribe()


def unreachable(error: BaseException) -> Unavailable:
    """The log is away: no connection, no leader, no answer."""
    return Unavailable(
        "log_unavailable",
        f"The event log does not answer ({str(error) or type(error).__name__}).",
        "NATS may be restarting or electing a leader; the request can be repeated with the same id.",
    )
