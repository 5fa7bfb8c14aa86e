"""OTLP: with an endpoint set, each service exports, and a preview is one trace over all of them."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from deploy.cli.api import Api
from deploy.cli.folder import pack_folder, read_folder
from deploy.cli.platform import STATUS_FUNCTION
from deploy.local.detach import down, up_detached
from deploy.local.options import UpOptions
from deploy.local.paths import Home

pytestmark = pytest.mark.live

EXAMPLE = Path(__file__).parents[2] / "examples" / "static"
EXPORT_WAIT_S = 20.0
ON_THE_WAY = {"drape-gateway", "drape-orchestrator", "drape-pool"}


class Collector:
    """An OTLP receiver over HTTP: keeps span names by trace and service, and metric names by service."""

    def __init__(self) -> None:
        self.traces: dict[bytes, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        self.metrics: dict[str, set[str]] = defaultdict(set)
        self.arrived = asyncio.Condition()

    async def on_traces(self, request: web.Request) -> web.Response:
        """`POST /v1/traces`"""
        for resource in ExportTraceServiceRequest.FromString(await request.read()).resource_spans:
            service = _service(resource.resource.attributes)
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.traces[span.trace_id][service].add(span.name)
        return await self._answer()

    async def on_metrics(self, request: web.Request) -> web.Response:
        """`POST /v1/metrics`"""
        for resource in ExportMetricsServiceRequest.FromString(await request.read()).resource_metrics:
            service = _service(resource.resource.attributes)
            for scope in resource.scope_metrics:
                self.metrics[service].update(metric.name for metric in scope.metrics)
        return await self._answer()

    async def _answer(self) -> web.Response:
        async with self.arrived:
            self.arrived.notify_all()
        return web.Response()


def _service(attributes: Iterable[KeyValue]) -> str:
    return next(str(each.value.string_value) for each in attributes if each.key == "service.name")


@asynccontextmanager
async def _collecting() -> AsyncIterator[tuple[Collector, str]]:
    collector = Collector()
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.add_routes([web.post("/v1/traces", collector.on_traces), web.post("/v1/metrics", collector.on_metrics)])
    runner = web.AppRunner(app, handle_signals=False)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        yield collector, f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


async def test_a_preview_is_one_trace_over_all_services(tmp_path: Path) -> None:
    """The spans of request, claim, files, dev server and confirmation share a trace id, whichever service made them."""
    async with _collecting() as (collector, endpoint):
        home = Home(tmp_path / "home")
        options = UpOptions(port=0, env={"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint})
        status = await up_detached(options, home, STATUS_FUNCTION)
        try:
            async with aiohttp.ClientSession() as session:
                api = Api(status.gateway, session)
                project = await api.call("POST", "/api/projects", json={"name": "traced"})
                files = pack_folder(read_folder(EXAMPLE))
                await api.upload("PUT", f"/api/projects/{project['project_id']}/files", files)
                preview = await api.call("POST", "/api/previews", json={"project_id": project["project_id"]})
                path = f"/api/previews/{preview['preview_id']}"
                async for _, _, message in api.stream(f"{path}/events"):
                    if message["type"] == "preview" and message["preview"]["status"] == "ready":
                        break
                await api.call("DELETE", path)  # the span of the dev server's watch ends with the preview
            try:
                await asyncio.wait_for(_one_trace(collector), EXPORT_WAIT_S)
            except TimeoutError:
                widest = [dict(trace) for trace in collector.traces.values() if len(trace) > 1]
                pytest.fail(f"no trace over {ON_THE_WAY}; the widest one: {widest}")
        finally:
            await down(home)

    assert collector.metrics.keys() >= ON_THE_WAY
    assert "messaging.process.duration" in collector.metrics["drape-orchestrator"]


async def _one_trace(collector: Collector) -> None:
    """Return once some trace has been seen in all services with the preview's first and last event."""
    async with collector.arrived:
        await collector.arrived.wait_for(lambda: any(_is_whole(trace) for trace in collector.traces.values()))


def _is_whole(trace: dict[str, set[str]]) -> bool:
    names = {name for spans in trace.values() for name in spans}
    wanted = {"send drape.cmd.orchestrator.request", "process drape.cmd.orchestrator.request"}
    wanted |= {
        "process drape.cmd.pool.acquire",
        "process pool.vm.VmAcquired",
        "process orchestrator.preview.DevServerReady",
    }
    return trace.keys() >= ON_THE_WAY and names >= wanted
