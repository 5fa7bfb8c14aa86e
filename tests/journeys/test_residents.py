"""Templates whose dev server runs ahead of need: what their users' previews gain, and that nothing is lost over it."""

import asyncio

import pytest

from services.orchestrator.adapters.simulated import JobScript
from shared.commands import DeleteProject, SetProjectResidents
from shared.events import (
    DevServerReady,
    FilesSynced,
    InstallSkipped,
    PreviewFailed,
    PreviewReady,
    PreviewRestarted,
    PreviewStopped,
    ProjectDeleted,
    VmAcquired,
    VmDestroyed,
    VmReleased,
)
from tests.journeys.rules import check_rules
from tests.journeys.stage import OWNER, VITE, Stage, staged

pytestmark = pytest.mark.looptime

SHOP = {**VITE, "index.html": b"<h1>shop</h1>"}


async def template(stage: Stage, count: int = 1, files: dict[str, bytes] | None = None) -> str:
    """A project that is a template, with so many residents."""
    project_id = await stage.project(files or VITE)
    await stage.send(SetProjectResidents(project_id=project_id, owner=OWNER, count=count))
    return project_id


async def running(stage: Stage, count: int = 1) -> None:
    """The template's residents run."""
    await stage.until(PreviewReady, within_s=30, nth=count)


async def test_a_project_starts_in_a_live_server() -> None:
    """Neither install nor dev server has to run: its files come in, and it is there."""
    async with staged() as stage:
        await template(stage)
        await running(stage)
        taken_from = stage.events(PreviewReady)[0].preview_id
        preview_id = await stage.request(await stage.project(SHOP))
        ready = await stage.until(PreviewReady, preview_id, within_s=5)

        assert ready.total_s < 0.5
        [acquired] = stage.events(VmAcquired, preview_id)
        assert (acquired.resident, acquired.from_pool) == (taken_from, True)
        [skipped] = stage.events(InstallSkipped, preview_id)
        assert (skipped.reason, skipped.saved_s > 0) == ("resident", True)
        assert stage.workspace.runs.count((acquired.vm_id, "dev-1")) == 1
        [synced] = stage.events(FilesSynced, preview_id)
        assert (synced.written, synced.deleted) == (1, 0)
        await stage.until(PreviewReady, within_s=30, nth=3)  # the next one takes its place
        assert stage.events(PreviewReady)[2].preview_id != taken_from
        await asyncio.sleep(60)
        check_rules(stage)


async def test_two_projects_never_get_the_same_one() -> None:
    """One takes it over, the other one starts as any preview does."""
    async with staged() as stage:
        await template(stage)
        await running(stage)
        projects = [await stage.project(SHOP), await stage.project({**SHOP, "index.html": b"<h1>blog</h1>"})]
        previews = await asyncio.gather(*(stage.request(each) for each in projects))
        for preview_id in previews:
            await stage.until(PreviewReady, preview_id, within_s=20)
        acquired = [event for each in previews for event in stage.events(VmAcquired, each)]
        assert sorted(bool(event.resident) for event in acquired) == [False, True]
        await asyncio.sleep(30)
        check_rules(stage)


async def test_a_config_that_the_running_server_can_not_take_in_restarts_it() -> None:
    """Known only once the files are compared; the dependencies are the right ones all the same."""
    async with staged() as stage:
        angular = {
            "package.json": b'{"scripts": {"start": "ng serve"}, "devDependencies": {"@angular/cli": "20.0.0"}}',
            "package-lock.json": VITE["package-lock.json"],
            "angular.json": b'{"version": 1, "projects": {"a": {"root": "", "architect": {"serve": {}}}}}',
        }
        await template(stage, files=angular)
        await running(stage)
        other = {**angular, "tsconfig.json": b'{"compilerOptions": {}}'}
        preview_id = await stage.request(await stage.project(other))
        await stage.until(PreviewReady, preview_id, within_s=20)
        assert [event.in_place for event in stage.events(PreviewRestarted, preview_id)] == [True]
        assert [event.reason for event in stage.events(InstallSkipped, preview_id)] == ["preserved"]
        [acquired] = stage.events(VmAcquired, preview_id)
        assert [job for vm_id, job in stage.workspace.runs if vm_id == acquired.vm_id] == [
            "install-1",
            "dev-1",
            "dev-2",
        ]
        await asyncio.sleep(30)
        check_rules(stage)


async def test_a_file_that_the_running_server_may_have_read_at_its_start_restarts_it() -> None:
    """Whatever it is: a configuration reads what it likes."""
    async with staged() as stage:
        await template(stage, files={**VITE, "title.txt": b"template"})
        await running(stage)
        preview_id = await stage.request(await stage.project({**VITE, "title.txt": b"shop"}))
        await stage.until(PreviewReady, preview_id, within_s=20)
        assert [event.in_place for event in stage.events(PreviewRestarted, preview_id)] == [True]
        assert [event.reason for event in stage.events(InstallSkipped, preview_id)] == ["preserved"]
        await asyncio.sleep(30)
        check_rules(stage)


async def test_a_template_that_changes_gets_new_residents() -> None:
    async with staged() as stage:
        project_id = await template(stage)
        await running(stage)
        await stage.change(project_id, {"index.html": b"<h1>better</h1>"})
        stopped = await stage.until(PreviewStopped, within_s=5)
        assert stopped.reason == "outdated"
        await stage.until(PreviewReady, within_s=30, nth=2)
        await stage.send(SetProjectResidents(project_id=project_id, owner=OWNER, count=0))
        assert (await stage.until(PreviewStopped, within_s=5, nth=2)).reason == "surplus"
        await asyncio.sleep(30)
        assert len(stage.events(PreviewReady)) == 2
        check_rules(stage)


async def test_a_template_that_fails_is_tried_again_later() -> None:
    """It holds no VM meanwhile, and once it works it serves."""
    async with staged() as stage:
        stage.workspace.dev_servers.append(JobScript(lasts_s=1.0, exit_code=1, lines=((0.5, "Error: it broke"),)))
        await template(stage)
        failed = await stage.until(PreviewFailed, within_s=30)
        await stage.until(VmDestroyed, within_s=10)
        await asyncio.sleep(stage.orchestrator_config.resident_retry_s / 2)
        assert stage.events(PreviewReady) == []
        ready = await stage.until(PreviewReady, within_s=stage.orchestrator_config.resident_retry_s)
        assert ready.preview_id != failed.preview_id
        await asyncio.sleep(10)
        check_rules(stage)


async def test_residents_go_where_people_wait() -> None:
    """A full pool gives a resident up for a claim; the template waits for its turn."""
    async with staged(target=0, minimum=0, maximum=1) as stage:
        await template(stage)
        await running(stage)
        preview_id = await stage.request(await stage.project({"index.html": b"<h1>static</h1>"}))
        await stage.until(PreviewReady, preview_id, within_s=20)
        assert [event.reason for event in stage.events(PreviewStopped)] == ["needed"]
        await stage.stop(preview_id)
        await stage.until(PreviewReady, within_s=30, nth=3)
        await asyncio.sleep(10)
        check_rules(stage)


async def test_residents_that_wait_do_not_starve_a_preview() -> None:
    """More are asked for than there can be: who wants to see a project gets the next VM all the same."""
    async with staged(target=0, minimum=0, maximum=2) as stage:
        await template(stage, 6)
        await running(stage, 2)
        preview_id = await stage.request(await stage.project({"index.html": b"<h1>static</h1>"}))
        await stage.until(PreviewReady, preview_id, within_s=10)
        await stage.stop(preview_id)
        await asyncio.sleep(80)
        check_rules(stage)


async def test_a_deleted_template_leaves_nothing_behind() -> None:
    async with staged() as stage:
        project_id = await template(stage, 2)
        await running(stage, 2)
        await stage.send(DeleteProject(project_id=project_id, owner=OWNER))
        await stage.until(ProjectDeleted, within_s=5)
        await stage.until(VmReleased, within_s=10, nth=2)
        assert stage.state("pool").holders == {}
        assert stage.forgotten == [project_id]
        await asyncio.sleep(30)
        check_rules(stage)


@pytest.mark.parametrize("event", ["VmAcquired", "FilesSynced", "InstallSkipped", "DevServerStarted", "DevServerReady"])
async def test_an_orchestrator_that_dies_over_a_take_over_loses_nothing(event: str) -> None:
    """The next one goes on where it was: one VM, one dev server, no resident left over."""
    async with staged() as stage:
        await template(stage)
        await running(stage)
        taken_from = stage.events(PreviewReady)[0].preview_id
        nth = len([each for each in stage.broker.records if each.type == event]) + 1
        buried = stage.crash_when("orchestrator", event, nth)
        preview_id = await stage.request(await stage.project(SHOP))
        await buried
        await stage.start("orchestrator")
        await stage.until(PreviewReady, preview_id, within_s=60)
        [acquired] = stage.events(VmAcquired, preview_id)
        assert acquired.resident == taken_from
        assert stage.workspace.runs.count((acquired.vm_id, "dev-1")) == 1
        assert len(stage.events(DevServerReady, preview_id)) == 1
        await stage.until(PreviewReady, within_s=60, nth=3)
        await asyncio.sleep(30)
        check_rules(stage)


async def test_an_edit_after_a_restart_of_the_orchestrator_sends_what_has_changed() -> None:
    """What the VM holds is read off the log: a whole listing would sweep away what the dev server has built."""
    async with staged() as stage:
        project_id = await stage.project(SHOP)
        preview_id = await stage.request(project_id)
        await stage.until(PreviewReady, preview_id, within_s=20)
        await stage.crash("orchestrator")
        await stage.start("orchestrator")
        await stage.change(project_id, {"index.html": b"<h1>edited</h1>"})
        synced = await stage.until(FilesSynced, preview_id, within_s=10, nth=2)
        assert (synced.files_version, synced.written) == (2, 1)
        await asyncio.sleep(10)
        check_rules(stage)
