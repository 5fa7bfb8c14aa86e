"""Health checks of one tick: each VM's on its own."""

from collections.abc import Mapping

import pytest

from services.pool.adapters.simulated import SimulatedProvider
from services.pool.config import PoolConfig
from services.pool.effects import PoolEffects
from services.pool.ports import VmAddress
from services.pool.react import CheckHealth, CleanVm
from services.pool.state import State
from shared.commands import CheckVm, Command
from shared.errors import Unavailable
from shared.ports import Cause
from shared.reach import Reach
from tests.spec import AT


class Silent:
    """A `HealthProbe`: no agent answers."""

    clock_skews: Mapping[str, float] = {}

    async def __call__(self, vm_id: str, host: str, port: int, reach: Reach) -> str:
        return "nobody answers"

    async def meet(self, vm_id: str, address: VmAddress) -> None:
        """Never comes to it."""


async def test_a_report_that_can_not_be_stored_keeps_no_other_from_its_turn() -> None:
    """And it is an outage, which is tried again for an hour, not an unknown failure."""
    reported: list[str] = []

    async def send(command: Command, _cause: Cause) -> bytes:
        assert isinstance(command, CheckVm)
        if command.vm_id == "vm-000001":
            raise Unavailable("log_unavailable", "The log does not answer.")
        reported.append(command.vm_id)
        return b"{}"

    async def clean(vm: CleanVm) -> str:
        return ""

    async def nothing(_project_id: str = "") -> None:
        return

    effects = PoolEffects(
        SimulatedProvider(0.1, lambda: AT),
        Silent(),
        clean,
        send,
        State,
        forget=nothing,
        config=PoolConfig(health_concurrency_max=1),
        secret="0" * 64,
        clock=lambda: AT,
        catch_up=nothing,
    )
    vms = tuple((f"vm-{number:06d}", "127.0.0.1", 1, Reach()) for number in (1, 2, 3))
    with pytest.raises(Unavailable):
        await effects.perform(CheckHealth(vms), Cause(causation_id="tick", actor="test"))
    assert reported == ["vm-000002", "vm-000003"]
