"""How a VM is reached travels with it: from its provider to whoever calls its agent, over restarts of preview and service."""

import pytest

from deploy.simulation.machines import Machines
from services.gateway.adapters.preview_target import Through
from services.gateway.adapters.resolver import through_of
from services.gateway.state import Agent
from services.orchestrator.model import Vm
from services.pool.ports import VmAddress, VmSpec
from shared.events import PreviewReady, VmAcquired, VmBooted
from shared.reach import Reach
from tests.journeys.rules import check_rules
from tests.journeys.stage import VITE, staged

pytestmark = pytest.mark.looptime

REACH = Reach(tunnel=True, tls=True, headers=(("fly-force-instance-id", "d891"),))


async def test_the_reach_of_a_vm_is_known_to_all_who_call_it(monkeypatch: pytest.MonkeyPatch) -> None:
    create = Machines.create

    async def elsewhere(self: Machines, spec: VmSpec) -> VmAddress:
        await create(self, spec)
        return VmAddress("fdaa::3", 443, REACH)

    monkeypatch.setattr(Machines, "create", elsewhere)
    async with staged() as stage:
        project_id = await stage.project(VITE)
        preview_id = await stage.request(project_id)
        await stage.until(PreviewReady, preview_id, within_s=60)

        (acquired,) = stage.events(VmAcquired, preview_id)
        assert (acquired.host, acquired.port, acquired.reach) == ("fdaa::3", 443, REACH)
        booted = next(each for each in stage.events(VmBooted) if each.vm_id == acquired.vm_id)
        assert booted.reach == REACH
        assert stage.state("pool").vms[acquired.vm_id].reach == REACH
        held = stage.state("orchestrator").previews[preview_id].vm
        assert isinstance(held, Vm)
        assert (held.host, held.port, held.reach) == ("fdaa::3", 443, REACH)
        shown = stage.state("gateway").previews[preview_id]
        assert shown.agent == Agent("fdaa::3", 443, held.lease, REACH)
        assert through_of(shown) == Through(acquired.vm_id, "fdaa::3", 443, held.lease, REACH)

        await stage.restart(preview_id)
        await stage.until(PreviewReady, preview_id, within_s=60, nth=2)
        held = stage.state("orchestrator").previews[preview_id].vm
        assert through_of(stage.state("gateway").previews[preview_id]) == Through(
            held.vm_id, "fdaa::3", 443, held.lease, REACH
        )
        check_rules(stage)


async def test_on_our_own_network_a_dev_server_is_dialled_as_it_listens() -> None:
    async with staged() as stage:
        preview_id = await stage.request(await stage.project(VITE))
        await stage.until(PreviewReady, preview_id, within_s=60)
        assert through_of(stage.state("gateway").previews[preview_id]) is None
