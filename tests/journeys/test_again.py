"""The same preview once more: the next try in its VM, edits that restart, an app that is prepared before it is asked for."""

import asyncio

import pytest

from services.orchestrator.adapters.simulated import JobScript
from services.pool.views import summary
from shared.commands import RequestPreview, RestartPreview
from shared.events import (
    DevServerStarted,
    FilesSynced,
    HmrProbed,
    InstallCompleted,
    InstallSkipped,
    InstallStarted,
    PreviewFailed,
    PreviewPrepared,
    PreviewReady,
    PreviewRestarted,
    PreviewStopped,
    PreviewWanted,
    PreviewWarningRaised,
    VmAcquired,
    VmReleased,
)
from tests.journeys.rules import check_rules
from tests.journeys.stage import NEXT_16, OWNER, VITE, Stage, staged

pytestmark = pytest.mark.looptime

NEXT_16_LOCKED = {**NEXT_16, "package-lock.json": b'{"lockfileVersion": 3, "packages": {}}'}
BROKEN = JobScript(lasts_s=1.0, exit_code=1, lines=((0.5, "Error: it broke"),))


async def test_a_restart_goes_on_from_the_step_that_failed() -> None:
    """In the same VM; what was installed is not installed again."""
    async with staged() as stage:
        stage.workspace.dev_servers.append(BROKEN)
        preview_id = await stage.request(await stage.project())
        await stage.until(PreviewFailed, preview_id, within_s=20)
        await asyncio.sleep(30)
        await stage.restart(preview_id)
        ready = await stage.until(PreviewReady, preview_id, within_s=5)

        assert [event.in_place for event in stage.events(PreviewRestarted)] == [True]
        assert [event.reason for event in stage.events(InstallSkipped)] == ["preserved"]
        assert (len(stage.workspace.installs_run()), ready.install) == (1, "skipped")
        assert len(stage.events(VmAcquired, preview_id)) == 1
        assert ready.total_s < 2
        await asyncio.sleep(stage.orchestrator_config.failed_keep_s + 20)
        await stage.visit(preview_id)
        assert stage.state("orchestrator").previews[preview_id].status == "ready"
        check_rules(stage)


async def test_a_restart_after_the_vm_was_let_go_begins_in_another() -> None:
    async with staged() as stage:
        stage.workspace.dev_servers.append(BROKEN)
        preview_id = await stage.request(await stage.project())
        await stage.until(PreviewFailed, preview_id, within_s=20)
        await asyncio.sleep(stage.orchestrator_config.failed_keep_s + 20)
        assert len(stage.events(VmReleased, preview_id)) == 1
        await stage.restart(preview_id)
        await stage.until(PreviewReady, preview_id, within_s=20)

        assert len(stage.events(VmAcquired, preview_id)) == 2
        check_rules(stage)


async def test_failed_previews_do_not_keep_others_waiting() -> None:
    """A pool that is full of failed previews' VMs gives one up for a claim that waits."""
    async with staged(target=0, minimum=0, maximum=2) as stage:
        stage.workspace.dev_servers.extend([BROKEN, BROKEN])
        for _ in range(2):
            await stage.until(PreviewFailed, await stage.request(await stage.project()), within_s=30)
        preview_id = await stage.request(await stage.project())
        await stage.until(PreviewReady, preview_id, within_s=20)

        assert {event.reason for event in stage.events(VmReleased)} == {"needed"}
        await asyncio.sleep(20)
        check_rules(stage)


@pytest.mark.parametrize("victim_event", ["PreviewRestarted", "ProjectDetected", "FilesSynced", "DevServerStarted"])
async def test_a_crash_in_the_middle_of_the_next_try_does_no_harm(victim_event: str) -> None:
    async with staged() as stage:
        stage.workspace.dev_servers.append(BROKEN)
        preview_id = await stage.request(await stage.project())
        await stage.until(PreviewFailed, preview_id, within_s=20)
        killed = stage.crash_when("orchestrator", victim_event)
        asked = asyncio.create_task(stage.restart(preview_id))
        await asyncio.wait_for(killed, 30)
        await stage.start("orchestrator")
        await stage.until(PreviewReady, preview_id, within_s=40)
        await asked

        assert len(stage.workspace.installs_run()) == 1
        await asyncio.sleep(20)
        check_rules(stage)


async def test_an_edit_of_the_dependencies_installs_again_in_the_same_vm() -> None:
    """Once for one edit; an edit of anything else restarts nothing."""
    async with staged() as stage:
        project_id = await stage.project()
        preview_id = await stage.request(project_id)
        await stage.until(PreviewReady, preview_id, within_s=20)
        await stage.change(project_id, {"src/main.js": b"edited"})
        await asyncio.sleep(5)
        assert stage.events(PreviewRestarted) == []
        more = VITE["package.json"].replace(b'"devDependencies": {', b'"devDependencies": {"is-odd": "3.0.1", ')
        await stage.change(project_id, {"package.json": more})
        await stage.until(PreviewReady, preview_id, within_s=20, nth=2)

        assert [(event.reason, event.in_place) for event in stage.events(PreviewRestarted)] == [("edited", True)]
        assert len(stage.events(InstallCompleted)) == 2
        assert len(stage.events(VmAcquired, preview_id)) == 1
        await asyncio.sleep(20)
        check_rules(stage)


async def test_a_package_json_that_is_half_an_edit_restarts_nothing() -> None:
    """Editors save what is not whole; the dev server that runs is left alone until it is."""
    async with staged() as stage:
        project_id = await stage.project()
        preview_id = await stage.request(project_id)
        await stage.until(PreviewReady, preview_id, within_s=20)
        await stage.change(project_id, {"package.json": VITE["package.json"][:20]})
        await asyncio.sleep(10)

        assert stage.events(PreviewRestarted) == []
        assert stage.state("orchestrator").previews[preview_id].status == "ready"
        check_rules(stage)


async def test_a_lockfile_that_does_not_fit_is_installed_without_it_and_said() -> None:
    async with staged() as stage:
        words = "npm error `npm ci` can only install packages when your package.json and package-lock.json are in sync."
        stage.workspace.installs.append(JobScript(lasts_s=1.0, exit_code=1, lines=((0.5, words),)))
        preview_id = await stage.request(await stage.project())
        await stage.until(PreviewReady, preview_id, within_s=20)

        assert [event.code for event in stage.events(PreviewWarningRaised)] == ["lockfile_mismatch"]
        assert [event.job_id for event in stage.events(InstallStarted)] == ["install-1", "install-1-retry"]
        steps = [line.step for line in stage.log_of(preview_id)]
        assert {"install", "install_retry", "dev_server"} == set(steps)
        check_rules(stage)


async def prepare(stage: Stage, project_id: str) -> None:
    await stage.send(RequestPreview(project_id=project_id, owner=OWNER, prepare=True))


async def test_what_was_prepared_is_shown_sooner() -> None:
    """The install is over when somebody asks; what the preview took counts from then."""
    async with staged() as stage:
        project_id = await stage.project()
        await prepare(stage, project_id)
        await stage.until(PreviewPrepared, within_s=20)
        await asyncio.sleep(60)
        assert stage.events(DevServerStarted) == []
        preview_id = await stage.request(project_id)
        ready = await stage.until(PreviewReady, preview_id, within_s=5)

        assert len(stage.events(PreviewWanted)) == 1
        assert ready.total_s < 2
        await asyncio.sleep(stage.orchestrator_config.prepared_keep_s + 60)
        assert stage.state("orchestrator").previews[preview_id].status == "ready"
        check_rules(stage)


async def test_a_preparation_that_nobody_opens_gives_its_vm_back() -> None:
    async with staged() as stage:
        project_id = await stage.project()
        await prepare(stage, project_id)
        await stage.until(PreviewPrepared, within_s=20)
        config = stage.orchestrator_config
        stopped = await stage.until(PreviewStopped, within_s=config.prepared_keep_s + config.limit_grace_s + 5)

        assert stopped.reason == "not_opened"
        await asyncio.sleep(20)
        pool = summary(stage.state("pool"))
        assert (pool.in_use, pool.available, pool.kept) == (0, 3, 1)
        check_rules(stage)


async def test_the_socket_for_edits_is_tried_once() -> None:
    async with staged() as stage:
        preview_id = await stage.request(await stage.project())
        probed = await stage.until(HmrProbed, preview_id, within_s=20)

        assert probed.state == "open"
        await asyncio.sleep(20)
        assert len(stage.events(HmrProbed)) == 1
        check_rules(stage)


async def test_the_project_s_other_app_is_shown_on_restart() -> None:
    """Asked for by name; the name stays with the preview."""
    async with staged() as stage:
        preview_id = await stage.request(await stage.project())
        await stage.until(PreviewReady, preview_id, within_s=20)
        await stage.send(RestartPreview(preview_id=preview_id, app="apps/none"))
        failed = await stage.until(PreviewFailed, preview_id, within_s=20)

        assert failed.code == "app_not_found"
        await asyncio.sleep(20)
        check_rules(stage)


# --- dependencies of an earlier install ---------------------------------------------------------------------------


async def test_a_second_preview_of_the_same_dependencies_is_not_installed() -> None:
    """Also of another project; in another VM, with what the first one's install gave."""
    async with staged() as stage:
        stage.deps.keeping = True
        first = await stage.request(await stage.project())
        await stage.until(PreviewReady, first, within_s=20)
        await asyncio.sleep(1)
        second = await stage.request(await stage.project())
        ready = await stage.until(PreviewReady, second, within_s=20)

        [skipped] = stage.events(InstallSkipped, second)
        assert (skipped.reason, ready.install) == ("restored", "skipped")
        assert skipped.saved_s > 0
        assert len(stage.workspace.installs_run()) == 1
        check_rules(stage)


async def test_dependencies_are_kept_once_the_preview_is_ready_and_not_before() -> None:
    async with staged() as stage:
        stage.deps.keeping = True
        stage.workspace.dev_servers.append(BROKEN)
        preview_id = await stage.request(await stage.project())
        await stage.until(PreviewFailed, preview_id, within_s=20)
        await asyncio.sleep(5)
        assert stage.deps.kept == set()
        await stage.restart(preview_id)
        await stage.until(PreviewReady, preview_id, within_s=20)
        await asyncio.sleep(1)

        # The second try ran on what the first had installed: that has proven itself now, but it was not this attempt's.
        assert stage.deps.kept == set()
        check_rules(stage)


async def test_a_frameworks_own_cache_is_there_for_the_projects_next_vm() -> None:
    """Copied once the dev server is quiet; another project of the same owner does not get it."""
    async with staged() as stage:
        stage.deps.keeping = True
        project_id = await stage.project(NEXT_16_LOCKED)
        first = await stage.request(project_id)
        await stage.until(PreviewReady, first, within_s=20)
        stage.deps.busy = 2
        await asyncio.sleep(stage.orchestrator_config.keep_build_after_s + 20)
        await stage.stop(first)
        second = await stage.request(project_id)
        await stage.until(PreviewReady, second, within_s=20)
        other = await stage.request(await stage.project(NEXT_16_LOCKED))
        await stage.until(PreviewReady, other, within_s=20)

        assert [event.build for each in (first, second, other) for event in stage.events(FilesSynced, each)] == [
            False,
            True,
            False,
        ]
        await asyncio.sleep(10)
        check_rules(stage)
