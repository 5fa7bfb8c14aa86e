"""Histograms that are cheap to fill: entries are counted here, and handed over when metrics are collected.

The SDK's own histogram looks at each entry's attributes and context anew, which takes some thirty times as long as counting it;
a claim on the pool makes four entries. Whoever asks the SDK for another aggregation or temporality gets the SDK's own.
"""

import os
import threading
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from opentelemetry import metrics
from opentelemetry.trace import SpanContext

from shared.telemetry import sampled_here

if TYPE_CHECKING:  # the SDK is loaded only where something is exported
    from opentelemetry.sdk.metrics.export import HistogramDataPoint, Metric, MetricsData

SERIES_MAX = 2000
"""Sets of attributes of one histogram, as many as the SDK keeps; whatever comes beyond is one more."""
OVERFLOW = {"otel.metric.overflow": True}
SDKS_OWN = (
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
    "OTEL_METRICS_EXEMPLAR_FILTER",
)
"""What only the SDK's histograms do."""
_meter = metrics.get_meter("drape")


class _Use:
    """Whether this process counts here."""

    counting = False


def count() -> None:
    """Count here from now on; whoever says so also asks for what was `collected`."""
    _Use.counting = not any(os.environ.get(each) for each in SDKS_OWN)


class _Series:
    """What was entered with the same attributes."""

    __slots__ = ("attributes", "buckets", "examples", "high", "low", "since_ns", "total")

    def __init__(self, attributes: Mapping[str, str | int], buckets: int) -> None:
        self.attributes = attributes
        self.buckets = [0] * buckets
        self.examples: dict[int, tuple[float, int, SpanContext]] = {}
        self.total, self.low, self.high = 0.0, float("inf"), float("-inf")
        self.since_ns = time.time_ns()


class Histogram:
    """Cumulative, with explicit buckets; of each bucket the newest entry in a sampled span since the last look is its
    exemplar."""

    def __init__(self, name: str, unit: str, description: str, bounds: Sequence[float]) -> None:
        self.name, self.unit, self.description = name, unit, description
        self._bounds = tuple(bounds)
        self._series: dict[frozenset[tuple[str, str | int]], _Series] = {}
        self._lock = threading.Lock()
        make = _meter.create_histogram
        self._sdks = make(name, unit, description, explicit_bucket_boundaries_advisory=self._bounds)
        _all.append(self)

    def record(self, value: float, attributes: Mapping[str, str | int]) -> None:
        """One entry, by any thread."""
        if not _Use.counting:
            self._sdks.record(value, attributes)
            return
        key = frozenset(attributes.items())
        bucket = bisect_left(self._bounds, value)
        sampled = sampled_here()
        with self._lock:
            series = self._series.get(key) or self._added(key, attributes)
            series.buckets[bucket] += 1
            series.total += value
            series.low, series.high = min(series.low, value), max(series.high, value)
            if sampled is not None:
                series.examples[bucket] = (value, time.time_ns(), sampled)

    def _added(self, key: frozenset[tuple[str, str | int]], attributes: Mapping[str, str | int]) -> _Series:
        if len(self._series) >= SERIES_MAX:
            key, attributes = frozenset(OVERFLOW.items()), OVERFLOW
        return self._series.setdefault(key, _Series(dict(attributes), len(self._bounds) + 1))

    def points(self) -> list["HistogramDataPoint"]:
        """All series. Exemplars are told once."""
        from opentelemetry.sdk.metrics import Exemplar
        from opentelemetry.sdk.metrics.export import HistogramDataPoint

        with self._lock:
            return [
                HistogramDataPoint(
                    attributes=each.attributes,
                    start_time_unix_nano=each.since_ns,
                    time_unix_nano=time.time_ns(),
                    count=sum(each.buckets),
                    sum=each.total,
                    bucket_counts=tuple(each.buckets),
                    explicit_bounds=self._bounds,
                    min=each.low,
                    max=each.high,
                    exemplars=[
                        Exemplar({}, value, at_ns, span.span_id, span.trace_id)
                        for value, at_ns, span in _taken(each.examples)
                    ],
                )
                for each in self._series.values()
            ]


_all: list[Histogram] = []


def create_histogram(name: str, *, unit: str, description: str, bounds: Sequence[float]) -> Histogram:
    """As a meter of OpenTelemetry's does; `bounds` are inclusive above."""
    return Histogram(name, unit, description, bounds)


def _taken(examples: dict[int, tuple[float, int, SpanContext]]) -> list[tuple[float, int, SpanContext]]:
    found = list(examples.values())
    examples.clear()
    return found


def collected() -> list["Metric"]:
    """All histograms that hold something, as the SDK tells metrics."""
    from opentelemetry.sdk.metrics.export import AggregationTemporality, Histogram, Metric

    found = []
    for each in _all:
        if points := each.points():
            data = Histogram(points, AggregationTemporality.CUMULATIVE)
            found.append(Metric(each.name, each.description, each.unit, data))
    return found


def joined(data: "MetricsData") -> "MetricsData":
    """What the SDK has collected, with ours in the same scope."""
    resource, *others = data.resource_metrics
    scope, *scopes = resource.scope_metrics
    scope = replace(scope, metrics=[*scope.metrics, *collected()])
    return replace(data, resource_metrics=[replace(resource, scope_metrics=[scope, *scopes]), *others])
