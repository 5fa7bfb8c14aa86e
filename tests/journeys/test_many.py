"""Several at once: requests for one project, replicas of one service, and a log that is cut off."""

import asyncio

import pytest

from deploy.simulation.services import SERVICES
from shared.commands import RequestPreview
from shared.errors import Unavailable
from shared.events import PreviewFailed, PreviewReady, PreviewRequested, VmAcquired
from tests.journeys.rules import check_rules
from tests.journeys.stage import OWNER, STATIC, VITE, staged

pytestmark = pytest.mark.looptime

TWO_EACH = (*SERVICES, "pool/2", "orchestrator/2")
COMMAND_ID = "01" + "z" * 24


@pytest.mark.parametrize("replicas", [SERVICES, TWO_EACH], ids=["one each", "two each"])
async def test_requests_at_once_for_one_project_share_a_preview(replicas: tuple[str, ...]) -> None:
    """Ten people press the button: one preview, one VM, one install, the same answer for all."""
    async with staged(replicas=replicas) as stage:
        project_id = await stage.project()
        previews = await asyncio.gather(*(stage.request(project_id) for _ in range(10)))
        await stage.until(PreviewReady, previews[0], within_s=10)

        assert len(set(previews)) == 1
        assert len(stage.events(PreviewRequested)) == 1
        assert len(stage.workspace.installs_run()) == 1
        await asyncio.sleep(20)
        check_rules(stage)


async def test_the_same_command_twice_does_its_work_once() -> None:
    """Even after the preview that it made has been stopped: the same answer, no second preview."""
    async with staged() as stage:
        project_id = await stage.project(STATIC)
        first = await stage.request(project_id, command_id=COMMAND_ID)
        assert await stage.request(project_id, command_id=COMMAND_ID) == first
        await stage.until(PreviewReady, first, within_s=10)
        await stage.stop(first)
        assert await stage.request(project_id, command_id=COMMAND_ID) == first

        assert len(stage.events(PreviewRequested)) == 1
        await asyncio.sleep(20)
        check_rules(stage)


async def test_two_replicas_of_each_service_do_the_work_once() -> None:
    """Twelve previews over two replicas each: one VM and one install a preview."""
    async with staged(replicas=TWO_EACH, target=4, maximum=20) as stage:
        projects = [await stage.project(VITE) for _ in range(12)]
        previews = await asyncio.gather(*map(stage.request, projects))
        for preview_id in previews:
            await stage.until(PreviewReady, preview_id, within_s=30)

        assert len(stage.workspace.installs_run()) == 12
        assert len(stage.events(VmAcquired)) == 12
        await asyncio.gather(*map(stage.stop, previews))
        await asyncio.sleep(60)
        assert len(stage.provider.vms) == 4 + stage.pool_config.kept_max
        check_rules(stage)


@pytest.mark.parametrize("event", ["ProjectDetected", "FilesSynced", "InstallStarted", "InstallCompleted"])
async def test_a_replica_that_dies_has_its_work_done_by_the_other(event: str) -> None:
    """Nobody starts the dead one again: the preview becomes ready all the same, with one install run."""
    async with staged(replicas=TWO_EACH) as stage:
        project_id = await stage.project()
        victims = [stage.crash_when(name, event) for name in ("orchestrator", "pool")]
        asked = asyncio.create_task(stage.request(project_id))
        await asyncio.wait_for(asyncio.gather(*victims), 20)
        await stage.until(PreviewReady, await asked, within_s=40)

        assert len(stage.workspace.installs_run()) == 1
        await asyncio.sleep(30)
        check_rules(stage)


@pytest.mark.parametrize("event", ["PreviewRequested", "VmAcquired", "InstallStarted", "DevServerStarted"])
async def test_a_log_that_is_cut_off_for_20_s_recovers_by_itself(event: str) -> None:
    """Commands say Unavailable meanwhile; afterwards the preview becomes ready, with nothing done twice."""
    async with staged() as stage:
        project_id = await stage.project()
        preview_id = ""
        cut = asyncio.Event()

        def cut_off(recorded: object) -> None:
            if getattr(recorded, "type", "") == event and not cut.is_set():
                stage.broker.connected = False
                cut.set()

        stage.broker.on_stored.append(cut_off)
        asked = asyncio.create_task(stage.request(project_id))
        await asyncio.wait_for(cut.wait(), 20)
        refused = await stage.fails(RequestPreview(project_id=project_id, owner=OWNER))
        assert isinstance(refused, Unavailable)
        assert refused.status == 503
        await asyncio.sleep(20)
        stage.broker.connected = True
        preview_id = await asked
        await stage.until(PreviewReady, preview_id, within_s=30)

        assert len(stage.workspace.installs_run()) == 1
        assert len(stage.events(VmAcquired)) == 1
        assert stage.events(PreviewFailed) == []
        await asyncio.sleep(30)
        check_rules(stage)


async def test_a_dev_server_that_dies_while_the_log_is_cut_off_is_told_afterwards() -> None:
    """Nothing can be stored for 20 s: the news comes as soon as it can."""
    async with staged() as stage:
        project_id = await stage.project()
        preview_id = await stage.request(project_id)
        await stage.until(PreviewReady, preview_id, within_s=10)
        (acquired,) = stage.events(VmAcquired)
        stage.broker.connected = False
        stage.workspace.end_job(acquired.vm_id, "dev-1")
        await asyncio.sleep(20)
        stage.broker.connected = True
        failed = await stage.until(PreviewFailed, preview_id, within_s=10)

        assert failed.code == "dev_server_exited"
        await asyncio.sleep(30)
        check_rules(stage)
