"""Two replicas of each service: they share the work, and either may end, in order or not, at any moment."""

import asyncio

import pytest

from deploy.simulation.services import SERVICES
from services.orchestrator.config import OrchestratorConfig
from shared.events import DevServerExited, PreviewFailed, PreviewReady, VmAcquired
from tests.journeys.rolling import replace_replica, stop_replica
from tests.journeys.rules import check_rules
from tests.journeys.stage import STATIC, VITE, staged

pytestmark = pytest.mark.looptime

TWICE = (*SERVICES, *(f"{name}/2" for name in SERVICES))
STEPS = ("PreviewRequested", "ProjectDetected", "VmAcquired", "FilesSynced", "InstallStarted", "DevServerStarted")


async def test_previews_asked_for_at_once_get_a_vm_each() -> None:
    """Both replicas of each service decide at the same time; no VM is given twice, and nobody waits for nothing."""
    async with staged(target=6, minimum=4, maximum=12, replicas=TWICE) as stage:
        projects = [await stage.project(VITE if n % 2 else STATIC) for n in range(8)]
        previews = await asyncio.gather(*(stage.request(project) for project in projects))
        for preview_id in previews:
            await stage.until(PreviewReady, preview_id, within_s=60)
        acquired = stage.events(VmAcquired)
        assert len({event.vm_id for event in acquired}) == len({event.preview_id for event in acquired}) == 8
        for preview_id in previews:
            await stage.stop(preview_id)
        await asyncio.sleep(40)
        check_rules(stage)


@pytest.mark.parametrize("event", STEPS)
@pytest.mark.parametrize("victim", ["orchestrator", "pool", "gateway/2", "orchestrator/2"])
async def test_a_killed_replica_has_its_work_taken_over(victim: str, event: str) -> None:
    """Nobody starts it again: the other one ends what it had begun, and nothing runs twice."""
    async with staged(replicas=TWICE) as stage:
        project_id = await stage.project()
        killed = stage.crash_when(victim, event)
        asked = asyncio.create_task(stage.request(project_id, command_id="01" + "r" * 24))
        await asyncio.wait_for(killed, 20)
        preview_id = await asked
        await stage.until(PreviewReady, preview_id, within_s=40)
        await asyncio.sleep(30)
        assert len(stage.workspace.installs_run()) == 1
        assert len(stage.events(VmAcquired)) == 1
        check_rules(stage)


@pytest.mark.parametrize("event", STEPS)
async def test_a_replica_that_is_stopped_in_order_hands_its_work_over_at_once(event: str) -> None:
    """No ack wait passes, as it does after a crash: whatever step it is stopped in, the preview is ready in good time."""
    async with staged(replicas=TWICE) as stage:
        project_id = await stage.project()
        preview_id = await stage.request(project_id)
        await stage.reached(event, preview_id)
        begun = stage.now()
        await stop_replica(stage, "orchestrator")
        await stop_replica(stage, "pool/2")
        await stage.until(PreviewReady, preview_id, within_s=40)
        assert stage.at(PreviewReady, preview_id) - begun < 9
        assert len(stage.workspace.installs_run()) == 1
        await asyncio.sleep(30)
        check_rules(stage)


async def test_rolling_restarts_refuse_nothing_and_lose_nothing() -> None:
    """Every replica is replaced, twice, while previews are asked for: each request is granted at its first try, each
    preview gets ready, and a dev server's end is heard by whichever replica watches it last."""
    async with staged(
        replicas=TWICE, target=2, maximum=8, orchestrator=OrchestratorConfig(acquire_limit_s=60)
    ) as stage:
        first = await stage.request(await stage.project())
        await stage.until(PreviewReady, first, within_s=20)
        previews = [first]
        for name in (*TWICE, *TWICE):
            asking = asyncio.create_task(stage.request(await stage.project(STATIC), patience_s=0.0))
            await replace_replica(stage, name)
            previews.append(await asking)
            await stage.until(PreviewReady, previews[-1], within_s=30)
            if len(previews) > 4:
                await stage.stop(previews.pop(1))
        assert stage.events(PreviewFailed) == []

        (acquired,) = stage.events(VmAcquired, first)
        died_at = stage.now()
        stage.workspace.end_job(acquired.vm_id, "dev-1")
        await stage.until(DevServerExited, first, within_s=5)
        assert stage.now() - died_at < 1
        await asyncio.sleep(60)
        check_rules(stage)


async def test_a_client_misses_nothing_between_replicas_that_come_and_go() -> None:
    """It comes back with `since` to the other gateway, and to one that started later: each change once, in order."""
    async with staged(replicas=TWICE) as stage:
        project_id = await stage.project()
        client = stage.client(project_id)
        await client.connect()
        await client.until(lambda message: message["type"] == "state", within_s=2)
        preview_id = await stage.request(project_id)
        await stage.reached("FilesSynced", preview_id)
        await stop_replica(stage, "gateway")
        await stage.reached("InstallStarted", preview_id)
        await asyncio.sleep(1)
        await stage.crash("gateway/2")
        await stage.reached("DevServerReady", preview_id)
        await asyncio.sleep(3)
        await stage.start("gateway/3")  # which was not there when it happened
        await client.until(lambda message: message.get("event") == "PreviewReady", within_s=5)
        await asyncio.sleep(1)
        heard = [(message["seq"], message["event"]) for message in client.of_type("preview")]
        told = ("PreviewRequested", "ProjectDetected")
        wanted = [
            (each.seq, each.type)
            for each in stage.broker.records
            if getattr(each.event, "preview_id", None) == preview_id and not each.type.startswith("Claim")
        ]
        assert {kind for _, kind in heard} >= set(told)
        assert heard == wanted
        assert not any(message["missed"] for message in client.of_type("state"))
        check_rules(stage)
