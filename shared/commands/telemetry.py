"""The commands to telemetry."""

from typing import ClassVar, Literal

import msgspec

from shared.commands.base import Command, Reply
from shared.events import PoolUsage
from shared.ids import EventId


class TelemetryCommand(Command, frozen=True, kw_only=True):
    service: ClassVar[str] = "telemetry"


class Lag(msgspec.Struct, frozen=True, kw_only=True):
    """How far a state or a projection is behind the log: so many events, the oldest of which has been there for `age_s`."""

    name: str
    events: int
    age_s: float


class EvaluateAlerts(TelemetryCommand, frozen=True, kw_only=True):
    """Raise what holds and clear what no longer does, by the log and by what it can't say; None: nobody knows.

    `parked`: how many reactions are parked. `lags`: of those that are behind the log; `lags_small_since`: since when none of
    them was large. `cost_day`, `cost_month`: since 00:00 UTC, and since the first of the month, in the price table's currency.
    """

    verb: ClassVar[str] = "evaluate-alerts"
    parked: int | None = None
    lags: tuple[Lag, ...] | None = None
    lags_small_since: float | None = None
    cost_day: float | None = None
    cost_month: float | None = None


class SilenceAlert(TelemetryCommand, frozen=True, kw_only=True):
    """Send nothing of some alerts for a while. `pattern`: a name, or its beginning and `*`; `until`: seconds, UTC."""

    verb: ClassVar[str] = "silence-alert"
    pattern: str
    until: float
    reason: str = ""
    by: str = ""


class EndSilence(TelemetryCommand, frozen=True, kw_only=True):
    """Send them again."""

    verb: ClassVar[str] = "end-silence"
    silence_id: str
    by: str = ""


class RecordNotification(TelemetryCommand, frozen=True, kw_only=True):
    """What came of a notice to one channel; `code` empty: it has it."""

    verb: ClassVar[str] = "record-notification"
    alert: str
    channel: str
    kind: Literal["raised", "cleared"]
    notice: EventId
    attempts: int
    code: str = ""


class SilenceReply(Reply, frozen=True, kw_only=True):
    """Answer of the commands about a silence."""

    silence_id: str


class RecordResources(TelemetryCommand, frozen=True, kw_only=True):
    """Report: what the pools are and use, on that day (UTC, 2026-01-31). `pools` None: they did not answer."""

    verb: ClassVar[str] = "record-resources"
    day: str
    pools: tuple[PoolUsage, ...] | None = None
