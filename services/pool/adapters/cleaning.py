"""Has a VM's agent empty it for its owner's next preview."""

import asyncio
from collections.abc import Callable

import aiohttp

from services.pool.react import CleanVm
from shared import agent_spans, telemetry
from shared.agent.client import AgentClient, AgentError, AgentUnreachable
from shared.agent.protocol import CleanSpec
from shared.ids import VmId
from shared.reach import agent_url
from shared.secrets import agent_token


class AgentVmCleaner:
    """A `VmCleaner` over the agent's wire. `bytes_max`: dependencies that may stay."""

    def __init__(self, session: aiohttp.ClientSession, secret: str, *, bytes_max: int, timeout_s: float) -> None:
        self._session = session
        self._secret = secret
        self._bytes_max = bytes_max
        self._timeout_s = timeout_s

    async def __call__(self, vm: CleanVm) -> str:
        token = agent_token(self._secret, vm.vm_id)
        client = AgentClient(
            agent_url(vm.host, vm.port, vm.reach),
            token,
            self._session,
            request_timeout_s=self._timeout_s,
            headers=vm.reach.headers,
            trace=telemetry.carrier,
            on_spans=agent_spans.take,
        )
        spec = CleanSpec(lease=vm.lease, keep_since_job=vm.keep_job, bytes_max=self._bytes_max)
        try:
            await client.clean(spec)
        except AgentUnreachable:
            return "agent_unreachable"
        except AgentError as error:
            return error.code
        return ""


class SimulatedVmCleaner:
    """Calls `clean` for a VM whose inside is simulated too, after `clean_s`; without it none can be emptied, and each is
    destroyed. `faults`: codes with which the next ones are refused."""

    def __init__(self, clean: Callable[[VmId], None] | None = None, clean_s: float = 0.3) -> None:
        self.faults: list[str] = []
        self._clean = clean
        self._clean_s = clean_s

    async def __call__(self, vm: CleanVm) -> str:
        if self._clean is None:
            return "clean_unsupported"
        await asyncio.sleep(self._clean_s)
        if self.faults:
            return self.faults.pop(0)
        self._clean(vm.vm_id)
        return ""
