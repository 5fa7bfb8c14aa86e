"""Event and state to effects, as data. Pure. An alert is told to each channel by a timer of its own: what fails on one of
them is tried again there alone."""

from collections.abc import Iterator, Sequence

import msgspec

from services.telemetry.model import Alert
from services.telemetry.state import State
from shared.codec import Recorded
from shared.effects import SetTimer
from shared.events import AlertCleared, AlertRaised, Event, SilenceEnded
from shared.ports import TimerFired


class LookAtAlerts(msgspec.Struct, frozen=True):
    """Have the alerts evaluated, with what the log does not say: parked reactions, who lags, what has been spent."""


class ApplyRetention(msgspec.Struct, frozen=True):
    """Have that dropped, or gathered, which is past keeping."""


class MeasureResources(msgspec.Struct, frozen=True):
    """Have a snapshot taken of what the pools are and use."""


class Deliver(msgspec.Struct, frozen=True, kw_only=True):
    """Tell this channel of the event `seq`; `attempt` counts from 1."""

    channel: str
    seq: int
    attempt: int


Effect = LookAtAlerts | ApplyRetention | MeasureResources | Deliver | SetTimer

ALERTS_TICK = "alerts"
RETENTION_TICK = "retention"
RESOURCES_TICK = "resources"
NOTIFY = "notify"

REACTS_TO: tuple[type[Event], ...] = (AlertRaised, AlertCleared, SilenceEnded)


def react(state: State, recorded: Recorded, channels: Sequence[str] = ()) -> Sequence[Effect]:
    """What has to happen because of this event: `channels`, those that are configured, are told."""
    known = [*state.alerts.values(), *state.ended.values()]
    event_id = recorded.meta.id
    match recorded.event:
        case AlertRaised() | SilenceEnded():
            return [each for alert in known if alert.announced == event_id for each in _tell(alert, channels)]
        case AlertCleared():
            # Of whom nobody was told that it had begun, nobody is told that it has ended.
            return [
                each
                for alert in known
                if alert.cleared == event_id and alert.announced
                for each in _over(alert, channels)
            ]
        case _:
            return []


def _tell(alert: Alert, channels: Sequence[str]) -> Iterator[Effect]:
    return (_timer(channel, alert.id, alert.seq) for channel in channels)


def _over(alert: Alert, channels: Sequence[str]) -> Iterator[Effect]:
    return (_timer(channel, alert.cleared, alert.cleared_seq) for channel in channels)


def _timer(channel: str, notice: str, seq: int) -> SetTimer:
    data: dict[str, str | int] = {"channel": channel, "seq": seq, "attempt": 1}
    return SetTimer(name=NOTIFY, id=f"{channel}-{notice}", delay_s=0.0, data=data)


def on_timer(_state: State, fired: TimerFired) -> Sequence[Effect]:
    """What has to happen because time has passed."""
    match fired.name:
        case "alerts":
            return [LookAtAlerts()]
        case "retention":
            return [ApplyRetention()]
        case "resources":
            return [MeasureResources()]
        case "notify":
            channel, seq, attempt = (fired.data[name] for name in ("channel", "seq", "attempt"))
            return [Deliver(channel=str(channel), seq=int(seq), attempt=int(attempt))]
        case _:
            return []  # a timer of another version of this service
