"""Whatever the provider and the log disagree on is put right by the next tick, and by one replica."""

import asyncio

import msgspec
import pytest

from deploy.simulation.services import SERVICES
from services.pool.ports import VmSpec
from services.pool.reaping import Inventory
from shared.events import PreviewReady, PreviewStopped, VmAcquired, VmDestroyed, VmLost
from tests.journeys.rules import check_rules
from tests.journeys.stage import STATIC, Stage, staged

pytestmark = pytest.mark.looptime
STRANGER = "vm-900000"


async def inventory(stage: Stage) -> Inventory:
    return msgspec.json.decode(await stage.bus.commands.query("pool", "inventory"), type=Inventory)


@pytest.mark.parametrize("replicas", [SERVICES, (*SERVICES, "pool/2")])
async def test_an_orphan_is_reaped_after_its_grace_time_and_not_before(replicas: tuple[str, ...]) -> None:
    """However many replicas of the pool there are; nothing that is in use goes with it."""
    async with staged(replicas=replicas) as stage:
        preview_id = await stage.request(await stage.project(STATIC))
        await stage.until(PreviewReady, preview_id, within_s=10)
        await stage.provider.create(VmSpec(vm_id=STRANGER, token="t"))
        grace_s, period_s = stage.pool_config.orphan_grace_s, stage.pool_config.reconcile_period_s
        await asyncio.sleep(grace_s - 1)
        assert STRANGER in stage.provider.vms
        await asyncio.sleep(period_s + 2)

        assert STRANGER not in stage.provider.vms
        assert stage.events(VmDestroyed) == []
        seen = await inventory(stage)
        assert (seen.orphans, seen.lost, seen.retried, seen.error) == ((), (), (), "")
        check_rules(stage)


async def test_a_vm_that_goes_is_replaced_for_its_preview() -> None:
    """The provider has it no more: lost, and the preview is ready again in another one."""
    async with staged() as stage:
        preview_id = await stage.request(await stage.project(STATIC))
        await stage.until(PreviewReady, preview_id, within_s=10)
        (acquired,) = stage.events(VmAcquired)
        stage.provider.lose(acquired.vm_id)
        await stage.until(VmLost, within_s=stage.pool_config.reconcile_period_s + 5)
        await stage.until(PreviewReady, preview_id, within_s=30, nth=2)
        await asyncio.sleep(40)

        assert [event.vm_id for event in stage.events(VmLost)] == [acquired.vm_id]
        check_rules(stage)


async def test_a_list_that_fails_for_minutes_loses_nothing() -> None:
    """The provider is out of reach, also while a replica of the pool starts: no VM is lost, no preview ends."""
    async with staged() as stage:
        preview_id = await stage.request(await stage.project(STATIC))
        await stage.until(PreviewReady, preview_id, within_s=10)
        stage.provider.list_faults.extend(["provider_unavailable"] * 5)
        await stage.start("pool/2")
        await asyncio.sleep(200)

        assert stage.provider.list_faults == []
        assert stage.events(VmLost) == []
        assert stage.state("orchestrator").previews[preview_id].status == "ready"
        check_rules(stage)


async def test_a_destroy_that_is_only_answered_is_done_again() -> None:
    """The log has the VM as destroyed; the provider, which still has it, is asked until it has not."""
    async with staged(target=2, maximum=3) as stage:
        preview_id = await stage.request(await stage.project(STATIC))
        await stage.until(PreviewReady, preview_id, within_s=10)
        (acquired,) = stage.events(VmAcquired)
        stage.provider.ignored_destroys = 2
        await stage.stop(preview_id)
        await stage.until(PreviewStopped, preview_id, within_s=5)
        await stage.until(VmDestroyed, within_s=10)
        assert acquired.vm_id in stage.provider.vms
        await asyncio.sleep(100)

        assert acquired.vm_id not in stage.provider.vms
        assert (await inventory(stage)).counters["destroy_retried"] == 2
        assert [event.vm_id for event in stage.events(VmDestroyed)] == [acquired.vm_id]
        check_rules(stage)
