"""OTLP: with an endpoint set each service exports, a preview's start is one tree over all of them and its VM's agent, and
nothing personal is in any of it."""

import asyncio
from pathlib import Path

import aiohttp
import pytest

from shared.ulids import new_id
from tests.live.client import SERVER, Client, node_project
from tests.live.collector import Collector, Line, Span, broken, collecting
from tests.live.platform import Platform

pytestmark = pytest.mark.live

EXPORT_WAIT_S = 60.0
SECRET, NAME, FILE = "value-of-a-variable-51", "Geheimprojekt Aurora", "geheime-datei-aurora.txt"
CALLER = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
PUBLISH = "publish drape.evt.orchestrator.preview"
AGENTS = {"sync files", "run install", "start dev server", "probe dev server"}


def _whole(collector: Collector) -> bool:
    """Whether the start has been received from its request to its end, with all that the agent did."""
    start = collector.trace_with(PUBLISH, event="PreviewReady")
    return {each.name for each in start} >= AGENTS and not broken(start)


async def _use(client: Client) -> str:
    """A project with an install and a variable: a preview by a caller who traces, two edits, the second of which says
    nothing that can be understood, and a stop. Gives the preview's id."""
    files = {**node_project(SERVER), "drape.toml": 'install = "node -e 0"\n', FILE: "of no interest"}
    project_id = await client.project(files, NAME)
    stored = await client.call("PATCH", f"/api/projects/{project_id}/env", json={"SOME_KEY": SECRET})
    assert stored.status == 200, stored.text
    headers = {"traceparent": f"00-{CALLER[0]}-{CALLER[1]}-01", "Idempotency-Key": new_id()}
    asked = await client.call("POST", "/api/previews", json={"project_id": project_id}, headers=headers)
    assert asked.status in (200, 202), asked.text
    preview_id: str = asked.json["preview_id"]
    view = await client.ended(preview_id)
    assert (view["status"], view["install"]) == ("ready", "completed"), view
    for version, change in enumerate(({FILE: "of less"}, {"drape.toml": "instal = 1\n"}), start=1):
        changed = await client.patch(project_id, version, change)
        assert changed.status == 200, changed.text
    return preview_id


async def test_a_preview_is_one_tree_over_all_services_and_the_agent(tmp_path: Path) -> None:
    """The start belongs to the caller's trace, an edit has its own, which links to it; figures lead to traces, lines too."""
    async with collecting() as (collector, endpoint), aiohttp.ClientSession() as session:
        own = {"DRAPE_LOG_LEVEL": "INFO", "DRAPE_OTLP_LOG_LEVEL": "INFO", "OTEL_METRIC_EXPORT_INTERVAL": "2000"}
        platform = Platform(tmp_path / "home", {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, **own})
        try:
            await asyncio.to_thread(platform.up)
            client = Client(platform.gateway, session)
            preview_id = await _use(client)
            try:
                await collector.until(lambda: _whole(collector), EXPORT_WAIT_S)
            except TimeoutError:
                start = collector.trace_with(PUBLISH, event="PreviewReady")
                pytest.fail(f"{broken(start)}\n{sorted((each.service, each.name) for each in start)}")
            await collector.until(lambda: _line(collector) is not None, EXPORT_WAIT_S)
            await collector.until(lambda: _shown(collector), EXPORT_WAIT_S)
            await client.stop(preview_id)
        finally:
            await asyncio.to_thread(platform.down)

    start = collector.trace_with(PUBLISH, event="PreviewReady")
    _check_start(start)
    _check_edit(collector, start)
    line = _line(collector)
    assert line is not None
    assert line.trace in collector.traces()
    assert line.span in collector.spans
    _check_figures(collector)
    for personal in (SECRET, NAME, FILE, "server.mjs"):
        assert personal.encode() not in collector.bytes, personal


def _check_start(start: list[Span]) -> None:
    """The caller's trace, over all that had a part in it, parents around the agent's work."""
    root = next(each for each in start if each.parent == CALLER[1])
    assert (root.trace, root.name, root.kind) == (CALLER[0], "POST /api/previews", "SERVER")
    assert {each.service for each in start} == {"drape-gateway", "drape-orchestrator", "drape-pool", "drape-agent"}
    by_id = {each.id: each for each in start}
    for name, reason in (
        ("sync files", ""),
        ("run install", "InstallStarted"),
        ("start dev server", "DevServerStarted"),
    ):
        work = next(each for each in start if each.name == name)
        above = by_id[work.parent]
        assert above.name.startswith("process drape.evt."), above
        assert not reason or above.attributes["drape.event"] == reason
        assert root.start_ns <= work.start_ns <= work.end_ns <= max(each.end_ns for each in start)
    acquire = [each.kind for each in start if each.name.endswith("drape.cmd.pool.acquire")]
    assert sorted(acquire) == ["CLIENT", "SERVER"]


def _check_edit(collector: Collector, start: list[Span]) -> None:
    edits = [
        spans
        for spans in collector.traces().values()
        if any(each.name == "PATCH /api/projects/{project_id}/files" for each in spans)
    ]
    assert len(edits) == 2
    assert any(each.name == "sync files" for spans in edits for each in spans)
    for edit in edits:
        assert broken(edit) == ""
        assert {link[0] for each in edit for link in each.links} == {start[0].trace}


def _line(collector: Collector) -> Line | None:
    return next((each for each in collector.lines if each.body == "edit_not_detected" and each.trace), None)


def _shown(collector: Collector) -> bool:
    names = {name for _, name, _ in collector.points}
    return {"drape.pool.vms", "drape.previews", "drape.preview.ready.duration", "drape.gateway.connections"} <= names


def _check_figures(collector: Collector) -> None:
    """Units are there, no attribute is an id, and an exemplar leads to the start."""
    ready = [each for each in collector.points.values() if each.name == "drape.preview.ready.duration"]
    assert [(each.service, each.value, each.unit) for each in ready] == [("drape-orchestrator", 1, "s")]
    assert CALLER[0] in ready[0].exemplars
    assert {each.unit for each in collector.points.values() if not each.unit} == set()
    position = next(each for each in collector.points.values() if each.name == "drape.log.position")
    assert position.value > 0
