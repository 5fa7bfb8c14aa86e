"""What is measured of a journey: once each, with units, without ids, and leading to traces."""

import asyncio
from collections import Counter
from contextlib import ExitStack

import pytest

from shared import metrics
from shared.events import DevServerReady, InstallSkipped, PreviewFailed, PreviewReady, PreviewStopped, VmBooted
from tests.journeys.stage import Stage, staged
from tests.observing import ID, Point, figure, points, trace_of, tracing

pytestmark = pytest.mark.looptime

UNITS = {
    "duration": "s",
    "size": "By",
}


def _counted() -> Counter[tuple[str, tuple[tuple[str, object], ...]]]:
    """How often each histogram and counter was recorded, by series; gauges left out."""
    gauges = {"drape.log.position", "drape.log.lag", "drape.previews", "drape.reactions.parked"}
    gauges |= {"drape.pool.vms", "drape.pool.target", "drape.pool.claims.waiting", "drape.gateway.connections"}
    return Counter(
        {
            (each.name, tuple(sorted(each.attributes.items()))): each.entries
            if each.unit in ("s", "By")
            else each.total
            for each in points()
            if each.name not in gauges
        }
    )


def _gained(
    before: Counter[tuple[str, tuple[tuple[str, object], ...]]], name: str
) -> list[tuple[dict[str, object], int]]:
    gained = _counted() - before
    return [(dict(attributes), count) for (each, attributes), count in gained.items() if each == name]


async def test_a_start_is_measured_once_though_two_replicas_fold_it() -> None:
    """Of every service there are two; each figure of the story is there once."""
    doubled = ("pool", "pool/2", "orchestrator", "orchestrator/2", "gateway", "gateway/2", "telemetry")
    before = _counted()
    async with staged(replicas=doubled, target=1) as stage:
        project_id = await stage.project()
        preview_id = await stage.request(project_id)
        ready = await stage.until(PreviewReady, preview_id, within_s=20)
        await stage.stop(preview_id)
        await stage.until(PreviewStopped, preview_id, within_s=20)
        await asyncio.sleep(20)
        boots = len(stage.events(VmBooted))

    vite = {"drape.framework": "vite"}
    how = {"drape.warmth": "warm" if ready.from_pool else "cold", "drape.install": "completed"}
    assert _gained(before, "drape.preview.ready.duration") == [({**vite, **how}, 1)]
    steps = {str(each["drape.step"]): count for each, count in _gained(before, "drape.preview.step.duration")}
    assert steps == {"acquire": 1, "sync": 1, "install": 1, "boot": 1, "confirm": 1}
    assert _gained(before, "drape.install.duration") == [({**vite, "drape.package_manager": "npm"}, 1)]
    outcomes = {str(each["drape.outcome"]): count for each, count in _gained(before, "drape.preview.outcomes")}
    assert outcomes == {"ready": 1, "stopped": 1}
    assert _gained(before, "drape.vm.boot.duration") == [
        ({"drape.pool": "default", "drape.provider": "simulated"}, boots)
    ]
    assert sum(count for _, count in _gained(before, "drape.pool.claim.duration")) == 1


async def test_failures_and_skipped_installs_say_why() -> None:
    """By their stable codes and reasons."""
    before = _counted()
    async with staged() as stage:
        broken = await stage.request(await stage.project({"readme.txt": b"nothing to start"}))
        failed = await stage.until(PreviewFailed, broken, within_s=20)
        static = await stage.request(await stage.project({"index.html": b"<p>hello"}))
        skipped = await stage.until(InstallSkipped, static, within_s=20)

    assert ({"drape.outcome": "failed", "drape.framework": "unknown", "error.type": failed.code}, 1) in _gained(
        before, "drape.preview.outcomes"
    )
    assert _gained(before, "drape.installs.skipped") == [({"drape.reason": skipped.reason}, 1)]


async def test_a_replay_measures_nothing_but_itself() -> None:
    """A replica that starts anew folds the same events, and counts none of them again."""
    async with staged() as stage:
        preview_id = await stage.request(await stage.project())
        await stage.until(PreviewReady, preview_id, within_s=20)
        await asyncio.sleep(5)
        for name in ("telemetry", "orchestrator"):
            await stage.crash(name)
        before = _counted()
        await stage.start("telemetry")
        started = _counted() - before
        await stage.start("orchestrator")
        again = {name for name, _ in _counted() - before}

    assert {name for name, _ in started} == {"drape.replay.duration"}
    assert not again & {"drape.preview.ready.duration", "drape.preview.outcomes", "drape.preview.step.duration"}


async def test_gauges_show_the_live_state() -> None:
    """VMs by state, previews by state, claims, and how far the log is folded; a state without any is 0."""
    async with staged(target=2) as stage:
        preview_id = await stage.request(await stage.project())
        await stage.until(DevServerReady, preview_id, within_s=20)
        await asyncio.sleep(10)
        with ExitStack() as asked:
            for replica in stage.replicas.values():
                asked.enter_context(metrics.live.asking(replica.runtime.figures))
            await metrics.live.refresh()
            shown = {
                state: figure("drape.pool.vms", **{"vm.state": state}) for state in ("in_use", "available", "kept")
            }
            assert shown == {"in_use": 1, "available": 2, "kept": 0}
            assert figure("drape.pool.target", pool="default") == 2
            assert figure("drape.pool.claims.waiting", pool="default") == 0
            assert figure("drape.previews", **{"preview.state": "ready"}) == 1
            assert figure("drape.previews", **{"preview.state": "suspended"}) == 0
            assert figure("drape.log.position") == stage.replicas["pool"].runtime.seq
            assert figure("drape.log.lag") == 0
        await metrics.live.refresh()
        assert [each for each in points() if each.name == "drape.pool.vms"] == []


async def _story(stage: Stage) -> None:
    preview_id = await stage.request(await stage.project())
    await stage.until(PreviewReady, preview_id, within_s=20)
    await stage.restart(preview_id)
    await stage.until(PreviewReady, preview_id, within_s=20, nth=2)
    await stage.stop(preview_id)
    await asyncio.sleep(5)


def _spoken_for(point: Point) -> bool:
    """Whether its unit is what its name promises."""
    last = point.name.rpartition(".")[2]
    return point.unit == UNITS.get(last, point.unit) and bool(point.unit)


async def test_every_series_has_a_unit_few_values_and_leads_to_a_trace() -> None:
    """No attribute looks like an id, a path or a text; what an event tells has the trace of that event."""
    points()
    with tracing() as spans:
        async with staged() as stage:
            await _story(stage)
        known = {trace_of(each) for each in spans.all()}
    seen = points()

    assert [each.name for each in seen if not _spoken_for(each)] == []
    values = {str(value) for each in seen for value in each.attributes.values()}
    assert {value for value in values if ID.search(value)} == set()
    for name in ("drape.preview.ready.duration", "messaging.process.duration", "messaging.client.operation.duration"):
        leading = [each for each in seen if each.name == name and each.traces & known]
        assert leading != [], name
