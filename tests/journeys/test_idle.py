"""A preview that nobody uses is frozen; whoever wants something of it wakes it."""

import asyncio

import msgspec
import pytest

from deploy.simulation.services import SERVICES
from services.gateway.adapters.variables import Variables
from services.orchestrator.adapters.simulated import JobScript
from services.orchestrator.config import OrchestratorConfig
from shared.commands import RestartPreview
from shared.events import (
    DevServerStarted,
    Event,
    FilesSynced,
    PreviewFailed,
    PreviewReady,
    PreviewRestarted,
    PreviewResumed,
    PreviewStopped,
    PreviewSuspended,
    VmFrozen,
    VmLost,
    VmSuspended,
)
from shared.output import LogLine
from tests.journeys.rules import check_rules
from tests.journeys.stage import SECRET, STATIC, Stage, staged

pytestmark = pytest.mark.looptime

IDLE_S = 60.0
QUICK = OrchestratorConfig(suspend_after_s=IDLE_S)
NOTICED_S = IDLE_S + QUICK.idle_check_s + 11.0
"""Until an idle preview is suspended: its time, the period of the look, and that of the gateway's word."""
WAKE_S = 0.2


async def ready(stage: Stage, project_id: str = "") -> str:
    """A preview that has just become ready."""
    preview_id = await stage.request(project_id or await stage.project(STATIC))
    await stage.until(PreviewReady, preview_id, within_s=20)
    return preview_id


async def asleep(stage: Stage) -> str:
    """A preview whose VM is frozen."""
    preview_id = await ready(stage)
    await stage.until(VmFrozen, preview_id, within_s=NOTICED_S)
    return preview_id


async def test_an_idle_preview_is_frozen_and_the_next_request_wakes_it() -> None:
    """The request is held for as long as the VM takes to wake; its VM, attempt and dev server are the same ones."""
    async with staged(orchestrator=QUICK) as stage:
        preview_id = await asleep(stage)
        assert [vm.state for vm in stage.provider.vms.values()].count("suspended") == 1

        assert await stage.visit(preview_id) < WAKE_S

        assert {vm.state for vm in stage.provider.vms.values()} == {"running"}
        [resumed] = stage.events(PreviewResumed)
        assert (resumed.reason, resumed.suspended_s > 0) == ("request", True)
        await asyncio.sleep(20)
        assert (len(stage.events(DevServerStarted)), stage.events(PreviewRestarted)) == (1, [])
        check_rules(stage)


async def test_an_hour_asleep_is_no_failure() -> None:
    """No health check fails, no VM is lost, nothing is logged as an error; then it answers at once."""
    async with staged(orchestrator=QUICK) as stage:
        preview_id = await asleep(stage)
        await asyncio.sleep(3600)
        assert not {"VmHealthCheckFailed", "VmLost", "PreviewFailed"} & set(stage.story())

        assert await stage.visit(preview_id) < WAKE_S
        await asyncio.sleep(20)
        check_rules(stage)


async def test_what_is_used_stays_awake() -> None:
    """A socket that stays open, or requests now and then; of two gateways one hears of it."""
    async with staged(orchestrator=QUICK, replicas=(*SERVICES, "gateway/2", "orchestrator/2")) as stage:
        held, asked = await ready(stage), await ready(stage)
        async with stage.visiting(held, "gateway/2"):
            for _ in range(20):
                await asyncio.sleep(IDLE_S / 2)
                await stage.visit(asked)
            assert stage.events(PreviewSuspended) == []
        await stage.until(PreviewSuspended, held, within_s=NOTICED_S)
        await asyncio.sleep(20)
        check_rules(stage)


async def test_use_is_told_each_period_and_no_more() -> None:
    """Once for a request, once a period for what is open; then there is silence."""
    async with staged(orchestrator=QUICK) as stage:
        preview_id = await ready(stage)
        told: list[str] = []
        await stage.bus.activity.subscribe(told.append)
        await stage.visit(preview_id)
        await stage.visit(preview_id)
        await asyncio.sleep(30)
        assert told == [preview_id]
        async with stage.visiting(preview_id):
            await asyncio.sleep(30)
        await asyncio.sleep(30)
        assert told == [preview_id] * 5


async def test_a_quiet_gateway_does_not_put_to_sleep_what_another_one_serves() -> None:
    """The word of the gateway that serves it is lost: it wakes the preview that it has a socket on."""
    async with staged(orchestrator=QUICK, replicas=(*SERVICES, "gateway/2")) as stage:
        preview_id = await ready(stage)
        async with stage.visiting(preview_id, "gateway/2"):
            stage.broker.activity_listeners.clear()
            await stage.until(PreviewResumed, preview_id, within_s=NOTICED_S)
            assert stage.at(PreviewResumed) - stage.at(PreviewSuspended) < WAKE_S
        await asyncio.sleep(20)
        check_rules(stage)


@pytest.mark.parametrize("moment", [PreviewSuspended, VmSuspended, VmFrozen])
@pytest.mark.parametrize("more", [(), ("pool/2", "orchestrator/2", "gateway/2")], ids=["one of each", "two of each"])
async def test_a_request_that_comes_while_it_falls_asleep_is_answered(
    moment: type[Event], more: tuple[str, ...]
) -> None:
    """Wherever the freeze stands, the VM runs in the end. Freezing is slow here."""
    async with staged(orchestrator=QUICK, replicas=(*SERVICES, *more)) as stage:
        stage.provider.freeze_s = 0.5
        preview_id = await ready(stage)
        await stage.until(moment, preview_id, within_s=NOTICED_S + 1)

        await stage.visit(preview_id)
        await asyncio.sleep(20)
        assert {vm.state for vm in stage.provider.vms.values()} == {"running"}
        check_rules(stage)


@pytest.mark.parametrize("event", ["PreviewSuspended", "VmSuspended", "PreviewResumed", "VmResumed"])
@pytest.mark.parametrize("service", ["pool", "orchestrator"])
async def test_a_replica_that_dies_on_the_way_is_made_up_for(service: str, event: str) -> None:
    """Asleep and awake again, with the pool or the orchestrator killed at each event."""
    async with staged(orchestrator=QUICK) as stage:
        preview_id = await ready(stage)
        death = stage.crash_when(service, event)
        if event in ("PreviewSuspended", "VmSuspended"):
            await stage.until(PreviewSuspended, preview_id, within_s=NOTICED_S)
        else:
            await stage.until(VmFrozen, preview_id, within_s=NOTICED_S)
            waking = asyncio.create_task(stage.visit(preview_id))
        await death
        await stage.start(service)
        if event in ("PreviewSuspended", "VmSuspended"):
            await stage.until(VmFrozen, preview_id, within_s=40)
            waking = asyncio.create_task(stage.visit(preview_id))
        await waking
        await asyncio.sleep(40)
        assert {vm.state for vm in stage.provider.vms.values()} == {"running"}
        check_rules(stage)


async def test_an_edit_wakes_it_and_arrives() -> None:
    """The next version is in the VM, and nothing has begun anew."""
    async with staged(orchestrator=QUICK) as stage:
        project_id = await stage.project(STATIC)
        preview_id = await ready(stage, project_id)
        await stage.until(VmFrozen, preview_id, within_s=NOTICED_S)

        await stage.change(project_id, {"index.html": b"edited"})

        synced = await stage.until(FilesSynced, preview_id, within_s=2, nth=2)
        assert (synced.files_version, stage.events(PreviewResumed)[0].reason) == (2, "edit")
        await asyncio.sleep(20)
        assert stage.events(PreviewRestarted) == []
        check_rules(stage)


@pytest.mark.parametrize("delay_s", [0.0, 0.001, 0.01, 0.03, 0.1])
async def test_an_edit_that_comes_while_it_falls_asleep_arrives(delay_s: float) -> None:
    async with staged(orchestrator=QUICK) as stage:
        project_id = await stage.project(STATIC)
        preview_id = await ready(stage, project_id)
        await stage.until(PreviewSuspended, preview_id, within_s=NOTICED_S)
        await asyncio.sleep(delay_s)
        await stage.change(project_id, {"index.html": b"edited"})
        await stage.until(FilesSynced, preview_id, within_s=2, nth=2)
        await asyncio.sleep(20)
        check_rules(stage)


async def test_new_variables_wake_it_and_begin_it_anew_in_its_vm() -> None:
    async with staged(orchestrator=QUICK) as stage:
        project_id = await stage.project(STATIC)
        preview_id = await ready(stage, project_id)
        await stage.until(VmFrozen, preview_id, within_s=NOTICED_S)
        project = stage.state("gateway").projects[project_id]

        await stage.send(await Variables(stage.bus.objects, SECRET).change(project, {"KEY": "value"}))

        await stage.until(PreviewReady, preview_id, within_s=10, nth=2)
        [restarted] = stage.events(PreviewRestarted)
        assert (restarted.in_place, stage.events(PreviewResumed)[0].reason) == (True, "restart")
        await asyncio.sleep(20)
        check_rules(stage)


async def test_who_asks_for_the_project_gets_it_awake_and_at_once() -> None:
    """The answer does not wait for the VM."""
    async with staged(orchestrator=QUICK) as stage:
        project_id = await stage.project(STATIC)
        preview_id = await ready(stage, project_id)
        await stage.until(VmFrozen, preview_id, within_s=NOTICED_S)
        begun = stage.now()

        assert await asyncio.gather(*(stage.request(project_id) for _ in range(5))) == [preview_id] * 5

        assert stage.now() - begun < WAKE_S
        assert len(stage.events(PreviewResumed)) == 1
        await asyncio.sleep(20)
        check_rules(stage)


async def test_a_suspended_preview_is_stopped_without_being_woken() -> None:
    async with staged(orchestrator=QUICK) as stage:
        preview_id = await asleep(stage)
        await stage.stop(preview_id)
        await asyncio.sleep(20)
        assert not {"PreviewResumed", "VmResumed"} & set(stage.story())
        assert len(stage.provider.vms) == 3
        check_rules(stage)


async def test_its_output_goes_on_where_it_broke_off() -> None:
    """Lines of before and after, each once."""
    async with staged(orchestrator=QUICK) as stage:
        project_id = await stage.project(STATIC)
        lines = tuple((float(second), f"tick {second}") for second in range(1, 200))
        stage.workspace.dev_servers.append(JobScript(listens_s=0.4, answers_s=0.6, lines=lines))
        preview_id = await ready(stage, project_id)
        await stage.until(VmFrozen, preview_id, within_s=NOTICED_S)
        said = len(stage.log_of(preview_id))
        await asyncio.sleep(30)
        assert len(stage.log_of(preview_id)) == said

        await stage.visit(preview_id)
        await asyncio.sleep(10)

        def numbers(log: list[LogLine]) -> list[int]:
            return [int(line.text.removeprefix("tick ")) for line in log]

        told = numbers(stage.log_of(preview_id))
        assert told == list(range(1, len(told) + 1))
        assert len(told) > said + 30
        check_rules(stage)


async def test_a_vm_that_is_lost_while_it_stands_still_is_replaced() -> None:
    async with staged(orchestrator=QUICK) as stage:
        preview_id = await asleep(stage)
        stage.provider.lose(stage.state("gateway").previews[preview_id].vm_id)
        await stage.until(PreviewReady, preview_id, within_s=60, nth=2)
        await asyncio.sleep(20)
        check_rules(stage)


async def test_a_dev_server_that_dies_as_it_falls_asleep_is_noticed() -> None:
    """Its end is reported about a suspended preview: it is woken, fails, and its VM can be used again."""
    async with staged(orchestrator=QUICK) as stage:
        preview_id = await ready(stage)
        vm_id = stage.state("gateway").previews[preview_id].vm_id
        stage.broker.on_stored.append(
            lambda recorded: stage.workspace.end_job(vm_id, "dev-1") if recorded.type == "PreviewSuspended" else None
        )
        await stage.until(PreviewSuspended, preview_id, within_s=NOTICED_S)
        await asyncio.sleep(5)
        await stage.waker().wake(preview_id)
        await stage.until(PreviewFailed, preview_id, within_s=5)
        stage.broker.on_stored.pop()
        await stage.restart(preview_id)
        await stage.until(PreviewReady, preview_id, within_s=10, nth=2)
        await asyncio.sleep(20)
        check_rules(stage)


async def test_what_cant_be_frozen_stays_awake() -> None:
    """The provider refuses: the preview is said to run again, and serves."""
    async with staged(orchestrator=QUICK) as stage:
        stage.provider.suspend_faults.append("suspend_failed")
        preview_id = await ready(stage)
        await stage.until(PreviewResumed, preview_id, within_s=NOTICED_S)
        await stage.visit(preview_id)
        await asyncio.sleep(20)
        check_rules(stage)


async def test_a_vm_that_cant_be_woken_is_replaced() -> None:
    """Three tries, then it is lost, and the preview begins anew in another."""
    async with staged(orchestrator=QUICK) as stage:
        preview_id = await asleep(stage)
        stage.provider.resume_faults.extend(["resume_failed"] * 3)
        waking = asyncio.create_task(stage.waker().wake(preview_id))
        await stage.until(VmLost, preview_id, within_s=5)
        await waking
        await stage.until(PreviewReady, preview_id, within_s=20, nth=2)
        await asyncio.sleep(20)
        check_rules(stage)


@pytest.mark.parametrize("limit", [{"suspended_max": 2}, {"suspended_mb_max": 450}])
async def test_of_more_than_may_sleep_the_coldest_is_stopped(limit: dict[str, int]) -> None:
    """More previews, or more memory: each holds 200 MiB, so the third is one too many."""
    config = msgspec.convert({"suspend_after_s": IDLE_S, **limit}, OrchestratorConfig)
    async with staged(orchestrator=config, maximum=8) as stage:
        previews = []
        for _ in range(3):
            previews.append(await ready(stage))
            await asyncio.sleep(10)
        stopped = await stage.until(PreviewStopped, within_s=NOTICED_S)
        assert (stopped.preview_id, stopped.reason) == (previews[0], "memory")
        await asyncio.sleep(40)
        assert len(stage.events(PreviewStopped)) == 1
        check_rules(stage)


@pytest.mark.parametrize("first", ["claim", "sleep"])
async def test_whoever_waits_for_a_vm_gets_that_of_the_coldest(first: str) -> None:
    """Whether the preview slept already when the claim came, or fell asleep while it waited."""
    async with staged(orchestrator=QUICK, target=0, minimum=0, maximum=2) as stage:
        coldest = await ready(stage)
        await asyncio.sleep(5)
        await ready(stage)
        if first == "sleep":
            await stage.until(VmFrozen, within_s=NOTICED_S, nth=2)
        else:
            await asyncio.sleep(40)
        await ready_in(stage, within_s=40)
        assert [each.preview_id for each in stage.events(PreviewStopped)] == [coldest]
        await asyncio.sleep(20)
        check_rules(stage)


async def ready_in(stage: Stage, within_s: float) -> None:
    preview_id = await stage.request(await stage.project(STATIC))
    await stage.until(PreviewReady, preview_id, within_s=within_s)


async def awake(stage: Stage, preview_id: str, how: str) -> None:
    """Somebody wants something of it."""
    if how == "request":
        await stage.waker().wake(preview_id)
    elif how == "restart":
        await stage.send(RestartPreview(preview_id=preview_id, in_place=True))
    else:
        project_id = stage.state("gateway").previews[preview_id].project_id
        await stage.change(project_id, {"index.html": b"<p>edited</p>"})


@pytest.mark.parametrize("how", ["request", "edit", "restart"])
async def test_a_vm_that_boots_anew_when_it_is_woken_is_given_up(how: str) -> None:
    """Nothing of the preview is in it any more: it begins again in another one, at once, and never as an empty folder's."""
    async with staged(orchestrator=QUICK) as stage:
        preview_id = await asleep(stage)
        vm_id = stage.state("gateway").previews[preview_id].vm_id
        stage.workspace.reboot(vm_id)

        await awake(stage, preview_id, how)
        await stage.until(VmLost, preview_id, within_s=2)
        await stage.until(PreviewReady, preview_id, within_s=20, nth=2)
        await asyncio.sleep(5)

        [gone] = stage.events(VmLost)
        assert (gone.vm_id, "anew" in gone.detail) == (vm_id, True)
        assert stage.state("gateway").previews[preview_id].vm_id != vm_id
        assert stage.events(PreviewFailed) == []
        check_rules(stage)
