"""An OTLP receiver over HTTP for tests: keeps spans, points of metrics and log lines whole, and every byte that came."""

import asyncio
import gzip
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple

from aiohttp import web
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

BODY_BYTES_MAX = 64 * 1024 * 1024
Attributes = Mapping[str, str | int | float | bool]


class Span(NamedTuple):
    """One span as it was received. Ids are hex; `parent` is empty for one that has none."""

    service: str
    name: str
    kind: str
    trace: str
    id: str
    parent: str
    start_ns: int
    end_ns: int
    attributes: Attributes
    links: tuple[tuple[str, str], ...]


class Point(NamedTuple):
    """One series of a metric as it was last received; a histogram's `value` is the number of its entries. `exemplars`: the
    traces of all that came, since each is exported once."""

    service: str
    name: str
    unit: str
    attributes: Attributes
    value: float
    exemplars: frozenset[str]


class Line(NamedTuple):
    """One log line."""

    service: str
    body: str
    severity: str
    trace: str
    span: str
    attributes: Attributes


class Collector:
    """What was received. `until` waits for more."""

    def __init__(self) -> None:
        self.spans: dict[str, Span] = {}
        self.points: dict[tuple[str, str, tuple[tuple[str, object], ...]], Point] = {}
        self.lines: list[Line] = []
        self.bytes = bytearray()
        self._arrived = asyncio.Condition()

    def traces(self) -> dict[str, list[Span]]:
        """All spans by trace."""
        found: dict[str, list[Span]] = defaultdict(list)
        for each in self.spans.values():
            found[each.trace].append(each)
        return found

    def trace_with(self, name: str, **attributes: str) -> list[Span]:
        """The first trace with such a span; `attributes` are our own, `drape.`; empty while there is none."""
        wanted = {f"drape.{key}": value for key, value in attributes.items()}
        for spans in self.traces().values():
            if any(each.name == name and wanted.items() <= each.attributes.items() for each in spans):
                return spans
        return []

    async def until(self, condition: Callable[[], bool], timeout_s: float) -> None:
        """Return once it holds. Raises `TimeoutError`."""
        async with asyncio.timeout(timeout_s), self._arrived:
            await self._arrived.wait_for(condition)

    async def on_traces(self, request: web.Request) -> web.Response:
        """`POST /v1/traces`"""
        for resource in ExportTraceServiceRequest.FromString(await self._body(request)).resource_spans:
            service = _service(resource.resource.attributes)
            for scope in resource.scope_spans:
                for each in scope.spans:
                    span = _span(service, each)
                    self.spans[span.id] = span
        return await self._answer()

    async def on_metrics(self, request: web.Request) -> web.Response:
        """`POST /v1/metrics`"""
        for resource in ExportMetricsServiceRequest.FromString(await self._body(request)).resource_metrics:
            service = _service(resource.resource.attributes)
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    kind = metric.WhichOneof("data")
                    for point in getattr(metric, kind or "gauge").data_points:
                        value = point.count if kind == "histogram" else point.as_int or point.as_double
                        attributes = _plain(point.attributes)
                        key = (service, metric.name, tuple(sorted(attributes.items())))
                        before = self.points[key].exemplars if key in self.points else frozenset()
                        exemplars = before | {each.trace_id.hex() for each in point.exemplars}
                        self.points[key] = Point(service, metric.name, metric.unit, attributes, value, exemplars)
        return await self._answer()

    async def on_logs(self, request: web.Request) -> web.Response:
        """`POST /v1/logs`"""
        for resource in ExportLogsServiceRequest.FromString(await self._body(request)).resource_logs:
            service = _service(resource.resource.attributes)
            for scope in resource.scope_logs:
                self.lines += [
                    Line(
                        service,
                        each.body.string_value,
                        each.severity_text,
                        each.trace_id.hex(),
                        each.span_id.hex(),
                        _plain(each.attributes),
                    )
                    for each in scope.log_records
                ]
        return await self._answer()

    async def _body(self, request: web.Request) -> bytes:
        body = await request.read()
        if body[:2] == b"\x1f\x8b":
            body = gzip.decompress(body)
        self.bytes += body
        return body

    async def _answer(self) -> web.Response:
        async with self._arrived:
            self._arrived.notify_all()
        return web.Response()


def broken(spans: Iterable[Span]) -> str:
    """Why these are no tree of one root; empty where they are. A root may have a parent outside, that of who asked."""
    spans = list(spans)
    ids = {each.id for each in spans}
    roots = [each for each in spans if each.parent not in ids]
    if len(roots) != 1:
        return "\n".join(f"root: {each.service} {each.name} {each.attributes.get('drape.event', '')}" for each in roots)
    return ""


def _span(service: str, span: trace_pb2.Span) -> Span:
    return Span(
        service,
        span.name,
        trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        _plain(span.attributes),
        tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
    )


def _plain(attributes: Iterable[KeyValue]) -> dict[str, str | int | float | bool]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value") or "string_value") for each in attributes}


def _service(attributes: Iterable[KeyValue]) -> str:
    return str(_plain(attributes)["service.name"])


@asynccontextmanager
async def collecting() -> AsyncIterator[tuple[Collector, str]]:
    """A collector, and the endpoint at which it listens."""
    collector = Collector()
    app = web.Application(client_max_size=BODY_BYTES_MAX)
    app.add_routes(
        [
            web.post("/v1/traces", collector.on_traces),
            web.post("/v1/metrics", collector.on_metrics),
            web.post("/v1/logs", collector.on_logs),
        ]
    )
    runner = web.AppRunner(app, handle_signals=False)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield collector, f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
