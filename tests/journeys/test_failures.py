"""What can go wrong in a project or under it: told at once, with a reason, and the VM given back."""

import asyncio

import pytest

from services.orchestrator.adapters.simulated import DEV_SERVER, JobScript
from services.orchestrator.config import OrchestratorConfig
from shared.events import (
    DevServerStarted,
    InstallStarted,
    PreviewFailed,
    PreviewReady,
    PreviewRestarted,
    VmAcquired,
    VmLost,
)
from tests.journeys.rules import check_rules
from tests.journeys.stage import staged

pytestmark = pytest.mark.looptime


@pytest.mark.parametrize(
    ("exit_code", "signal", "code"),
    [
        (1, None, "dev_server_exited"),
        (0, None, "dev_server_exited"),
        (127, None, "dev_command_not_found"),
        (None, "SIGKILL", "dev_server_killed"),
    ],
)
@pytest.mark.parametrize("ready", [False, True], ids=["before ready", "after ready"])
async def test_a_dead_dev_server_is_known_within_a_second(
    ready: bool, exit_code: int | None, signal: str | None, code: str
) -> None:
    """Its process is watched: neither a time-out nor a health check is waited for."""
    async with staged() as stage:
        stage.workspace.dev_server = DEV_SERVER if ready else JobScript(lines=((0.5, "Error: no such module"),))
        project_id = await stage.project()
        preview_id = await stage.request(project_id)
        await stage.until(PreviewReady if ready else DevServerStarted, preview_id, within_s=10)
        await asyncio.sleep(7.3)
        (acquired,) = stage.events(VmAcquired, preview_id)
        died_at = stage.now()
        stage.workspace.end_job(acquired.vm_id, "dev-1", exit_code=exit_code, signal=signal)
        failed = await stage.until(PreviewFailed, preview_id, within_s=10)

        assert stage.at(PreviewFailed, preview_id) - died_at < 1
        assert failed.code == code
        assert failed.message
        assert failed.hint
        assert stage.log_of(preview_id)[-1].text == ("dev server ready in 300 ms" if ready else "Error: no such module")
        await asyncio.sleep(20)
        assert len(stage.provider.vms) == 4, "its VM is kept for the next try"
        await asyncio.sleep(stage.orchestrator_config.failed_keep_s)
        assert len(stage.provider.vms) == 3
        check_rules(stage)


async def test_a_failed_install_ends_the_preview_with_the_package_managers_words() -> None:
    """The code, the step, and the last lines of output are there; no dev server was started."""
    async with staged() as stage:
        stage.workspace.install = JobScript(lasts_s=1.0, exit_code=1, lines=((0.9, "npm error 404 no-such-package"),))
        project_id = await stage.project()
        preview_id = await stage.request(project_id)
        failed = await stage.until(PreviewFailed, preview_id, within_s=10)

        assert (failed.code, failed.step) == ("install_failed", "installing")
        assert stage.at(PreviewFailed) - stage.at(InstallStarted) < 2
        assert stage.log_of(preview_id)[-1].text == "npm error 404 no-such-package"
        assert stage.events(DevServerStarted) == []
        await asyncio.sleep(20)
        check_rules(stage)


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({"package.json": b"not json"}, "bad_package_json"),
        ({"package.json": b"{}"}, "no_dev_script"),
        ({"readme.txt": b"hello"}, "not_a_web_project"),
    ],
)
async def test_a_project_that_cannot_be_shown_says_why_and_gives_its_vm_back(
    files: dict[str, bytes], code: str
) -> None:
    """Also where the VM came after the refusal."""
    async with staged() as stage:
        project_id = await stage.project(files)
        preview_id = await stage.request(project_id)
        failed = await stage.until(PreviewFailed, preview_id, within_s=5)

        assert failed.code == code
        await asyncio.sleep(20)
        assert len(stage.provider.vms) == 3
        check_rules(stage)


@pytest.mark.parametrize("when", [InstallStarted, DevServerStarted, PreviewReady])
async def test_a_lost_vm_is_replaced_once_and_the_preview_becomes_ready(
    when: type[InstallStarted] | type[DevServerStarted] | type[PreviewReady],
) -> None:
    """The agent is gone: VmLost, one restart in another VM, ready."""
    async with staged() as stage:
        project_id = await stage.project()
        preview_id = await stage.request(project_id)
        await stage.until(when, preview_id, within_s=10)
        (first,) = stage.events(VmAcquired, preview_id)
        stage.provider.lose(first.vm_id)
        await stage.until(VmLost, preview_id, within_s=3)
        await stage.until(PreviewReady, preview_id, within_s=20, nth=2 if when is PreviewReady else 1)

        assert [event.reason for event in stage.events(PreviewRestarted)] == ["vm_lost"]
        vms = [event.vm_id for event in stage.events(VmAcquired, preview_id)]
        assert len(set(vms)) == 2
        await asyncio.sleep(20)
        assert stage.state("orchestrator").previews[preview_id].status == "ready"
        check_rules(stage)


async def test_a_preview_whose_vm_is_lost_time_and_again_fails() -> None:
    """After two restarts the third loss ends it, with a code."""
    async with staged() as stage:
        project_id = await stage.project()
        preview_id = await stage.request(project_id)
        for loss in range(1, 4):
            await stage.until(InstallStarted, preview_id, within_s=30, nth=loss)
            stage.provider.lose(stage.events(VmAcquired, preview_id)[-1].vm_id)
        failed = await stage.until(PreviewFailed, preview_id, within_s=30)

        assert failed.code == "vm_lost"
        assert len(stage.events(PreviewRestarted)) == 2
        await asyncio.sleep(40)
        assert len(stage.provider.vms) == 3
        check_rules(stage)


async def test_a_warm_vm_that_the_provider_lost_is_found_out_and_not_waited_for() -> None:
    """Nobody knows that it is gone; the preview that gets it is moved to another one."""
    async with staged(target=1, maximum=2) as stage:
        (vm_id,) = stage.provider.vms
        stage.provider.lose(vm_id)
        project_id = await stage.project()
        preview_id = await stage.request(project_id)
        ready = await stage.until(PreviewReady, preview_id, within_s=60)

        assert ready.attempt == 2 or stage.events(VmAcquired)[-1].vm_id != vm_id
        await asyncio.sleep(40)
        check_rules(stage)


@pytest.mark.parametrize("step", ["installing", "booting"])
async def test_an_orchestrator_that_dies_again_and_again_does_not_move_the_limit(step: str) -> None:
    """Killed every 40 s while the step hangs: the limit counts from the step's start, not from the last restart."""
    async with staged(orchestrator=OrchestratorConfig()) as stage:
        kind: type[InstallStarted] | type[DevServerStarted] = DevServerStarted
        if step == "installing":
            kind = InstallStarted
            stage.workspace.install = JobScript(lasts_s=10_000.0)
        else:
            # It prints now and then: otherwise it would count as hanging long before.
            stage.workspace.dev_server = JobScript(lines=tuple((20.0 * n, "compiling") for n in range(10)))
        project_id = await stage.project()
        preview_id = await stage.request(project_id)
        await stage.until(kind, preview_id, within_s=10)
        for _ in range(8):
            await asyncio.sleep(39)
            await stage.crash("orchestrator")
            await asyncio.sleep(1)
            await stage.start("orchestrator")
            if stage.events(PreviewFailed):
                break

        failed = await stage.until(PreviewFailed, preview_id, within_s=30)
        assert "timeout" in failed.code
        assert stage.at(PreviewFailed) - stage.at(kind) < 170
        await asyncio.sleep(20)
        check_rules(stage)
