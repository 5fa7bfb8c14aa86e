"""What is said of an alert, as data and as texts: the same on every channel. Pure."""

from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from shared.codec import Recorded
from shared.events import AlertCleared, AlertRaised
from shared.events.telemetry import Severity

Kind = Literal["raised", "cleared", "test"]
MESSAGE_CHARS_MAX = 1_000
_COLOURS = {"critical": "#c0392b", "warning": "#e0a000"}
_GREEN = "#2e8b57"


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """`id`: of its event; the same notice has the same one, however often it is delivered. Times are seconds, UTC."""

    id: str
    kind: Kind
    alert: str
    severity: Severity
    message: str
    at: float
    since: float | None = None
    lasted_s: float | None = None
    value: float | None = None
    threshold: float | None = None


def notice_of(recorded: Recorded) -> Notice | None:
    """What the event has to say; None where it is no alert's."""
    event, meta = recorded.event, recorded.meta
    match event:
        case AlertRaised():
            return Notice(
                id=meta.id,
                kind="raised",
                alert=event.alert,
                severity=event.severity,
                message=event.message[:MESSAGE_CHARS_MAX],
                at=meta.at,
                since=event.since,
                value=event.value,
                threshold=event.threshold,
            )
        case AlertCleared():
            return Notice(
                id=meta.id,
                kind="cleared",
                alert=event.alert,
                severity=event.severity,
                message=f"It is over, after {_span(event.lasted_s)}.",
                at=meta.at,
                lasted_s=event.lasted_s,
                value=event.value,
                threshold=event.threshold,
            )
        case _:
            return None


def trial(notice_id: str, at: float) -> Notice:
    """What shows that a channel works."""
    text = "This is a test: nothing is wrong."
    return Notice(id=notice_id, kind="test", alert="test", severity="warning", message=text, at=at)


def title(notice: Notice) -> str:
    """One line."""
    words = {"raised": notice.severity.upper(), "cleared": "OVER", "test": "TEST"}
    return f"[drape] {words[notice.kind]}: {notice.alert}"


def webhook_body(notice: Notice) -> bytes:
    """JSON, `type` first; members that say nothing are left out."""
    told = {name: value for name, value in msgspec.to_builtins(notice).items() if value is not None and name != "kind"}
    return msgspec.json.encode({"type": f"alert_{notice.kind}", **told})


def slack_body(notice: Notice) -> bytes:
    """An incoming webhook's message: a text for what shows no more, and one attachment."""
    figures = [("Measured", notice.value), ("Threshold", notice.threshold)]
    fields = [{"title": name, "value": f"{number:g}", "short": True} for name, number in figures if number is not None]
    attachment: dict[str, Any] = {
        "color": _GREEN if notice.kind == "cleared" else _COLOURS[notice.severity],
        "fallback": f"{notice.alert}: {notice.message}",
        "text": _escaped(notice.message),
        "fields": fields,
        "footer": f"drape {notice.id}",
        "ts": int(notice.at),
    }
    return msgspec.json.encode({"text": _escaped(title(notice)), "attachments": [attachment]})


def mail_text(notice: Notice) -> str:
    """A mail's text."""
    lines = [notice.message, "", f"Alert:     {notice.alert}", f"Severity:  {notice.severity}"]
    lines += [
        f"{name:<10} {_time(at)}" for name, at in (("Since:", notice.since), ("Told:", notice.at)) if at is not None
    ]
    numbers = (("Measured:", notice.value), ("Threshold:", notice.threshold))
    lines += [f"{name:<10} {number:g}" for name, number in numbers if number is not None]
    return "\n".join([*lines, "", "`drape alerts` shows all that are raised.", ""])


def _escaped(text: str) -> str:
    """Slack's three control characters."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
