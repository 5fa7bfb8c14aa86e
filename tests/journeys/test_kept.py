"""A released VM goes back to the pool for its owner: emptied of all but the dependencies, and only for those."""

import asyncio
from collections.abc import Callable

import pytest

from services.orchestrator.adapters.simulated import JobScript
from services.pool.views import PoolSummary, summary
from shared.commands import DeleteProject, RequestPreview
from shared.events import (
    InstallSkipped,
    InstallStarted,
    PreviewFailed,
    PreviewPrepared,
    PreviewReady,
    PreviewRestarted,
    VmAcquired,
    VmCleaned,
    VmReleased,
    VmRetired,
)
from tests.journeys.rules import check_rules
from tests.journeys.stage import OWNER, STATIC, VITE, Stage, staged

pytestmark = pytest.mark.looptime

BROKEN = JobScript(lasts_s=1.0, exit_code=1, lines=((0.5, "Error: it broke"),))
OTHER_DEPS = {**VITE, "package-lock.json": VITE["package-lock.json"].replace(b"7.1.2", b"7.1.3")}


def pool(stage: Stage) -> PoolSummary:
    return summary(stage.state("pool"))


async def shown(stage: Stage, files: dict[str, bytes] | None = None, owner: str = OWNER) -> str:
    """A new project's preview, once it is ready."""
    preview_id = await stage.request(await stage.project(files, owner), owner=owner)
    await stage.until(PreviewReady, preview_id, within_s=30)
    return preview_id


async def left(stage: Stage, files: dict[str, bytes] | None = None, owner: str = OWNER) -> str:
    """The VM that such a preview has left, emptied for its owner."""
    preview_id = await shown(stage, files, owner)
    before = len(stage.events(VmCleaned))
    await stage.stop(preview_id)
    return (await stage.until(VmCleaned, within_s=10, nth=before + 1)).vm_id


def vm_of(stage: Stage, preview_id: str) -> str:
    return stage.events(VmAcquired, preview_id)[-1].vm_id


async def test_the_owner_s_next_preview_begins_where_the_last_one_ended() -> None:
    """In the same VM, without an install, and the event says why and what that has saved."""
    async with staged() as stage:
        kept = await left(stage)
        preview_id = await shown(stage)

        [acquired] = stage.events(VmAcquired, preview_id)
        [skipped] = stage.events(InstallSkipped, preview_id)
        assert (acquired.vm_id, acquired.from_pool, acquired.key) == (kept, True, skipped.key)
        assert (skipped.reason, skipped.saved_s > 0) == ("preserved", True)
        assert len(stage.workspace.installs_run()) == 1
        assert [version for vm_id, version in stage.workspace.versions if vm_id == kept] == [1, 1]
        await asyncio.sleep(30)
        check_rules(stage)


async def test_it_goes_round_and_round() -> None:
    """What was preserved once is kept again, also of a preview that was only prepared."""
    async with staged() as stage:
        kept = await left(stage)
        for _ in range(2):
            assert await left(stage) == kept
        await stage.send(RequestPreview(project_id=await stage.project(), owner=OWNER, prepare=True))
        prepared = await stage.until(PreviewPrepared, within_s=10)
        await stage.stop(prepared.preview_id)
        await stage.until(VmCleaned, within_s=10, nth=4)

        assert {event.vm_id for event in stage.events(VmCleaned)} == {kept}
        assert len(stage.workspace.installs_run()) == 1
        await asyncio.sleep(30)
        check_rules(stage)


@pytest.mark.parametrize(
    ("files", "owner"),
    [(VITE, "mallory"), (OTHER_DEPS, OWNER), (STATIC, OWNER)],
    ids=["owner", "key", "no dependencies"],
)
async def test_nobody_else_gets_it(files: dict[str, bytes], owner: str) -> None:
    async with staged() as stage:
        kept = await left(stage)
        preview_id = await shown(stage, files, owner)

        assert vm_of(stage, preview_id) != kept
        assert "preserved" not in [event.reason for event in stage.events(InstallSkipped)]
        assert pool(stage).kept == 1
        await asyncio.sleep(30)
        check_rules(stage)


async def test_a_restart_of_one_that_is_ready_leaves_its_vm_for_the_next() -> None:
    async with staged() as stage:
        preview_id = await shown(stage)
        await stage.restart(preview_id)
        await stage.until(PreviewReady, preview_id, within_s=20, nth=2)
        first, second = (event.vm_id for event in stage.events(VmAcquired, preview_id))
        assert first != second
        assert vm_of(stage, await shown(stage)) == first
        await asyncio.sleep(30)
        check_rules(stage)


async def test_one_that_failed_leaves_nothing() -> None:
    """Also not one that lies in its VM as it was installed, and one whose server died after it was ready."""
    async with staged() as stage:
        stage.workspace.dev_servers.append(BROKEN)
        failed = await stage.request(await stage.project())
        await stage.until(PreviewFailed, failed, within_s=20)
        died = await shown(stage)
        stage.workspace.end_job(vm_of(stage, died), "dev-1")
        await stage.until(PreviewFailed, died, within_s=20)
        await asyncio.sleep(stage.orchestrator_config.failed_keep_s + 60)

        assert [event.keep for event in stage.events(VmReleased)] == ["", ""]
        assert (stage.events(VmCleaned), pool(stage).kept) == ([], 0)
        check_rules(stage)


async def test_dependencies_that_a_try_has_failed_with_are_installed_anew() -> None:
    """What was preserved is not trusted again, as what was restored is not."""
    async with staged() as stage:
        kept = await left(stage)
        stage.workspace.dev_servers.append(BROKEN)
        preview_id = await stage.request(await stage.project())
        await stage.until(PreviewFailed, preview_id, within_s=20)
        await stage.restart(preview_id)
        await stage.until(PreviewReady, preview_id, within_s=20)

        assert [event.in_place for event in stage.events(PreviewRestarted)] == [True]
        assert [event.job_id for event in stage.events(InstallStarted, preview_id)] == ["install-2"]
        assert vm_of(stage, preview_id) == kept
        await asyncio.sleep(30)
        check_rules(stage)


async def test_what_can_t_be_emptied_is_destroyed() -> None:
    async with staged() as stage:
        stage.cleaner.faults.append("dependencies_changed")
        preview_id = await shown(stage)
        await stage.stop(preview_id)
        retired = await stage.until(VmRetired, within_s=10)

        assert (retired.reason, retired.detail) == ("unclean", "dependencies_changed")
        await asyncio.sleep(30)
        assert (len(stage.provider.vms), pool(stage).kept) == (3, 0)
        check_rules(stage)


async def test_a_claim_that_waits_gets_the_place_of_a_kept_vm() -> None:
    """Another owner's; it only waits for the boot."""
    async with staged(target=0, minimum=0, maximum=2) as stage:
        kept = [await left(stage), await left(stage, OTHER_DEPS)]
        assert pool(stage).kept == 2
        preview_id = await shown(stage, owner="mallory")

        assert [(event.vm_id, event.reason) for event in stage.events(VmRetired)] == [(kept[0], "needed")]
        assert vm_of(stage, preview_id) not in kept
        await asyncio.sleep(30)
        check_rules(stage)


async def test_the_pool_is_full_again_beside_what_it_keeps() -> None:
    """The target is warm, no more are kept than may be, and none for ever."""
    async with staged(maximum=9) as stage:
        previews = [await shown(stage, {**VITE, "index.html": b"%d" % n}) for n in range(4)]
        for preview_id in previews:
            await stage.stop(preview_id)
        await asyncio.sleep(30)
        assert (pool(stage).available, pool(stage).kept, pool(stage).total) == (3, 2, 5)
        await asyncio.sleep(stage.pool_config.kept_age_max_s + 30)
        assert (pool(stage).available, pool(stage).kept, pool(stage).total) == (3, 0, 3)
        assert [event.reason for event in stage.events(VmRetired)] == ["surplus"] * 2 + ["aged"] * 2
        check_rules(stage)


@pytest.mark.parametrize("event", ["VmReleased", "VmCleaned", "VmAcquired"])
@pytest.mark.parametrize("service", ["pool", "orchestrator"])
async def test_a_crash_does_no_harm(service: str, event: str) -> None:
    """Killed in the moment in which it is stored, and back a while later."""
    async with staged() as stage:
        preview_id = await shown(stage)
        killed = stage.crash_when(service, event)
        await stage.stop(preview_id)
        again = asyncio.create_task(asked_once_kept(stage))
        await asyncio.wait_for(killed, 30)
        await asyncio.sleep(1)
        await stage.start(service)
        second = await again
        await stage.until(PreviewReady, second, within_s=60)
        await asyncio.sleep(30)

        assert vm_of(stage, second) == vm_of(stage, preview_id)
        assert len(stage.workspace.installs_run()) == 1
        check_rules(stage)


async def asked_once_kept(stage: Stage) -> str:
    await stage.until(VmCleaned, within_s=60)
    await asyncio.sleep(0.1)
    return await stage.request(await stage.project())


async def test_two_that_want_the_same_one_get_two() -> None:
    """One is preserved, the other installed."""
    async with staged() as stage:
        kept = await left(stage)
        projects = [await stage.project() for _ in range(2)]
        previews = await asyncio.gather(*map(stage.request, projects))
        for preview_id in previews:
            await stage.until(PreviewReady, preview_id, within_s=30)

        assert sorted(event.reason for event in stage.events(InstallSkipped)) == ["preserved"]
        assert sum(vm_of(stage, preview_id) == kept for preview_id in previews) == 1
        await asyncio.sleep(30)
        check_rules(stage)


async def test_a_vm_whose_dependencies_no_longer_fit_is_given_back() -> None:
    """The project changed after the claim had named them: neither are they used, nor does an install begin on them."""
    async with staged() as stage:
        kept = await left(stage)
        project_id = await stage.project()
        edited: list[asyncio.Task[int]] = []
        stage.broker.on_stored.append(when("VmAcquired", lambda: edited.append(edit(stage, project_id))))
        killed = stage.crash_when("orchestrator", "VmAcquired", 1)
        preview_id = await stage.request(project_id)
        await asyncio.wait_for(killed, 30)
        await edited[0]
        await stage.start("orchestrator")
        await stage.until(PreviewReady, preview_id, within_s=60)
        await asyncio.sleep(30)

        assert vm_of(stage, preview_id) != kept
        assert "preserved" not in [event.reason for event in stage.events(InstallSkipped)]
        assert [job for vm_id, job in stage.workspace.runs if vm_id == kept] == ["install-1", "dev-1"]
        check_rules(stage)


def when(event: str, do: Callable[[], object]) -> Callable[[object], None]:
    """Once, at the next such event."""
    left_to_do = [do]

    def listener(recorded: object) -> None:
        if getattr(recorded, "type", "") == event and left_to_do:
            left_to_do.pop()()

    return listener


def edit(stage: Stage, project_id: str) -> "asyncio.Task[int]":
    return asyncio.create_task(stage.change(project_id, OTHER_DEPS))


async def test_a_deleted_project_leaves_its_vm_to_its_owner() -> None:
    async with staged() as stage:
        project_id = await stage.project()
        preview_id = await stage.request(project_id)
        await stage.until(PreviewReady, preview_id, within_s=20)
        await stage.send(DeleteProject(project_id=project_id, owner=OWNER))
        await stage.until(VmCleaned, within_s=10)
        await asyncio.sleep(30)
        check_rules(stage)
