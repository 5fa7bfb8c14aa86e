"""The spans of whole journeys: a start is one tree, and what comes later links to it."""

import asyncio

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind

from services.orchestrator.config import OrchestratorConfig
from shared.events import (
    FilesSynced,
    PreviewFailed,
    PreviewReady,
    PreviewRestarted,
    PreviewResumed,
    PreviewStopped,
    PreviewSuspended,
)
from tests.journeys.stage import VITE, staged
from tests.observing import Spans, linked, matches, trace_of, tracing

pytestmark = pytest.mark.looptime

REQUEST = "process drape.cmd.orchestrator.request"
PUBLISH, REACT = "publish drape.evt.orchestrator.preview", "process drape.evt.orchestrator.preview"


def _has(spans: list[ReadableSpan], name: str, **attributes: str) -> bool:
    return any(matches(each, name, attributes) for each in spans)


def _tree_of(spans: Spans, event: str, nth: int = 1) -> list[ReadableSpan]:
    """The trace in which the nth such event of a preview was published."""
    published = [each for each in spans.all() if matches(each, PUBLISH, {"event": event})]
    return spans.trees()[trace_of(published[nth - 1])]


@pytest.mark.parametrize("warm", [True, False], ids=["warm pool", "empty pool"])
async def test_a_start_is_one_tree_over_the_services(warm: bool) -> None:
    """From the request to the preview that is ready, each event published below the command that made it, each reaction below
    its event, each command below its sender; whoever waits for the dev server ends before that does."""
    with tracing() as spans:
        async with staged(warm=warm) as stage:
            preview_id = await stage.request(await stage.project())
            await stage.until(PreviewReady, preview_id, within_s=20)
            await asyncio.sleep(5)
            tree = spans.tree_with(REQUEST)

    story = ("PreviewRequested", "ProjectDetected", "FilesSynced", "InstallStarted", "InstallCompleted")
    for event in (*story, "DevServerStarted", "DevServerReady", "PreviewReady"):
        assert _has(tree, PUBLISH, event=event), event
    for event in ("PreviewRequested", "ProjectDetected", "InstallStarted", "DevServerStarted", "DevServerReady"):
        assert _has(tree, REACT, event=event), event
    assert _has(tree, "publish drape.evt.pool.vm", event="VmAcquired")
    assert _has(tree, "process drape.evt.pool.vm", event="VmAcquired")
    kinds = {each.name.partition(" ")[0]: each.kind for each in tree if each.name.endswith("drape.cmd.pool.acquire")}
    assert kinds == {"send": SpanKind.CLIENT, "process": SpanKind.SERVER}
    root = next(each for each in tree if each.parent is None)
    assert (root.name, root.kind) == (REQUEST, SpanKind.SERVER)


async def test_a_restart_later_is_a_trace_of_its_own_that_links_to_the_first() -> None:
    """So each trace is as long as what somebody waited for."""
    with tracing() as spans:
        async with staged() as stage:
            preview_id = await stage.request(await stage.project())
            await stage.until(PreviewReady, preview_id, within_s=20)
            await stage.restart(preview_id)
            await stage.until(PreviewReady, preview_id, within_s=20, nth=2)
            await asyncio.sleep(2)
            first, second = _tree_of(spans, "PreviewRequested"), _tree_of(spans, "PreviewRestarted")

    assert trace_of(first[0]) != trace_of(second[0])
    assert linked(second) == {trace_of(first[0])}
    assert _has(second, PUBLISH, event="PreviewReady")


@pytest.mark.parametrize(("after_s", "same"), [(5.0, True), (3600.0, False)], ids=["at once", "an hour later"])
async def test_a_vm_that_is_lost_while_starting_stays_in_the_trace_and_later_links(after_s: float, same: bool) -> None:
    """The next attempt belongs to the start that somebody waits for, or follows from it."""
    with tracing() as spans:
        async with staged(orchestrator=OrchestratorConfig(suspend_after_s=1e6)) as stage:
            preview_id = await stage.request(await stage.project())
            await stage.until(PreviewReady, preview_id, within_s=20)
            await asyncio.sleep(after_s)
            stage.provider.lose(stage.state("orchestrator").previews[preview_id].vm.vm_id)
            await stage.until(PreviewRestarted, preview_id, within_s=120)
            await stage.until(PreviewReady, preview_id, within_s=60, nth=2)
            await asyncio.sleep(2)
            first, second = _tree_of(spans, "PreviewRequested"), _tree_of(spans, "PreviewRestarted")

    assert (trace_of(first[0]) == trace_of(second[0])) is same
    assert _has(second, PUBLISH, event="PreviewReady")
    assert same or trace_of(first[0]) in linked(second)


async def test_a_preview_that_is_woken_links_to_its_start() -> None:
    """Falling asleep comes with a tick, waking with a visit: neither makes the start's trace longer."""
    with tracing() as spans:
        async with staged(orchestrator=OrchestratorConfig(suspend_after_s=60.0)) as stage:
            preview_id = await stage.request(await stage.project())
            await stage.until(PreviewReady, preview_id, within_s=20)
            await stage.until(PreviewSuspended, preview_id, within_s=200)
            await stage.visit(preview_id)
            await stage.until(PreviewResumed, preview_id, within_s=5)
            await asyncio.sleep(5)
            first = _tree_of(spans, "PreviewRequested")
            later = [_tree_of(spans, event) for event in ("PreviewSuspended", "PreviewResumed")]

    assert not _has(first, PUBLISH, event="PreviewResumed")
    for tree in later:
        assert trace_of(first[0]) in linked(tree)


async def test_an_edit_is_a_trace_of_its_own_that_links_to_the_preview() -> None:
    """From the new version to the files in the VM."""
    with tracing() as spans:
        async with staged() as stage:
            project_id = await stage.project()
            preview_id = await stage.request(project_id)
            await stage.until(PreviewReady, preview_id, within_s=20)
            await stage.change(project_id, {**VITE, "src/new.js": b"export default 1"})
            await stage.until(FilesSynced, preview_id, within_s=20, nth=2)
            await asyncio.sleep(1)
            first, edit = _tree_of(spans, "PreviewRequested"), _tree_of(spans, "FilesSynced", 2)

    assert trace_of(first[0]) != trace_of(edit[0])
    assert linked(edit) == {trace_of(first[0])}
    assert _has(edit, "publish drape.evt.gateway.project", event="ProjectFilesChanged")


async def test_what_a_timer_sets_off_links_to_the_trace_that_set_it() -> None:
    """A step that nobody ends is ended by its timer, long after it began."""
    with tracing() as spans:
        async with staged(orchestrator=OrchestratorConfig(boot_limit_s=30.0)) as stage:
            preview_id = await stage.request(await stage.project())
            await stage.reached("DevServerStarted", preview_id)
            await stage.crash("orchestrator")
            await asyncio.sleep(120)
            await stage.start("orchestrator")
            await stage.until(PreviewFailed, preview_id, within_s=120)
            await asyncio.sleep(2)
            first = _tree_of(spans, "PreviewRequested")
            fired = [each for each in spans.all() if each.name == "process drape.timer.orchestrator.step"]

    assert fired != []
    for each in fired:
        assert each.parent is None
        assert trace_of(first[0]) in linked([each])


async def test_a_redelivery_stays_in_the_tree_and_a_late_one_links() -> None:
    """A replica dies over its work: the next one's is beside it, or, an hour later, a trace that links to it."""
    for down_s, same in ((5.0, True), (3600.0, False)):
        with tracing() as spans:
            async with staged() as stage:
                preview_id = await stage.request(await stage.project())
                await stage.reached("InstallStarted", preview_id)
                await stage.crash("orchestrator")
                await asyncio.sleep(down_s)
                await stage.start("orchestrator")
                await asyncio.sleep(60)
                first = _tree_of(spans, "PreviewRequested")
                again = [
                    each
                    for each in spans.all()
                    if (each.attributes or {}).get("drape.deliveries") and each.name == REACT
                ]
            assert again != []
            assert {trace_of(each) == trace_of(first[0]) for each in again} == {same}
            assert same or all(linked([each]) == {trace_of(first[0])} for each in again)


async def test_a_stop_later_links_and_a_replay_is_one_span() -> None:
    """However many events it reads; nothing of telemetry's is in a preview's trace."""
    with tracing() as spans:
        async with staged() as stage:
            preview_id = await stage.request(await stage.project())
            await stage.until(PreviewReady, preview_id, within_s=20)
            await stage.stop(preview_id)
            await stage.until(PreviewStopped, preview_id, within_s=20)
            await asyncio.sleep(5)
            assert linked(_tree_of(spans, "PreviewStopped")) == {trace_of(_tree_of(spans, "PreviewRequested")[0])}
            await stage.crash("telemetry")
            before = len(spans.all())
            await stage.start("telemetry")
            made = spans.all()[before:]

    assert [each.name for each in made if each.parent is None and "drape.cmd" not in each.name] == ["replay telemetry"]
    assert dict(made[0].attributes or {})["drape.replay.events"] == len(stage.broker.records)
