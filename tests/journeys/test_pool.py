"""Few VMs and many who want one; boots that fail; VMs that come back."""

import asyncio
from itertools import pairwise

import pytest

from services.pool.views import summary
from shared.codec import Recorded
from shared.events import (
    ClaimExpired,
    ClaimQueued,
    ClaimWithdrawn,
    PreviewFailed,
    PreviewReady,
    PreviewRequested,
    PreviewStopped,
    VmAcquired,
    VmBootFailed,
    VmCleaned,
    VmCreationStarted,
    VmDestroyed,
)
from tests.journeys.rules import check_rules
from tests.journeys.stage import STATIC, Stage, staged

pytestmark = pytest.mark.looptime


async def _previews(stage: Stage, count: int) -> list[str]:
    previews: list[str] = []
    for _ in range(count):
        previews.append(await stage.request(await stage.project(STATIC)))
        await asyncio.sleep(0.1)
    return previews


async def test_claims_wait_in_order_and_a_freed_vm_goes_to_the_first() -> None:
    """Two VMs, four previews: each that stops lets the longest waiting one in."""
    async with staged(target=1, maximum=2) as stage:
        previews = await _previews(stage, 4)
        await stage.until(PreviewReady, previews[1], within_s=10)
        await asyncio.sleep(2)
        assert [event.preview_id for event in stage.events(ClaimQueued)][-2:] == previews[2:]
        await stage.stop(previews[0])
        await stage.until(PreviewReady, previews[2], within_s=10)
        assert not stage.events(VmAcquired, previews[3])
        await stage.stop(previews[1])
        await stage.until(PreviewReady, previews[3], within_s=10)

        await asyncio.sleep(20)
        assert [event.preview_id for event in stage.events(VmAcquired)] == previews
        check_rules(stage)


async def test_a_claim_that_comes_while_others_wait_does_not_overtake_them() -> None:
    """A VM boots while one waits for it; whoever asks in that very moment waits behind."""
    async with staged(target=1, maximum=3, boot_s=4.0) as stage:
        previews = await _previews(stage, 3)
        late: list[asyncio.Task[str]] = []
        project_id = await stage.project(STATIC)

        def ask(recorded: Recorded) -> None:
            if recorded.type == "VmBooted" and not late:
                late.append(asyncio.create_task(stage.request(project_id)))

        stage.broker.on_stored.append(ask)
        await stage.until(PreviewReady, previews[2], within_s=20)
        last = await late[0]
        for preview_id in previews:
            await stage.stop(preview_id)
        await stage.until(PreviewReady, last, within_s=20)

        await asyncio.sleep(30)
        assert [event.preview_id for event in stage.events(VmAcquired)] == [*previews, last]
        check_rules(stage)


async def test_a_claim_that_nobody_can_serve_ends_at_its_deadline() -> None:
    """All VMs are in use: ClaimExpired, then a failure that says what to do."""
    async with staged(target=1, maximum=1) as stage:
        held, waiting = await _previews(stage, 2)
        failed = await stage.until(PreviewFailed, waiting, within_s=80)

        limit_s = stage.orchestrator_config.acquire_limit_s
        waited_s = stage.at(PreviewFailed, waiting) - stage.at(PreviewRequested, waiting)
        assert failed.code == "no_vm_available"
        assert "DRAPE_POOL_MAXIMUM" in failed.hint
        assert len(stage.events(ClaimExpired, waiting)) == 1
        assert limit_s - 0.1 <= waited_s <= limit_s + stage.pool_config.maintain_period_s + 0.5
        await stage.stop(held)
        await asyncio.sleep(20)
        assert len(stage.events(VmAcquired)) == 1
        check_rules(stage)


async def test_boots_that_keep_failing_are_tried_ever_more_seldom_and_never_above_the_maximum() -> None:
    """The back-off doubles; once boots work again, the pool is full and the waiting preview is served."""
    async with staged(warm=False, target=3, maximum=5, replicas=("gateway", "orchestrator")) as stage:
        stage.provider.boot_faults.extend(["boot_failed"] * 9)
        await stage.start("pool")
        await asyncio.sleep(60)
        starts = [stage.at(VmCreationStarted, nth=n) for n in range(1, len(stage.events(VmCreationStarted)) + 1)]
        single = starts[3:]
        pauses = [later - earlier for earlier, later in pairwise(single)]
        assert len(pauses) >= 2
        assert all(later > earlier for earlier, later in pairwise(pauses)), pauses
        assert len(starts) <= 3 + 6

        preview_id = await stage.request(await stage.project(STATIC))
        stage.provider.boot_faults.clear()
        ready = await stage.until(PreviewReady, preview_id, within_s=70)
        assert not ready.from_pool
        await asyncio.sleep(30)
        assert summary(stage.state("pool")).available == 3
        assert summary(stage.state("pool")).boot_failures == 0
        assert len(stage.events(VmBootFailed)) == len(stage.events(VmCreationStarted)) - len(stage.provider.vms)
        check_rules(stage)


@pytest.mark.parametrize("when", ["ClaimQueued", "VmAcquired", "InstallStarted", "DevServerStarted", "PreviewReady"])
@pytest.mark.parametrize("action", ["stop", "restart"])
async def test_stop_and_restart_at_any_step(action: str, when: str) -> None:
    """The VM held so far is released and destroyed, or emptied for its owner once its install has proven itself, and the
    pool refilled; a restart becomes ready in another VM."""
    warm = when != "ClaimQueued"
    async with staged(warm=warm, boot_s=2.0) as stage:
        project_id = await stage.project()
        preview_id = await stage.request(project_id)
        await stage.reached(when, preview_id)
        await asyncio.sleep(0 if when == "VmAcquired" else 0.3)
        before = [event.vm_id for event in stage.events(VmAcquired, preview_id)]
        readies = len(stage.events(PreviewReady))
        if action == "stop":
            await stage.stop(preview_id)
        else:
            await stage.restart(preview_id)
            ready = await stage.until(PreviewReady, preview_id, within_s=20, nth=readies + 1)
            assert ready.attempt == 2
        await asyncio.sleep(30)

        given_back = [*stage.events(VmDestroyed), *stage.events(VmCleaned)]
        assert set(before) <= {event.vm_id for event in given_back}
        assert (when == "PreviewReady") is (len(stage.events(VmCleaned)) == 1)
        assert (len(stage.events(ClaimWithdrawn)) == 1) is (when == "ClaimQueued")
        in_use = summary(stage.state("pool")).in_use
        assert (in_use, summary(stage.state("pool")).available) == (1 if action == "restart" else 0, 3)
        if action == "stop":
            assert len(stage.events(PreviewReady)) == readies
            assert stage.story(preview_id).count("PreviewStopped") == 1
        check_rules(stage)


@pytest.mark.parametrize("event", ["PreviewRestarted", "VmReleased", "VmAcquired", "ProjectDetected", "InstallStarted"])
async def test_a_restart_survives_a_killed_orchestrator(event: str) -> None:
    """The release that belongs to the restart is asked for again, and must not take the new VM."""
    async with staged() as stage:
        project_id = await stage.project()
        preview_id = await stage.request(project_id)
        await stage.until(PreviewReady, preview_id, within_s=10)
        killed = stage.crash_when("orchestrator", event)
        asked = asyncio.create_task(stage.restart(preview_id))
        await asyncio.wait_for(killed, 20)
        await asyncio.sleep(1)
        await stage.start("orchestrator")
        await asked
        await stage.until(PreviewReady, preview_id, within_s=60, nth=2)
        await asyncio.sleep(60)

        assert stage.events(PreviewFailed) == []
        assert stage.state("orchestrator").previews[preview_id].status == "ready"
        assert len(stage.events(VmAcquired)) == 2, "one for each attempt"
        check_rules(stage)


async def test_a_restart_while_the_pool_is_empty_survives_a_killed_orchestrator() -> None:
    """Killed after the new claim was queued: the release, asked for again, must not lose the claim for good."""
    async with staged(target=1, maximum=2, boot_s=15.0, warm=False) as stage:
        project_id = await stage.project()
        preview_id = await stage.request(project_id)
        await stage.until(PreviewReady, preview_id, within_s=40)
        await asyncio.sleep(30)
        other = await stage.request(await stage.project(STATIC))
        await stage.until(PreviewReady, other, within_s=10)
        killed = stage.crash_when("orchestrator", "ClaimQueued")
        await stage.restart(preview_id)
        await asyncio.wait_for(killed, 20)
        await asyncio.sleep(1)
        await stage.start("orchestrator")
        await stage.until(PreviewReady, preview_id, within_s=60, nth=2)
        await asyncio.sleep(40)
        check_rules(stage)


async def test_a_destroy_that_fails_is_tried_until_the_provider_agrees() -> None:
    """The VM counts until then: the pool does not go above its maximum meanwhile."""
    async with staged(target=2, maximum=2) as stage:
        preview_id = await stage.request(await stage.project(STATIC))
        await stage.until(PreviewReady, preview_id, within_s=10)
        (acquired,) = stage.events(VmAcquired)
        stage.provider.destroy_faults.extend(["destroy_failed"] * 10)
        await stage.stop(preview_id)
        await stage.until(PreviewStopped, preview_id, within_s=1)
        await asyncio.sleep(60)

        assert acquired.vm_id in [event.vm_id for event in stage.events(VmDestroyed)]
        assert len(stage.provider.vms) == 2
        check_rules(stage)
