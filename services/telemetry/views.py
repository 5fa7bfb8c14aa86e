"""What others may read of telemetry's state. Pure. Times are seconds, UTC."""

from collections.abc import Sequence

import msgspec

from services.telemetry.model import ALERTS, Alert, Silence, Told, silenced
from services.telemetry.state import State
from shared.commands import Command, EndSilence, Reply, SilenceAlert, SilenceReply
from shared.events.telemetry import Severity
from shared.measures import Measure

RECENT_MAX = 50


class AlertView(msgspec.Struct, frozen=True, kw_only=True):
    """One alert that is raised now, or (`cleared_at`) was. `notifications`: who was told of it, oldest first."""

    alert: str
    severity: Severity
    message: str
    value: float | None
    threshold: float | None
    since: float
    raised_at: float
    silenced: bool
    notifications: tuple[Told, ...]
    cleared_at: float | None = None
    lasted_s: float | None = None


class Alerts(msgspec.Struct, frozen=True, kw_only=True):
    """`alerts`: raised now, by name; `recent`: over, newest first; `silences`: that last, by when they end; `channels`: that
    are told."""

    alerts: list[AlertView]
    recent: list[AlertView]
    silences: list[Silence]
    channels: Sequence[str]


def alerts(state: State, at: float, channels: Sequence[str] = ()) -> Alerts:
    """How it is at that time."""
    return Alerts(
        alerts=[_view(each, state, at) for _, each in sorted(state.alerts.items())],
        recent=[_view(each, state, at) for each in list(state.ended.values())[: -RECENT_MAX - 1 : -1]],
        silences=sorted((each for each in state.silences.values() if each.until > at), key=lambda each: each.until),
        channels=channels,
    )


def _view(alert: Alert, state: State, at: float) -> AlertView:
    return AlertView(
        alert=alert.alert,
        severity=alert.severity,
        message=alert.message,
        value=alert.value,
        threshold=alert.threshold,
        since=alert.since,
        raised_at=alert.raised_at,
        silenced=not alert.announced if alert.cleared_at else silenced(state.silences.values(), alert.alert, at),
        notifications=alert.told,
        cleared_at=alert.cleared_at,
        lasted_s=alert.lasted_s,
    )


def answer(_state: State, command: Command) -> Reply:
    """What a granted command answers."""
    match command:
        case SilenceAlert():
            return SilenceReply(silence_id=command.id)
        case EndSilence(silence_id=silence_id):
            return SilenceReply(silence_id=silence_id)
        case _:
            return Reply()


def raised(state: State) -> list[Measure]:
    """Of every alert that there is, whether it is raised; those of single pools show once they are."""
    names = dict.fromkeys(ALERTS, 0) | dict.fromkeys(state.alerts, 1)
    return [Measure("drape.alert.raised", value, {"drape.alert": name}) for name, value in names.items()]
