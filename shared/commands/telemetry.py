"""The commands to telemetry."""

from typing import ClassVar

from shared.commands.base import Command
from shared.events import PoolUsage


class TelemetryCommand(Command, frozen=True, kw_only=True):
    service: ClassVar[str] = "telemetry"


class EvaluateAlerts(TelemetryCommand, frozen=True, kw_only=True):
    """Raise what holds and clear what no longer does. `parked`: how many reactions are parked; None: nobody knows."""

    verb: ClassVar[str] = "evaluate-alerts"
    parked: int | None = None


class RecordResources(TelemetryCommand, frozen=True, kw_only=True):
    """Report: what the pools are and use, on that day (UTC, 2026-01-31). `pools` None: they did not answer."""

    verb: ClassVar[str] = "record-resources"
    day: str
    pools: tuple[PoolUsage, ...] | None = None
