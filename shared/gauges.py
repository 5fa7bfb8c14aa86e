"""A figure of a service for whoever scales it, as data: pure, so that views can make it."""

from collections.abc import Mapping

import msgspec


class Gauge(msgspec.Struct, frozen=True, kw_only=True):
    """One value of a metric, as it is now. `name` and the labels' names as Prometheus has them; `help` the same for all
    values of a name."""

    name: str
    help: str
    value: float
    labels: Mapping[str, str] = {}
