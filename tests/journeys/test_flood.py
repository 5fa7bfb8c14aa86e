"""One owner asks for far more than there is room for, beside another who asks for one preview."""

import asyncio

import pytest

from services.pool.config import PoolConfig
from shared.events import PreviewReady, PreviewRequested, VmAcquired
from tests.journeys.rules import check_rules
from tests.journeys.stage import STATIC, staged

pytestmark = pytest.mark.looptime

PREVIEWS, VMS = 30, 5


async def test_a_flood_of_previews_does_not_hold_up_another_owner() -> None:
    """Of the first VMs the other owner gets one, though thirty claims came before; the flood's claims that get none end."""
    async with staged(target=1, maximum=VMS) as stage:
        floods = [await stage.project(STATIC, owner="flood") for _ in range(PREVIEWS)]
        calm = await stage.project(STATIC, owner="calm")
        asked = await asyncio.gather(*(stage.request(each, owner="flood") for each in floods))
        preview_id = await stage.request(calm, owner="calm")
        await stage.until(PreviewReady, preview_id, within_s=20)

        owners = [event.owner for event in stage.events(VmAcquired)]
        assert owners.index("calm") < VMS
        for each in asked:
            await stage.stop(each)
        await asyncio.sleep(120)
        check_rules(stage)


async def test_claims_beyond_the_pools_limit_are_tried_again_and_end() -> None:
    """The pool refuses what it can't queue. Its previews wait, and end within the step's limit; none is left behind."""
    async with staged(target=1, maximum=2) as stage:
        await stage.crash("pool")
        stage.pool_config = PoolConfig(provider="simulated", target=1, minimum=1, maximum=2, claims_max=2)
        await stage.start("pool")
        projects = [await stage.project(STATIC) for _ in range(8)]
        asked = await asyncio.gather(*map(stage.request, projects))
        assert len(stage.events(PreviewRequested)) == 8
        await asyncio.sleep(30)
        assert 1 <= len(stage.events(PreviewReady)) <= 2
        for preview_id in {event.preview_id for event in stage.events(PreviewReady)}:
            await stage.stop(preview_id)
        await asyncio.sleep(300)
        assert all(preview_id not in stage.state("pool").claims for preview_id in asked)
        check_rules(stage)
