"""The metric `drape.alert.raised`: 1 for each alert that is raised now, 0 for those that are not."""

from collections.abc import Callable, Iterable

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from services.telemetry.model import ALERTS
from services.telemetry.state import State

_meter = metrics.get_meter("drape")


def observe(state: Callable[[], State]) -> None:
    """Tells it from now on, whenever metrics are collected; that is in a thread of its own."""

    def look(_options: CallbackOptions) -> Iterable[Observation]:
        return raised(state())

    _meter.create_observable_gauge(
        "drape.alert.raised", callbacks=[look], unit="{alert}", description="1 while the alert is raised, else 0"
    )


def raised(state: State) -> list[Observation]:
    """Of every alert that there is; names of pools' alerts show once they are raised."""
    names = dict.fromkeys(ALERTS, 0) | dict.fromkeys(state.alerts.copy(), 1)
    return [Observation(value, {"drape.alert": name}) for name, value in names.items()]
