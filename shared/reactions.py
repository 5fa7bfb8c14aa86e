"""Reactions of one replica: what an event or a timer asks for is done, acknowledged, brought again or parked."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from shared import metrics, telemetry, tracing
from shared.codec import Recorded
from shared.definition import Effect
from shared.effects import Send, SetTimer
from shared.errors import DrapeError, Refused, Unavailable
from shared.ids import derive
from shared.parked import REPLAY
from shared.ports import Cause, Delivery, Timer, TimerFired
from shared.remembered import Remembered

if TYPE_CHECKING:
    from shared.runtime import Runtime

log = logging.getLogger("drape.runtime")

S = TypeVar("S")
FAILING_MAX = 10_000
"""Reactions whose failures are counted."""
Perform = Callable[[Effect, Cause], Awaitable[None]]


class Reactor(Generic[S]):
    """Effects other than commands and timers go to `perform`."""

    def __init__(self, runtime: "Runtime[S]", perform: Perform) -> None:
        self._runtime = runtime
        self._effect = perform
        self._failures: Remembered[int] = Remembered(FAILING_MAX)

    async def event(self, recorded: Recorded, delivery: Delivery) -> None:
        """Do what the event asks for, once the state holds it."""
        runtime = self._runtime
        metrics.consumed(recorded.type)

        async def work() -> None:
            await runtime.until(recorded.seq, timeout_s=runtime.limits.fold_wait_s)
            if delivery.attempts > 1:  # another replica may have done some of it, and stored what came of that
                await runtime.catch_up()
            name, traced = runtime.definition.name, runtime.definition.trace_of(runtime.state, recorded)
            with tracing.reacting(name, recorded, traced, delivery.attempts, runtime.clock()) as reaction:
                begun = time.perf_counter()
                effects = runtime.definition.react(runtime.state, recorded)
                delivery.lasting = any(getattr(each, "lasting", False) for each in effects)
                endless = any(getattr(each, "endless", False) for each in effects)
                if endless:
                    reaction.end()
                await self._perform_all(effects, recorded)
                if not endless:
                    metrics.process_duration.record(time.perf_counter() - begun, {"drape.event": recorded.type})

        await self._deliver(f"{recorded.type} seq {recorded.seq}", delivery, work)

    async def _perform_all(self, effects: Sequence[Effect], recorded: Recorded) -> None:
        """One after another; a timer beside those that follow it, for storing it takes milliseconds.

        The event is not done before its timers are stored: should this replica die first, or a timer fail, it is heard
        again.
        """
        try:
            async with asyncio.TaskGroup() as timers:
                for index, effect in enumerate(effects):
                    work = self._perform(effect, _cause_of(recorded, index, self._runtime.actor), recorded.meta.at)
                    if isinstance(effect, SetTimer):
                        timers.create_task(work, name=f"timer-{effect.name}-{effect.id}")
                    else:
                        await work
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    async def timer(self, fired: TimerFired, delivery: Delivery) -> None:
        """Do what time having passed asks for; or hear an event again that was parked."""
        if fired.name == REPLAY:
            seq = int(fired.data["seq"])
            async for recorded in self._runtime.bus.log.read(seq - 1, seq):
                await self.event(recorded, delivery)
            return

        set_in = str(fired.data.get(tracing.TRACE, ""))
        data = {key: value for key, value in fired.data.items() if key != tracing.TRACE}
        fired = msgspec.structs.replace(fired, data=data)

        async def work() -> None:
            await self._runtime.catch_up()  # a timer has no sender who could say what it must be decided on
            with telemetry.apart():
                if not set_in:  # a tick: what comes of it has traces of its own
                    await self._perform_fired(fired)
                    return
                with tracing.firing(self._runtime.definition.name, fired, set_in):
                    await self._perform_fired(fired)

        await self._deliver(f"timer {fired.key}", delivery, work)

    async def _perform_fired(self, fired: TimerFired) -> None:
        name = self._runtime.definition.name
        for index, effect in enumerate(self._runtime.definition.on_timer(self._runtime.state, fired)):
            cause = Cause(
                causation_id=derive(fired.key, name, index),
                actor=self._runtime.actor,
                traceparent=telemetry.carrier(),
            )
            await self._perform(effect, cause, self._runtime.clock())

    async def _perform(self, effect: Effect, cause: Cause, since: float) -> None:
        match effect:
            case Send(command):
                command_id = command.id or derive(cause.causation_id, type(command).__name__)
                await self._runtime.send(msgspec.structs.replace(command, id=command_id), cause)
            case SetTimer(name, timer_id, delay_s, data):
                # From the event on, not from its hearing: a replica that dies again and again moves no limit.
                at = max(self._runtime.clock(), since + delay_s)
                if cause.traceparent:
                    data = {**data, tracing.TRACE: cause.traceparent}
                timer = Timer(service=self._runtime.definition.name, name=name, id=timer_id, at=at, data=data)
                await self._runtime.bus.timers.schedule(timer)
            case _:
                await self._effect(effect, cause)

    async def _deliver(self, what: str, delivery: Delivery, work: Callable[[], Awaitable[None]]) -> None:
        """Do the work and acknowledge it; a failure brings it again later, too many failures park it."""
        alive = asyncio.create_task(_report_progress(delivery, self._runtime.limits.progress_report_s))
        try:
            await work()
        except Exception as error:
            await self._failed(what, delivery, error)
        else:
            await delivery.ack()
        finally:
            alive.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await alive

    async def _failed(self, what: str, delivery: Delivery, error: Exception) -> None:
        # Not the deliveries: what lasts is also given out again whenever its replica is replaced, and has not failed then.
        attempts = (self._failures.get(what) or 0) + 1
        self._failures[what] = attempts
        away = isinstance(error, Unavailable)
        if not isinstance(error, Refused):
            metrics.reaction_failures.add(1, {"error.type": metrics.error_type(error)})
        extra = {"what": what, "attempts": attempts, "error": f"{type(error).__name__}: {error}"}
        if isinstance(error, Refused):
            # The world has moved on since the event: a decision said so, and will say so again.
            log.info("reaction_refused", extra=extra)
            await delivery.ack()
        elif attempts >= (
            self._runtime.limits.reaction_outages_max if away else self._runtime.limits.reaction_attempts_max
        ):
            log.error("reaction_parked", extra=extra)
            self._failures[what] = 0  # heard again, it is tried as often
            await delivery.park(f"{type(error).__name__}: {error}")
        else:
            expected = isinstance(error, DrapeError)
            log.log(
                logging.WARNING if expected else logging.ERROR, "reaction_failed", extra=extra, exc_info=not expected
            )
            await delivery.retry(min(self._runtime.limits.reaction_retry_max_s, 0.1 * 2 ** min(attempts, 10)))


def _cause_of(recorded: Recorded, index: int, actor: str) -> Cause:
    return Cause(
        correlation_id=recorded.meta.correlation_id,
        causation_id=derive(recorded.meta.id, "effect", index),
        actor=actor,
        traceparent=telemetry.carrier() or recorded.meta.traceparent,
        at=recorded.meta.at,
    )


async def _report_progress(delivery: Delivery, period_s: float) -> None:
    while True:
        await asyncio.sleep(period_s)
        try:
            await delivery.in_progress()
        except Exception as error:
            # The connection is away: if it stays away, the work is another replica's.
            log.debug("progress_unreported", extra={"error": str(error)})
