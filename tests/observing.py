"""Spans and figures as the code under test makes them, kept in memory: the SDK's own exporter and reader."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shared import tallies, telemetry

ID = re.compile(r"[0-9a-z]{26}|[0-9a-f]{16,}|ws-\w|\d{4,}|/|\s")
"""Looks like an id, a path or a text: nothing that an attribute of a metric may hold."""


class Spans:
    """What was traced."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()

    def all(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def trees(self) -> dict[int, list[ReadableSpan]]:
        """All spans by trace. Fails where one has no parent in its trace, and where a trace has two roots."""
        traces: dict[int, list[ReadableSpan]] = defaultdict(list)
        for each in self.all():
            traces[trace_of(each)].append(each)
        for spans in traces.values():
            ids = {span_of(each) for each in spans}
            roots = [each for each in spans if each.parent is None]
            strays = [each for each in spans if each.parent is not None and each.parent.span_id not in ids]
            assert strays == [], f"no parent in its trace:\n{told(spans)}"
            assert len(roots) == 1, f"several roots:\n{told(spans)}"
        return traces

    def tree_with(self, name: str, **attributes: str) -> list[ReadableSpan]:
        """The only trace that has such a span."""
        [found] = [spans for spans in self.trees().values() if any(matches(each, name, attributes) for each in spans)]
        return found


def matches(span: ReadableSpan, name: str, attributes: Mapping[str, str]) -> bool:
    wanted = {f"drape.{key}": value for key, value in attributes.items()}
    return span.name == name and wanted.items() <= dict(span.attributes or {}).items()


def trace_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.trace_id)


def span_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.span_id)


def linked(spans: Sequence[ReadableSpan]) -> set[int]:
    """The other traces that these follow from."""
    return {link.context.trace_id for each in spans for link in each.links} - {trace_of(each) for each in spans}


def told(spans: Sequence[ReadableSpan]) -> str:
    """The tree, for a person."""
    below: dict[int, list[ReadableSpan]] = defaultdict(list)
    ids = {span_of(each) for each in spans}
    for each in spans:
        below[each.parent.span_id if each.parent is not None and each.parent.span_id in ids else 0].append(each)

    def lines(parent: int, depth: int) -> Iterator[str]:
        for each in sorted(below[parent], key=lambda span: span.start_time or 0):
            named = (each.attributes or {}).get("drape.event", "")
            stray = "" if depth or each.parent is None else " (STRAY)"
            yield f"{'  ' * depth}{each.kind.name} {each.name} {named}{stray}"
            yield from lines(span_of(each), depth + 1)

    return "\n".join(lines(0, 0))


@contextmanager
def tracing() -> Iterator[Spans]:
    """Keeps the spans of the block."""
    spans, provider = Spans(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans.exporter))
    telemetry.use(provider.get_tracer("drape"))
    try:
        yield spans
    finally:
        telemetry.use(None)
        provider.shutdown()


class Point(NamedTuple):
    """One series at one look: a histogram's `entries` and `total`, a counter's or gauge's value as `total`."""

    name: str
    unit: str
    attributes: Mapping[str, object]
    entries: int
    total: float
    traces: frozenset[int]
    """Of its exemplars."""


@cache
def _reader() -> InMemoryMetricReader:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    metrics.set_meter_provider(provider)
    tallies.count()
    return reader


def points() -> list[Point]:
    """Every series, as this process has counted it since the first look."""
    found: list[Point] = []
    data = _reader().get_metrics_data()
    scopes = [scope for resource in (data.resource_metrics if data else ()) for scope in resource.scope_metrics]
    for metric in [*(metric for scope in scopes for metric in scope.metrics), *tallies.collected()]:
        for each in metric.data.data_points:
            assert isinstance(each, HistogramDataPoint | NumberDataPoint)
            count, total = (each.count, each.sum) if isinstance(each, HistogramDataPoint) else (1, each.value)
            traces = frozenset(example.trace_id for example in each.exemplars if example.trace_id)
            found.append(Point(metric.name, metric.unit or "", dict(each.attributes or {}), count, total, traces))
    return found


def figure(name: str, **attributes: str) -> float:
    """What the series with these `drape.` attributes add up to: of a histogram its count, else its value."""
    wanted = {f"drape.{key}": value for key, value in attributes.items()}
    found = [each for each in points() if each.name == name and wanted.items() <= each.attributes.items()]
    return sum(each.entries if each.unit in ("s", "By") else each.total for each in found)
