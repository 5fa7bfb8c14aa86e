"""A figure as data: pure, so that a service's rooms can say what is measured without reaching any instrument."""

from collections.abc import Mapping

import msgspec


class Measure(msgspec.Struct, frozen=True, gc=False):
    """One value of the instrument `name` (see `shared/metrics.py`, which also has its unit). Attributes have few values: no
    ids, owners, paths or texts."""

    name: str
    value: float
    attributes: Mapping[str, str] = {}
