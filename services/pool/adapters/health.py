"""Asks a VM's agent whether it lives."""

import aiohttp

from shared.agent.client import AgentClient, AgentError, AgentUnreachable
from shared.ids import VmId
from shared.secrets import agent_token


class AgentHealthProbe:
    """A `HealthProbe` over the agent's wire."""

    def __init__(self, session: aiohttp.ClientSession, secret: str, timeout_s: float) -> None:
        self._session = session
        self._secret = secret
        self._timeout_s = timeout_s

    async def __call__(self, vm_id: VmId, host: str, port: int) -> str:
        url = f"http://{host}:{port}"
        client = AgentClient(url, agent_token(self._secret, vm_id), self._session, request_timeout_s=self._timeout_s)
        try:
            health = await client.health()
        except (AgentUnreachable, AgentError) as error:
            return str(error) or type(error).__name__
        return "" if health.vm_id == vm_id else f"another VM answers there: {health.vm_id}"


class SimulatedHealthProbe:
    """Every simulated VM is well."""

    async def __call__(self, vm_id: VmId, host: str, port: int) -> str:
        return ""
