"""Every five minutes the log gets a snapshot of what there is, from one replica, whatever is away."""

import asyncio

import pytest

from deploy.simulation.services import SERVICES
from services.orchestrator.config import OrchestratorConfig
from shared.events import PreviewReady, ResourcesMeasured, VmFrozen
from tests.journeys.rules import check_rules
from tests.journeys.stage import EPOCH_S, STATIC, Stage, staged

pytestmark = pytest.mark.looptime

PERIOD_S = 300.0
TWICE = (*SERVICES, "telemetry/2", "pool/2")
IDLE = OrchestratorConfig(suspend_after_s=60.0)


async def test_a_snapshot_tells_of_vms_and_previews_by_state() -> None:
    """One a period, of two replicas; the frozen VM holds what its provider says, the others can't be asked here."""
    async with staged(replicas=TWICE, orchestrator=IDLE) as stage:
        asleep = await stage.request(await stage.project(STATIC))
        await stage.until(VmFrozen, asleep, within_s=120)
        first = await stage.until(ResourcesMeasured, within_s=PERIOD_S + 20)
        hot = await stage.request(await stage.project(STATIC))
        await stage.until(PreviewReady, hot, within_s=20)
        held = asyncio.create_task(_keep_awake(stage, hot))
        second = await stage.until(ResourcesMeasured, within_s=PERIOD_S + 20, nth=2)
        held.cancel()

        assert (first.starting, first.ready, first.suspended) == (0, 0, 1)
        assert (second.starting, second.ready, second.suspended) == (0, 1, 1)
        assert first.day == "2027-01-15"
        assert first.pools is not None
        [pool] = first.pools
        assert (pool.name, pool.provider, pool.memory_mb) == ("default", "simulated", 2048)
        assert (pool.booting, pool.available, pool.in_use, pool.suspended, pool.kept, pool.going) == (0, 3, 0, 1, 0, 0)
        assert (pool.measured, pool.cpu_cores, pool.memory_bytes) == (1, 0.0, 200 << 20)
        assert second.pools is not None
        assert (second.pools[0].in_use, second.pools[0].suspended) == (1, 1)
        times = [each.meta.at - EPOCH_S for each in stage.broker.records if isinstance(each.event, ResourcesMeasured)]
        assert len(times) == 2
        assert times[1] - times[0] == pytest.approx(PERIOD_S, abs=5)
        check_rules(stage)


async def _keep_awake(stage: Stage, preview_id: str) -> None:
    while True:
        await stage.visit(preview_id)
        await asyncio.sleep(20)


async def test_pools_that_do_not_answer_are_not_empty_ones() -> None:
    """The snapshot says so, and has the previews that the log knows of."""
    async with staged() as stage:
        preview_id = await stage.request(await stage.project(STATIC))
        await stage.until(PreviewReady, preview_id, within_s=20)
        await stage.crash("pool")
        measured = await stage.until(ResourcesMeasured, within_s=PERIOD_S + 20)

        assert measured.pools is None
        assert measured.ready + measured.suspended == 1
