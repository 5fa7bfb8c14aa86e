"""The events that the telemetry service writes."""

from typing import ClassVar, Literal

import msgspec

from shared.events.base import Event
from shared.ids import EventId

Severity = Literal["warning", "critical"]
"""`critical`: previews fail, or soon will."""


class AlertEvent(Event, frozen=True, kw_only=True):
    """Of one alert, by its name."""

    service: ClassVar[str] = "telemetry"
    aggregate: ClassVar[str] = "alert"
    alert: str

    @property
    def aggregate_id(self) -> str:
        return self.alert


class AlertRaised(AlertEvent, frozen=True, kw_only=True):
    """A condition that an operator should look at holds since `since`. `value`: what was measured; `threshold`: what it
    should not reach; None where there are no such numbers."""

    message: str
    since: float
    severity: Severity = "warning"
    value: float | None = None
    threshold: float | None = None


class AlertCleared(AlertEvent, frozen=True, kw_only=True):
    """The condition no longer holds. `value` and `threshold` as they are now."""

    lasted_s: float
    severity: Severity = "warning"
    value: float | None = None
    threshold: float | None = None


class AlertNotified(AlertEvent, frozen=True, kw_only=True):
    """A channel has taken the notice. `notice`: the id of the `AlertRaised` or `AlertCleared` that it tells of; `attempts`:
    how often it was tried."""

    channel: str
    kind: Literal["raised", "cleared"]
    notice: EventId
    attempts: int = 1


class NotificationFailed(AlertEvent, frozen=True, kw_only=True):
    """A channel has not taken the notice, and no more is tried. `code`: why the last try failed."""

    channel: str
    kind: Literal["raised", "cleared"]
    notice: EventId
    attempts: int
    code: str


class SilenceEvent(Event, frozen=True, kw_only=True):
    """Of one silence: a time in which some alerts are not sent."""

    service: ClassVar[str] = "telemetry"
    aggregate: ClassVar[str] = "silence"
    silence_id: str

    @property
    def aggregate_id(self) -> str:
        return self.silence_id


class SilenceStarted(SilenceEvent, frozen=True, kw_only=True):
    """Alerts that `pattern` names (a name, or its beginning and `*`) are not sent until `until`. `by`: who wants it so."""

    pattern: str
    until: float
    reason: str
    by: str


class SilenceEnded(SilenceEvent, frozen=True, kw_only=True):
    """They are sent again, from those on that are raised now. `asked`: before its time, by `by`."""

    reason: Literal["expired", "asked"]
    by: str = ""


class PoolUsage(msgspec.Struct, frozen=True, kw_only=True):
    """One pool at a moment: VMs by state, each in one of them (`suspended`: warm or held, and standing still), and what they
    use. `cpu_cores`: processors used on average since they were looked at before; `memory_bytes`: resident, or held while
    they stand still; None: nobody knows. Both are of the `measured` VMs only. `memory_mb`: what each VM has."""

    name: str
    provider: str
    memory_mb: int
    region: str
    booting: int
    available: int
    in_use: int
    suspended: int
    kept: int
    going: int
    measured: int = 0
    cpu_cores: float | None = None
    memory_bytes: int | None = None


class ResourcesEvent(Event, frozen=True, kw_only=True):
    """Of one day's snapshots. `day`: UTC, 2026-01-31."""

    service: ClassVar[str] = "telemetry"
    aggregate: ClassVar[str] = "resources"
    day: str

    @property
    def aggregate_id(self) -> str:
        return self.day


class ResourcesMeasured(ResourcesEvent, frozen=True, kw_only=True):
    """What there was at that moment. `pools` None: the pool service did not answer. Previews, residents among them:
    `starting` to their first page, `ready` to be used, `suspended` until somebody comes."""

    pools: tuple[PoolUsage, ...] | None
    starting: int
    ready: int
    suspended: int
