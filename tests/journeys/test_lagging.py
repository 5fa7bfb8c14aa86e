"""A replica that hears of everything late: it refuses nothing that it has not heard of, and gives nothing away twice."""

import asyncio

import msgspec
import pytest

from deploy.simulation.services import SERVICES
from shared.commands import AcquireVm, RequestPreview, StopPreview
from shared.events import PreviewFailed, PreviewReady, VmAcquired, VmBooted
from shared.ids import derive
from shared.ports import Cause
from shared.runtime import Runtime
from tests.journeys.rolling import hold_back
from tests.journeys.rules import check_rules
from tests.journeys.stage import OWNER, STATIC, staged

pytestmark = pytest.mark.looptime

LAG_S = 2.0


@pytest.mark.parametrize("service", ["pool", "orchestrator", "gateway"])
async def test_a_preview_gets_ready_though_one_replica_lags(service: str) -> None:
    """Two seconds behind in everything: what is sent to it waits until it knows as much as the sender."""
    async with staged(replicas=(*SERVICES, f"{service}/2")) as stage:
        hold_back(stage, f"{service}/2", LAG_S)
        previews = []
        for _ in range(6):
            previews.append(await stage.request(await stage.project(STATIC)))
            await stage.until(PreviewReady, previews[-1], within_s=40)
            await stage.stop(previews[-1])
        await asyncio.sleep(40)
        assert stage.events(PreviewFailed) == []
        assert len(stage.events(VmAcquired)) == 6
        check_rules(stage)


async def test_a_pool_that_lags_gives_no_vm_that_is_taken() -> None:
    """Only it is asked, from the moment in which another has given all VMs away: it loses each race, and learns."""
    async with staged(target=3, minimum=3, maximum=3, replicas=("pool", "pool/2")) as stage:
        await stage.until(VmBooted, within_s=20, nth=3)
        hold_back(stage, "pool/2", LAG_S)
        ahead, behind = (stage.replicas[name].runtime for name in ("pool", "pool/2"))
        claims = [AcquireVm(preview_id=f"p{n}", owner=OWNER, timeout_s=60, id=derive("", f"p{n}")) for n in range(3)]
        for claim in claims:
            await ahead.execute(claim)
        assert behind.seq < ahead.seq
        for claim in claims:  # the same ones again, as after silence
            await behind.execute(claim, Cause(repeated=True))
        late = await behind.execute(AcquireVm(preview_id="late", owner=OWNER, timeout_s=60))
        assert msgspec.to_builtins(late)["vm_id"] is None
        acquired = stage.events(VmAcquired)
        assert len({event.vm_id for event in acquired}) == len(acquired) == 3


async def test_an_append_expects_what_its_decision_saw() -> None:
    """The event that another replica stores between a decision and its append comes in before the append is made: the
    decision is made anew, and does not pass as if it had known."""
    async with staged(target=1, minimum=1, maximum=1, replicas=("pool",)) as stage:
        await stage.until(VmBooted, within_s=20)
        await asyncio.sleep(5)
        runtime: Runtime[object] = stage.replicas["pool"].runtime
        (vm_id,) = runtime.state.ready  # type: ignore[attr-defined]
        claim = AcquireVm(preview_id="second", owner=OWNER, timeout_s=60, id="2" * 26)
        wanted = runtime._next_events(claim)
        stage.broker.record(
            VmAcquired(
                vm_id=vm_id, preview_id="first", owner=OWNER, from_pool=True, waited_s=0.0, host="h", port=1, key=""
            )
        )
        await runtime.until(len(stage.broker.records))
        assert wanted[f"pool.vm.{vm_id}"].head != runtime._heads.get(f"pool.vm.{vm_id}")
        await runtime.execute(claim)
        assert [event.preview_id for event in stage.events(VmAcquired)] == ["first"]


async def test_what_a_lagging_replica_does_not_know_is_looked_for_before_it_is_refused() -> None:
    """A command without a sequence, as a person with the `nats` tool sends it, right after the project was made."""
    async with staged(replicas=(*SERVICES, "orchestrator/2")) as stage:
        hold_back(stage, "orchestrator/2", LAG_S)
        behind = stage.replicas["orchestrator/2"].runtime
        project_id = await stage.project(STATIC)
        assert behind.seq < len(stage.broker.records)
        reply = await behind.execute(RequestPreview(project_id=project_id, owner=OWNER))
        await stage.until(PreviewReady, reply.preview_id, within_s=30)
        unknown = await stage.fails(StopPreview(preview_id="nothing"))
        assert unknown.status == 404
        await stage.stop(reply.preview_id)
        await asyncio.sleep(20)
        check_rules(stage)
