"""The events that the telemetry service writes."""

from typing import ClassVar

import msgspec

from shared.events.base import Event


class AlertEvent(Event, frozen=True, kw_only=True):
    """Of one alert, by its name."""

    service: ClassVar[str] = "telemetry"
    aggregate: ClassVar[str] = "alert"
    alert: str

    @property
    def aggregate_id(self) -> str:
        return self.alert


class AlertRaised(AlertEvent, frozen=True, kw_only=True):
    """A condition that an operator should look at holds since `since`."""

    message: str
    since: float


class AlertCleared(AlertEvent, frozen=True, kw_only=True):
    """The condition no longer holds."""

    lasted_s: float


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
