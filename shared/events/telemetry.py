"""The events that the telemetry service writes."""

from typing import ClassVar

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
