"""Delivers notices: one try of one channel at a time, so that none holds up another; a timer brings the next try.

At least once: a replica that dies between the delivery and its event delivers again, under the same id.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from services.telemetry.config import NotifyConfig
from services.telemetry.model import Alert
from services.telemetry.notices import Notice, notice_of, trial
from services.telemetry.ports import Channel, Undelivered
from services.telemetry.react import NOTIFY, Deliver
from services.telemetry.state import State
from shared.commands import Command, RecordNotification
from shared.ids import derive
from shared.ports import Cause, EventLog, Timer, Timers
from shared.ulids import new_id

log = logging.getLogger("drape.telemetry")


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a test of one channel; `code` empty: it has the notice."""

    channel: str
    ok: bool
    code: str = ""


class Notifier:
    """Of all channels that are configured, by name."""

    def __init__(
        self,
        channels: Mapping[str, Channel],
        events: EventLog,
        timers: Timers,
        send: Callable[[Command, Cause], Awaitable[bytes]],
        state: Callable[[], State],
        config: NotifyConfig,
        clock: Callable[[], float],
    ) -> None:
        self._channels = channels
        self._events = events
        self._timers = timers
        self._send = send
        self._state = state
        self._config = config
        self._clock = clock

    async def deliver(self, effect: Deliver, cause: Cause) -> None:
        """One try. What came of the last is recorded; another one has a timer."""
        notice = await self._notice(effect.seq)
        channel = self._channels.get(effect.channel)
        if notice is None or channel is None or _is_told(self._state(), effect.channel, notice):
            return  # the channel is configured no more, or the timer is heard again
        try:
            await channel.send(notice)
        except Undelivered as error:
            log.warning(
                "notification_failed",
                extra={"channel": channel.name, "alert": notice.alert, "code": error.code, "attempts": effect.attempt},
            )
            if effect.attempt < self._config.attempts_max:
                await self._again(effect, notice, error)
            else:
                await self._record(effect, notice, error.code, cause)
        else:
            await self._record(effect, notice, "", cause)

    async def test(self, name: str) -> list[Tried]:
        """A test to this channel, or to all (empty), and what came of it. Nothing is tried again."""
        notice = trial(new_id(), self._clock())
        tried = []
        for channel in self._channels.values():
            if name in ("", channel.name):
                try:
                    await channel.send(notice)
                except Undelivered as error:
                    tried.append(Tried(channel=channel.name, ok=False, code=error.code))
                else:
                    tried.append(Tried(channel=channel.name, ok=True))
        return tried

    async def _notice(self, seq: int) -> Notice | None:
        async for recorded in self._events.read(seq - 1, seq):
            return notice_of(recorded)
        return None

    async def _again(self, effect: Deliver, notice: Notice, error: Undelivered) -> None:
        doubled = self._config.retry_s * 2 ** min(effect.attempt - 1, 16)
        pause_s = min(self._config.retry_max_s, max(doubled, error.retry_after_s))
        timer = Timer(
            service="telemetry",
            name=NOTIFY,
            id=f"{effect.channel}-{notice.id}",
            at=self._clock() + pause_s,
            data={"channel": effect.channel, "seq": effect.seq, "attempt": effect.attempt + 1},
        )
        await self._timers.schedule(timer)

    async def _record(self, effect: Deliver, notice: Notice, code: str, cause: Cause) -> None:
        assert notice.kind != "test"
        command = RecordNotification(
            id=derive(notice.id, "notified", effect.channel),
            alert=notice.alert,
            channel=effect.channel,
            kind=notice.kind,
            notice=notice.id,
            attempts=effect.attempt,
            code=code,
        )
        await self._send(command, cause)


def _is_told(state: State, channel: str, notice: Notice) -> bool:
    raised = state.alerts.get(notice.alert)
    known: list[Alert] = [*([raised] if raised is not None else []), *state.ended.values()]
    return any(
        told.channel == channel and told.kind == notice.kind
        for alert in known
        if notice.id in (alert.id, alert.cleared)
        for told in alert.told
    )
