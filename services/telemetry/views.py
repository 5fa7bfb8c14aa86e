"""What others may read of telemetry's state. Pure."""

import msgspec

from services.telemetry.state import State
from shared.commands import Command, Reply


class AlertView(msgspec.Struct, frozen=True, kw_only=True):
    """One alert that is raised now. Times are seconds, UTC."""

    alert: str
    message: str
    since: float
    raised_at: float


def alerts(state: State) -> list[AlertView]:
    """The alerts that are raised now, by name."""
    return [
        AlertView(alert=name, message=alert.message, since=alert.since, raised_at=alert.raised_at)
        for name, alert in sorted(state.alerts.items())
    ]


def answer(_state: State, _command: Command) -> Reply:
    """What a granted command answers."""
    return Reply()
