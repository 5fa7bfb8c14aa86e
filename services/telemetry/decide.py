"""Command and state to events. Pure. A decision names what is still missing: asked again after its first event is
stored, it gives the rest, and in the end nothing."""

from collections import Counter
from collections.abc import Sequence

from msgspec.structs import asdict

from services.telemetry.conditions import Condition, conditions
from services.telemetry.config import AlertConfig, TelemetryConfig
from services.telemetry.model import ALERTS, DAY, NAME, PATTERN, names_alerts
from services.telemetry.state import State
from shared.commands import (
    Command,
    EndSilence,
    EvaluateAlerts,
    RecordNotification,
    RecordResources,
    SilenceAlert,
)
from shared.errors import Invalid, NotFound, Refused
from shared.events import (
    AlertCleared,
    AlertNotified,
    AlertRaised,
    Event,
    NotificationFailed,
    ResourcesMeasured,
    SilenceEnded,
    SilenceStarted,
)
from shared.ids import is_text, is_token

SILENCES_MAX = 50
SILENCE_S_MAX = 30 * 86_400.0
REASON_CHARS_MAX = 500
BY_CHARS_MAX = 100
SECONDS_A_DAY = 86_400.0


def decide(state: State, command: Command, config: TelemetryConfig, limits: AlertConfig) -> Sequence[Event]:
    """The events that the command leads to in this state."""
    match command:
        case EvaluateAlerts():
            return evaluate_alerts(state, command, config, limits)
        case RecordResources():
            return record_resources(state, command)
        case SilenceAlert():
            return silence_alert(state, command)
        case EndSilence():
            return end_silence(state, command)
        case RecordNotification():
            return record_notification(command)
        case _:
            raise AssertionError(f"not a command of telemetry: {type(command).__name__}")


def record_resources(state: State, command: RecordResources) -> Sequence[Event]:
    """What was measured, beside the previews that live. Raises `Invalid` (`bad_day`)."""
    if not DAY.fullmatch(command.day):
        raise Invalid("bad_day", "`day` is a date such as 2026-01-31.")
    count = Counter(state.previews.values())
    return [
        ResourcesMeasured(
            day=command.day,
            pools=command.pools,
            starting=count["starting"],
            ready=count["ready"],
            suspended=count["suspended"],
        )
    ]


def evaluate_alerts(
    state: State, command: EvaluateAlerts, config: TelemetryConfig, limits: AlertConfig
) -> Sequence[Event]:
    """Each alert is raised once when it is due, and cleared once when its condition has been gone for a while. Silences
    whose time is up come first, so that what is raised now is sent."""
    expired = [each.silence_id for each in state.silences.values() if each.until <= command.at]
    return [
        *(SilenceEnded(silence_id=silence_id, reason="expired") for silence_id in expired),
        *(
            event
            for condition in conditions(state, command, config, limits)
            for event in _change(state, condition, command.at, config)
        ),
    ]


def _change(state: State, condition: Condition, at: float, config: TelemetryConfig) -> Sequence[Event]:
    raised = state.alerts.get(condition.alert)
    if raised is None:
        if not condition.due:
            return []
        return [
            AlertRaised(
                alert=condition.alert,
                message=condition.message,
                since=condition.since,
                severity=condition.severity,
                value=condition.value,
                threshold=condition.threshold,
            )
        ]
    wait_s = config.clear_after_s if condition.flaps else 0.0
    if condition.due or condition.over_since is None or at - condition.over_since < wait_s:
        return []
    lasted_s = round(max(0.0, condition.over_since - raised.since), 3)
    return [
        AlertCleared(
            alert=condition.alert,
            lasted_s=lasted_s,
            severity=raised.severity,
            value=condition.value,
            threshold=condition.threshold,
        )
    ]


def silence_alert(state: State, command: SilenceAlert) -> Sequence[Event]:
    """Raises `Invalid` for what makes no sense, `Refused` (`too_many_silences`)."""
    if command.id in state.silences or command.id in state.silences_ended:
        return []
    if not command.pattern or not PATTERN.fullmatch(command.pattern):
        raise Invalid(
            "bad_pattern",
            "A silence is of an alert's name, or of its beginning and `*`.",
            "`drape alerts` shows the names; `*` alone is all of them.",
        )
    if not names_alerts(command.pattern):
        raise Invalid(
            "unknown_alert",
            f"There is no alert {command.pattern!r}.",
            f"The alerts that there are: {', '.join(ALERTS)}.",
        )
    if not command.at < command.until <= command.at + SILENCE_S_MAX:
        days = SILENCE_S_MAX / SECONDS_A_DAY
        raise Invalid("bad_until", f"A silence ends in the future, at most {days:.0f} days from now.")
    if len(command.reason) > REASON_CHARS_MAX or len(command.by) > BY_CHARS_MAX:
        raise Invalid("bad_reason", f"A reason has at most {REASON_CHARS_MAX} characters, a name {BY_CHARS_MAX}.")
    if not (command.reason.isprintable() and command.by.isprintable() and is_token(command.id)):
        raise Invalid("bad_reason", "A reason is one line of text.")
    if len(state.silences) >= SILENCES_MAX:
        raise Refused(
            "too_many_silences",
            f"There are {SILENCES_MAX} silences already.",
            "End one, or silence a beginning and `*`.",
        )
    return [
        SilenceStarted(
            silence_id=command.id,
            pattern=command.pattern,
            until=command.until,
            reason=command.reason,
            by=command.by,
        )
    ]


def end_silence(state: State, command: EndSilence) -> Sequence[Event]:
    """One that has ended stays so. Raises `NotFound` (`silence_not_found`), `Invalid`."""
    if len(command.by) > BY_CHARS_MAX or not is_text(command.by):
        raise Invalid("bad_reason", f"A name has at most {BY_CHARS_MAX} characters.")
    if command.silence_id in state.silences:
        return [SilenceEnded(silence_id=command.silence_id, reason="asked", by=command.by)]
    if command.silence_id in state.silences_ended:
        return []
    raise NotFound(
        "silence_not_found",
        f"There is no silence {command.silence_id[:64]!r}.",
        "`drape alerts` shows those there are.",
    )


def record_notification(command: RecordNotification) -> Sequence[Event]:
    """Its id is the notice's and the channel's, so that the log has each once. Raises `Invalid` (`bad_alert`)."""
    if not NAME.fullmatch(command.alert):
        raise Invalid("bad_alert", "`alert` is an alert's name.")
    told = AlertNotified(
        alert=command.alert,
        channel=command.channel,
        kind=command.kind,
        notice=command.notice,
        attempts=command.attempts,
    )
    return [NotificationFailed(**asdict(told), code=command.code)] if command.code else [told]
