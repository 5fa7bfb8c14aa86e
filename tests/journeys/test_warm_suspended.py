"""A pool whose warm VMs stand still: a preview wakes the one that it gets, and pays the thaw."""

import asyncio

import pytest

from shared.events import PreviewReady, VmAcquired, VmLost
from tests.journeys.rules import check_rules
from tests.journeys.stage import STATIC, Stage, staged

pytestmark = pytest.mark.looptime

FREEZE_S = 15.0
"""Boot, the pool's tick, and the freeze."""


def states(stage: Stage) -> list[str]:
    return sorted(vm.state for vm in stage.provider.vms.values())


async def test_warm_vms_stand_still_and_a_preview_wakes_the_one_it_gets() -> None:
    """Its successor in the pool is suspended too; nothing is lost for its silence meanwhile."""
    async with staged(target=2, maximum=4, warm_suspended=True) as stage:
        await asyncio.sleep(FREEZE_S)
        assert states(stage) == ["suspended", "suspended"]

        preview_id = await stage.request(await stage.project(STATIC))
        await stage.until(PreviewReady, preview_id, within_s=20)
        await asyncio.sleep(FREEZE_S)

        assert states(stage) == ["running", "suspended", "suspended"]
        [acquired] = stage.events(VmAcquired, preview_id)
        assert acquired.from_pool
        assert stage.events(VmLost) == []
        await asyncio.sleep(600)
        assert stage.events(VmLost) == []
        check_rules(stage)


async def test_a_warm_vm_that_cant_be_woken_is_replaced() -> None:
    """It is given up after a few tries, and the preview gets another one."""
    async with staged(target=2, maximum=4, warm_suspended=True) as stage:
        await asyncio.sleep(FREEZE_S)
        stage.provider.resume_faults += ["resume_failed"] * 3

        preview_id = await stage.request(await stage.project(STATIC))
        await stage.until(PreviewReady, preview_id, within_s=60)

        assert len(stage.events(VmLost, preview_id)) == 1
        assert len({event.vm_id for event in stage.events(VmAcquired, preview_id)}) == 2
        await asyncio.sleep(FREEZE_S)
        check_rules(stage)
