"""The fake holds to the same contract as what it stands for; only what needs an agent is left out."""

import pytest

from services.pool.adapters.simulated import SimulatedBackend, SimulatedProvider
from services.pool.ports import VmState
from tests.pool.contract_home import FAULTS, Fault
from tests.pool.provider_contract import ProviderContract


class SimulatedHome:
    """Simulated providers that share their VMs."""

    isolated = False
    limits_memory = False
    runs_agents = False
    faults = frozenset(FAULTS)

    def __init__(self) -> None:
        self._backend = SimulatedBackend()

    def provider(self) -> SimulatedProvider:
        return SimulatedProvider(0.05, backend=self._backend)

    def hanging(self) -> SimulatedProvider:
        return SimulatedProvider(3600.0, backend=self._backend, boot_timeout_s=0.2)

    def faulty(self, fault: Fault) -> SimulatedProvider:
        provider = self.provider()
        provider.fault = fault
        provider.answer_timeout_s = 0.2
        return provider

    async def lose(self, vm_id: str) -> None:
        state: VmState = "stopped"
        self._backend.set(vm_id, state)

    def visible(self, vm_id: str) -> str:
        return repr(self._backend.vms.get(vm_id))

    def leftovers(self) -> list[str]:
        return sorted({*self._backend.vms, *self._backend.booting})


class TestSimulated(ProviderContract):
    """The cases that need no agent."""

    @pytest.fixture
    def home(self) -> SimulatedHome:
        return SimulatedHome()
