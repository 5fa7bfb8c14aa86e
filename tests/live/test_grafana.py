"""Every question that a dashboard or an alert rule asks is asked of a real Prometheus, to which a real platform has told its
metrics by OTLP, and has an answer; what the trace queries look for is in the spans that it has sent."""

import asyncio
import re
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from tests.deploy import dashboards
from tests.deploy.dashboards import Asked
from tests.deploy.prometheus import Prometheus, filled
from tests.deploy.prometheus import running as prometheus_running
from tests.deploy.waiting import eventually
from tests.live.client import SERVER, Client, node_project
from tests.live.platform import Platform

RULES = dashboards.FOLDER / "prometheus-rules.yaml"
EXPORT_EVERY_MS = 500
DATA_TIMEOUT_S = 60.0
RATE_INTERVAL = "10s"
STATIC: dict[str, str | bytes] = {"index.html": "<title>shown</title>"}
FAILING = node_project("console.error('no'); process.exit(3)")
INSTALLING: dict[str, str | bytes] = {
    "package.json": '{"name":"live","private":true,"scripts":{"dev":"node server.mjs"},"dependencies":{"dep":"file:./dep"}}',
    "dep/package.json": '{"name":"dep","version":"1.0.0"}',
    "server.mjs": SERVER,
}
SETTINGS = {
    "DRAPE_ORCHESTRATOR_SUSPEND_AFTER_S": "1",
    "DRAPE_ORCHESTRATOR_FAILED_KEEP_S": "1",
    "DRAPE_TELEMETRY_RESOURCES_PERIOD_S": "2",
    "DRAPE_TELEMETRY_COSTS_PERIOD_S": "1",
    # One of a few fails: an alert.
    "DRAPE_TELEMETRY_ALERT_ERROR_RATE_MIN_COUNT": "2",
    "OTEL_METRIC_EXPORT_INTERVAL": str(EXPORT_EVERY_MS),
}


class Spans:
    """An OTLP receiver that keeps, by trace, the names, services and attributes of spans; logs are taken and forgotten."""

    def __init__(self) -> None:
        self.names: dict[str, set[str]] = defaultdict(set)
        self.services: set[str] = set()
        self.attributes: set[str] = set()
        self.traces: set[str] = set()

    async def take(self, request: web.Request) -> web.Response:
        """`POST /v1/traces`"""
        for resource in ExportTraceServiceRequest.FromString(await request.read()).resource_spans:
            self.attributes |= _keys("resource", resource.resource.attributes)
            service = next(
                each.value.string_value for each in resource.resource.attributes if each.key == "service.name"
            )
            for span in (span for scope in resource.scope_spans for span in scope.spans):
                self.names[service].add(span.name)
                self.attributes |= _keys("span", span.attributes)
                self.traces.add(span.trace_id.hex())
        return web.Response()

    async def forget(self, request: web.Request) -> web.Response:
        """`POST /v1/logs`"""
        await request.read()
        return web.Response()


def _keys(scope: str, attributes: Iterable[KeyValue]) -> set[str]:
    return {f"{scope}.{each.key}" for each in attributes}


@asynccontextmanager
async def _receiving() -> AsyncIterator[tuple[Spans, str]]:
    spans = Spans()
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.add_routes([web.post("/v1/traces", spans.take), web.post("/v1/logs", spans.forget)])
    runner = web.AppRunner(app, handle_signals=False)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield spans, f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def _platform(home: Path, prometheus: Prometheus, endpoint: str) -> AsyncIterator[Platform]:
    told = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": prometheus.otlp_metrics}
    platform = Platform(home, {**SETTINGS, **told})
    try:
        await asyncio.to_thread(platform.up)
        yield platform
    finally:
        await asyncio.to_thread(platform.down)


async def _use(platform: Platform) -> None:
    """Previews side by side, warm and cold: some are ready, one has an install, one fails, one is edited, one falls asleep."""
    async with aiohttp.ClientSession() as session:
        client = Client(platform.gateway, session)
        views = await asyncio.gather(
            client.ready(STATIC),
            client.ready(INSTALLING),
            _ended(client, FAILING),
        )
        assert views[2]["error"], views[2]
        preview_id = views[0]["preview_id"]
        changed = await client.patch(views[0]["project_id"], 1, {"index.html": "<title>edited</title>"})
        assert changed.status == 200, changed.text
        await platform.event("PreviewSuspended", preview_id)
        again = await client.ready(STATIC)
        await client.stop(again["preview_id"])


async def _ended(client: Client, files: dict[str, str | bytes]) -> dict[str, object]:
    return await client.ended(await client.request_preview(await client.project(files)))


async def _without_answer(prometheus: Prometheus, queries: Sequence[Asked], since: float) -> list[str]:
    """Those that have no finite value at any time of the run, as a panel would show them."""
    silent = []
    for asked in queries:
        now = time.time()
        expr = filled(asked.expr, rate_interval=RATE_INTERVAL)
        if not await prometheus.values(expr, now if asked.instant else since, now):
            silent.append(f"{asked.where}: {expr}")
    return silent


async def _all_answered(prometheus: Prometheus, queries: Sequence[Asked], since: float) -> None:
    """Returns once each has an answer; fails with those that have none in the time."""
    left: list[str] = []

    async def none_left() -> bool:
        left[:] = await _without_answer(prometheus, queries, since)
        return not left

    try:
        await eventually(none_left, DATA_TIMEOUT_S)
    except TimeoutError:
        pytest.fail("no data for\n" + "\n".join(left))


async def _exemplars(prometheus: Prometheus, since: float) -> set[str]:
    """The traces that the dashboards' histograms lead to."""
    data = await prometheus.ask(
        "query_exemplars", query="drape_preview_ready_duration_seconds_bucket", start=since, end=time.time()
    )
    return {found["labels"]["trace_id"] for series in data for found in series["exemplars"]}


def _unknown_to_traces(spans: Spans) -> list[str]:
    """What TraceQL queries name that no span had: attributes, services, span names."""
    unknown = []
    for asked in dashboards.trace_queries():
        unknown += [
            f"{asked.where}: {name}"
            for name in re.findall(r"\b((?:resource|span)\.[\w.]+)", asked.expr)
            if name not in spans.attributes
        ]
        service = re.search(r'resource\.service\.name = "([^"]+)"', asked.expr)
        named = re.search(r'(?<![\w.])name (=|=~) "([^"]+)"', asked.expr)
        names = spans.names[service[1]] if service else set().union(*spans.names.values())
        if not names:
            unknown.append(f"{asked.where}: the service")
        if named and not any(
            re.fullmatch(named[2] if named[1] == "=~" else re.escape(named[2]), each) for each in names
        ):
            unknown.append(f"{asked.where}: {named[2]}")
    return unknown


@pytest.mark.timeout(480)
async def test_every_query_has_an_answer(tmp_path: Path) -> None:
    """Of dashboards, variables and rules; the rules are quiet; exemplars lead to spans; trace queries name what spans have."""
    expected = [*dashboards.dashboards_queries(), *dashboards.rules_queries(), *dashboards.values_of_variables()]
    since = time.time()
    async with (
        prometheus_running(tmp_path / "prometheus", RULES) as prometheus,
        _receiving() as (spans, endpoint),
        _platform(tmp_path / "home", prometheus, endpoint) as platform,
    ):
        await _use(platform)
        await _all_answered(prometheus, expected, since)
        firing = {name for name, state in (await prometheus.alerts()).items() if state == "firing"}
        assert firing <= {"pool_empty"}  # which on a slow machine is true
        await eventually(lambda: not _unknown_to_traces(spans), DATA_TIMEOUT_S)
        led_to = await _exemplars(prometheus, since)
        assert led_to
        await eventually(lambda: led_to <= spans.traces, DATA_TIMEOUT_S)
