"""kill -9 at every step: whatever was under way goes on, and nothing is done twice."""

import asyncio

import pytest

from services.orchestrator.config import OrchestratorConfig
from shared.events import DevServerExited, PreviewFailed, PreviewReady, VmAcquired
from tests.journeys.rules import check_rules
from tests.journeys.stage import STATIC, VITE, staged

pytestmark = pytest.mark.looptime

SAGA = (
    "PreviewRequested",
    "ClaimQueued",
    "VmCreationStarted",
    "VmBooted",
    "VmAcquired",
    "ProjectDetected",
    "FilesSynced",
    "InstallStarted",
    "InstallCompleted",
    "DevServerStarted",
    "DevServerReady",
    "PreviewReady",
)


@pytest.mark.parametrize("event", SAGA)
@pytest.mark.parametrize("victim", ["orchestrator", "pool", "gateway"])
async def test_a_service_killed_at_any_step_costs_time_and_nothing_else(victim: str, event: str) -> None:
    """Killed in the moment in which the event is stored, back after a second: ready, with one install run."""
    async with staged(warm=False, target=0, minimum=0) as stage:
        project_id = await stage.project()
        client = stage.client(project_id)
        await client.connect()
        killed = stage.crash_when(victim, event)
        asked = asyncio.create_task(stage.request(project_id, command_id="01" + "r" * 24))
        await asyncio.wait_for(killed, 20)
        await asyncio.sleep(1)
        await stage.start(victim)
        preview_id = await asked
        await stage.until(PreviewReady, preview_id, within_s=40)

        def is_ready(message: dict[str, object]) -> bool:
            previews = [message.get("preview"), *(message.get("previews") or [])]  # type: ignore[misc]
            return any(each and each["status"] == "ready" for each in previews)

        await client.until(is_ready, within_s=5)
        await asyncio.sleep(30)
        assert len(stage.workspace.installs_run()) == 1
        assert len([run for run in stage.workspace.runs if run[1].startswith("dev")]) == 1
        assert len(stage.events(VmAcquired)) == 1
        assert len(stage.events(PreviewReady)) == 1
        check_rules(stage)


@pytest.mark.parametrize(
    "event", ["PreviewRequested", "ProjectDetected", "FilesSynced", "InstallSkipped", "DevServerStarted"]
)
async def test_a_static_project_survives_a_killed_orchestrator(event: str) -> None:
    """The way without an install has the same promise."""
    async with staged() as stage:
        project_id = await stage.project(STATIC)
        killed = stage.crash_when("orchestrator", event)
        asked = asyncio.create_task(stage.request(project_id))
        await asyncio.wait_for(killed, 20)
        await asyncio.sleep(1)
        await stage.start("orchestrator")
        await stage.until(PreviewReady, await asked, within_s=40)
        await asyncio.sleep(30)
        check_rules(stage)


@pytest.mark.parametrize("event", ["InstallFailed", "DevServerExited"])
async def test_a_failure_half_told_is_told_after_the_restart(event: str) -> None:
    """Killed between the fact and the end that it leads to: the end comes."""
    async with staged() as stage:
        if event == "InstallFailed":
            stage.workspace.install = stage.workspace.install.__class__(lasts_s=1.0, exit_code=1)
        else:
            stage.workspace.dev_server = stage.workspace.dev_server.__class__(lasts_s=1.0, exit_code=1)
        project_id = await stage.project()
        killed = stage.crash_when("orchestrator", event)
        preview_id = await stage.request(project_id)
        await asyncio.wait_for(killed, 20)
        await asyncio.sleep(1)
        await stage.start("orchestrator")
        failed = await stage.until(PreviewFailed, preview_id, within_s=30)

        assert failed.code in ("install_failed", "dev_server_exited")
        await asyncio.sleep(30)
        check_rules(stage)


@pytest.mark.parametrize(
    "event", ["PreviewRequested", "VmAcquired", "FilesSynced", "InstallStarted", "InstallCompleted", "DevServerStarted"]
)
async def test_an_orchestrator_dead_for_ten_minutes_ends_the_preview_when_it_is_back(event: str) -> None:
    """The limits count while nobody looks: a time-out failure, not a preview from long ago."""
    async with staged() as stage:
        stage.workspace.install = stage.workspace.install.__class__(lasts_s=400.0)
        stage.workspace.dev_server = stage.workspace.dev_server.__class__()
        project_id = await stage.project()
        killed = stage.crash_when("orchestrator", event)
        if event in ("InstallCompleted", "DevServerStarted"):
            stage.workspace.install = stage.workspace.install.__class__(lasts_s=2.0)
        asked = asyncio.create_task(stage.request(project_id))
        await asyncio.wait_for(killed, 30)
        if event == "PreviewRequested":
            asked.cancel()
        await asyncio.sleep(600)
        await stage.start("orchestrator")
        failed = await stage.until(PreviewFailed, within_s=200)

        assert "timeout" in failed.code or failed.code == "no_vm_available"
        await asyncio.sleep(stage.orchestrator_config.failed_keep_s + 30)
        assert len(stage.provider.vms) == 3
        check_rules(stage)


@pytest.mark.parametrize("victim", ["orchestrator", "pool", "gateway"])
async def test_a_service_killed_while_the_preview_is_ready_leaves_it_ready(victim: str) -> None:
    """And the restarted service still hears of what happens to it."""
    async with staged() as stage:
        project_id = await stage.project()
        preview_id = await stage.request(project_id)
        await stage.until(PreviewReady, preview_id, within_s=10)
        await stage.crash(victim)
        await asyncio.sleep(5)
        await stage.start(victim)
        await asyncio.sleep(30)
        assert stage.state("orchestrator").previews[preview_id].status == "ready"

        (acquired,) = stage.events(VmAcquired, preview_id)
        died_at = stage.now()
        stage.workspace.end_job(acquired.vm_id, "dev-1")
        await stage.until(DevServerExited, preview_id, within_s=5)
        await stage.until(PreviewFailed, preview_id, within_s=5)
        assert stage.at(PreviewFailed, preview_id) - died_at < 1
        await asyncio.sleep(20)
        check_rules(stage)


async def test_services_killed_over_and_over_lose_nothing() -> None:
    """A kill of each service in turn, every three seconds, for five minutes; previews asked for all the while."""
    limits = OrchestratorConfig(acquire_limit_s=120.0)
    async with staged(orchestrator=limits) as stage:
        previews: list[str] = []
        for number in range(100):
            victim = ("orchestrator", "pool", "gateway")[number % 3]
            if number % 10 == 0:
                project_id = await stage.project(VITE if number % 20 else STATIC)
                previews.append(await stage.request(project_id))
            await stage.crash(victim)
            await asyncio.sleep(1)
            await stage.start(victim)
            await asyncio.sleep(2)
            if number % 10 == 9:
                await stage.stop(previews[-1])
        await asyncio.sleep(120)
        assert len(set(previews)) == 10
        assert {event.preview_id for event in stage.events(PreviewReady)} == set(previews)
        assert stage.events(PreviewFailed) == []
        check_rules(stage)
