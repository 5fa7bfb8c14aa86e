"""Event and state to effects, as data. Pure. Telemetry reacts to no event: its projection reads the log itself."""

from collections.abc import Sequence

import msgspec

from services.telemetry.state import State
from shared.codec import Recorded
from shared.events import Event
from shared.ports import TimerFired


class LookAtAlerts(msgspec.Struct, frozen=True):
    """Have the alerts evaluated, with what the log does not say: how many reactions are parked."""


class ApplyRetention(msgspec.Struct, frozen=True):
    """Have that dropped, or gathered, which is past keeping."""


class MeasureResources(msgspec.Struct, frozen=True):
    """Have a snapshot taken of what the pools are and use."""


Effect = LookAtAlerts | ApplyRetention | MeasureResources

ALERTS_TICK = "alerts"
RETENTION_TICK = "retention"
RESOURCES_TICK = "resources"

REACTS_TO: tuple[type[Event], ...] = ()


def react(_state: State, _recorded: Recorded) -> Sequence[Effect]:
    """What has to happen because of this event: nothing."""
    return []


def on_timer(_state: State, fired: TimerFired) -> Sequence[Effect]:
    """What has to happen because time has passed."""
    if fired.name == ALERTS_TICK:
        return [LookAtAlerts()]
    if fired.name == RETENTION_TICK:
        return [ApplyRetention()]
    if fired.name == RESOURCES_TICK:
        return [MeasureResources()]
    return []  # a timer of another version of this service
