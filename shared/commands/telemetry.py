"""The commands to telemetry."""

from typing import ClassVar

from shared.commands.base import Command


class TelemetryCommand(Command, frozen=True, kw_only=True):
    service: ClassVar[str] = "telemetry"


class EvaluateAlerts(TelemetryCommand, frozen=True, kw_only=True):
    """Raise what holds and clear what no longer does. `parked`: how many reactions are parked; None: nobody knows."""

    verb: ClassVar[str] = "evaluate-alerts"
    parked: int | None = None
