"""Histograms that we count ourselves tell what the SDK's would tell."""

import threading
from collections.abc import Iterable, Sequence

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.trace import SpanKind

from shared import tallies, telemetry
from tests.observing import span_of, trace_of, tracing

BOUNDS = (0.1, 1.0, 10.0)
VALUES = (0.0, 0.1, 0.100001, 1.0, 5.0, 10.0, 11.0, 5.5)


@pytest.fixture(autouse=True)
def counting(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that exports; no histogram outlives its test."""
    monkeypatch.setattr(tallies._Use, "counting", True)
    monkeypatch.setattr(tallies, "_all", [])


def _made() -> tallies.Histogram:
    return tallies.Histogram("drape.test.duration", "s", "For tests", BOUNDS)


def _told(points: Iterable[object]) -> list[tuple[object, ...]]:
    found = []
    for each in points:
        assert isinstance(each, HistogramDataPoint)
        numbers = (each.count, each.sum, tuple(each.bucket_counts), tuple(each.explicit_bounds), each.min, each.max)
        found.append((dict(each.attributes or {}), *numbers))
    return sorted(found, key=str)


def _by_the_sdk(entries: Sequence[tuple[float, dict[str, str | int]]]) -> list[tuple[object, ...]]:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    histogram = provider.get_meter("drape").create_histogram("x", explicit_bucket_boundaries_advisory=BOUNDS)
    for value, attributes in entries:
        histogram.record(value, attributes)
    data = reader.get_metrics_data()
    assert data is not None
    [metric] = data.resource_metrics[0].scope_metrics[0].metrics
    provider.shutdown()
    return _told(metric.data.data_points)


def test_the_same_entries_give_the_sdks_points() -> None:
    """Values on a bound and on both sides of it, several series, attributes in any order."""
    command: dict[str, str | int] = {"drape.command": "AcquireVm"}
    entries: list[tuple[float, dict[str, str | int]]] = [
        *((value, command) for value in VALUES),
        (2.0, {"http.route": "/api", "http.response.status_code": 200}),
        (3.0, {"http.response.status_code": 200, "http.route": "/api"}),
    ]
    histogram = _made()
    for value, attributes in entries:
        histogram.record(value, attributes)
    [metric] = tallies.collected()

    assert (metric.name, metric.unit, metric.description) == ("drape.test.duration", "s", "For tests")
    assert _told(metric.data.data_points) == _by_the_sdk(entries)


def test_they_are_told_beside_the_sdks_own() -> None:
    """In the same scope, and nothing of the SDK's is lost."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    provider.get_meter("drape").create_counter("drape.test.counted").add(2)
    _made().record(0.5, {})
    data = reader.get_metrics_data()
    assert data is not None
    [resource] = tallies.joined(data).resource_metrics
    provider.shutdown()

    [scope] = resource.scope_metrics
    assert scope.scope.name == "drape"
    assert [each.name for each in scope.metrics] == ["drape.test.counted", "drape.test.duration"]


def test_entries_add_up_over_looks() -> None:
    """Cumulative: what was told before is told again."""
    histogram = _made()
    histogram.record(0.5, {})
    [first] = histogram.points()
    histogram.record(0.5, {})
    [second] = histogram.points()

    assert (first.count, second.count) == (1, 2)
    assert first.start_time_unix_nano == second.start_time_unix_nano <= first.time_unix_nano <= second.time_unix_nano


def test_exemplars_lead_to_sampled_spans_and_are_told_once() -> None:
    """The newest of each bucket."""
    histogram = _made()
    with tracing() as spans:
        telemetry.use(telemetry._current.tracer, lambda: True)
        for value in (0.5, 0.6, 5.0):
            with telemetry.span("work", SpanKind.INTERNAL, "", {}):
                histogram.record(value, {})
        telemetry.use(telemetry._current.tracer, lambda: False)
        with telemetry.span("unsampled", SpanKind.INTERNAL, "", {}):
            histogram.record(20.0, {})
    histogram.record(0.05, {})
    [told] = histogram.points()
    [later] = histogram.points()

    _, second, third = spans.all()
    expected = [(0.6, trace_of(second), span_of(second)), (5.0, trace_of(third), span_of(third))]
    assert [(each.value, each.trace_id, each.span_id) for each in told.exemplars] == expected
    assert list(later.exemplars) == []


def test_series_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too many is one more, as the SDK has it; no entry is lost."""
    monkeypatch.setattr(tallies, "SERIES_MAX", 3)
    histogram = _made()
    for number in range(10):
        histogram.record(1.0, {"n": number % 5})
    counts = {str(dict(each.attributes or {})): each.count for each in histogram.points()}

    assert counts == {"{'n': 0}": 2, "{'n': 1}": 2, "{'n': 2}": 2, "{'otel.metric.overflow': True}": 4}


def test_threads_lose_no_entry() -> None:
    """While others look."""
    histogram = _made()

    def enter() -> None:
        for _ in range(2000):
            histogram.record(1.0, {"a": "b"})

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for each in threads:
        each.start()
    seen = [point.count for _ in range(50) for point in histogram.points()]
    for each in threads:
        each.join()
    [last] = histogram.points()

    assert seen == sorted(seen)
    assert (last.count, last.sum) == (8000, 8000.0)


def test_whoever_asks_the_sdk_for_more_gets_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Delta, exponential buckets, another filter."""
    for each in tallies.SDKS_OWN:
        monkeypatch.setenv(each, "delta")
        tallies.count()
        assert not tallies._Use.counting
        monkeypatch.delenv(each)
    tallies.count()
    assert tallies._Use.counting
