"""Asks a VM's agent whether it lives, which versions of the wire it speaks, and what its clock says."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

import aiohttp

from services.pool.ports import ProviderError, VmAddress
from services.pool.usage import Usages
from shared.agent.client import AgentClient, AgentError, AgentUnreachable
from shared.agent.protocol import PROTOCOLS, TUNNEL_PROTOCOL, Health
from shared.agent.versions import common
from shared.ids import VmId
from shared.reach import Reach, agent_url
from shared.secrets import agent_token

log = logging.getLogger("drape.pool")

CLOCK_SKEW_MAX_S = 5.0
"""An agent's clock may differ so much without a word: only times that people read come from it."""
SKEWS_MAX = 1_000
MEET_RETRY_S = 0.2
UNSUPPORTED = "agent_version_unsupported"


class AgentHealthProbe:
    """A `HealthProbe` over the agent's wire. `clock_skews`: by VM, how far (in seconds) its clock is ahead of this
    machine's, for those beyond `CLOCK_SKEW_MAX_S`."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        secret: str,
        timeout_s: float,
        *,
        clock: Callable[[], float] = time.time,
        protocols: tuple[int, int] = PROTOCOLS,
        usages: Usages | None = None,
    ) -> None:
        """`protocols`: the oldest and the newest version of the agent's wire that this side speaks. `usages` is told what
        the VMs use."""
        self._session = session
        self._secret = secret
        self._timeout_s = timeout_s
        self._clock = clock
        self._protocols = protocols
        self.clock_skews: dict[VmId, float] = {}
        self._usages = Usages() if usages is None else usages

    async def __call__(self, vm_id: VmId, host: str, port: int, reach: Reach) -> str:
        try:
            health = await self._ask(vm_id, host, port, reach)
        except (AgentUnreachable, AgentError) as error:
            self.clock_skews.pop(vm_id, None)
            return str(error) or type(error).__name__
        if health.vm_id != vm_id:
            return f"another VM answers there: {health.vm_id}"
        self._usages.hear(vm_id, health.usage, self._clock())
        return self._misfit(health, reach)

    async def meet(self, vm_id: VmId, address: VmAddress) -> None:
        """A VM that has just booted: agree on a version of the wire. Raises `ProviderError`: `agent_version_unsupported`
        where there is none, `boot_failed` where something else answers. Asks until somebody does: put a time-out around."""
        while True:
            try:
                health = await self._ask(vm_id, address.host, address.port, address.reach)
                break
            except AgentUnreachable:
                await asyncio.sleep(MEET_RETRY_S)  # what leads to the agent may need longer than the agent itself
            except AgentError as error:
                raise ProviderError(
                    "boot_failed", f"The VM's agent refused its own token or address: {error}"
                ) from error
        if health.vm_id != vm_id:
            raise ProviderError("boot_failed", f"Another VM answers at this one's address: {health.vm_id}.")
        if wrong := self._misfit(health, address.reach):
            raise ProviderError(UNSUPPORTED, wrong)
        version = common(health.protocols, self._protocols)
        log.info("agent_met", extra={"vm_id": vm_id, "agent_version": health.agent_version, "protocol": version})

    async def _ask(self, vm_id: VmId, host: str, port: int, reach: Reach) -> Health:
        client = AgentClient(
            agent_url(host, port, reach),
            agent_token(self._secret, vm_id),
            self._session,
            request_timeout_s=self._timeout_s,
            headers=reach.headers,
        )
        before = self._clock()
        health = await client.health()
        self._compare_clocks(vm_id, health, before, self._clock())
        return health

    def _misfit(self, health: Health, reach: Reach) -> str:
        """Why this agent is of no use here, and what to do; empty where it is."""
        ours = (max(self._protocols[0], TUNNEL_PROTOCOL), self._protocols[1]) if reach.tunnel else self._protocols
        if common(health.protocols, ours) is not None:
            return ""
        needed = f"{_words(ours)}{', to reach servers inside the VM' if reach.tunnel else ''}"
        advice = (
            "rebuild the VM image with `deploy/workspace/build`"
            if health.protocols[1] < ours[0]
            else "upgrade the control plane, or use an older VM image"
        )
        return (
            f"The VM's agent (version {health.agent_version}) speaks {_words(health.protocols)} of its wire, and this "
            f"control plane needs {needed}: {advice}."
        )

    def _compare_clocks(self, vm_id: VmId, health: Health, before: float, after: float) -> None:
        self.clock_skews.pop(vm_id, None)
        if not health.now:
            return  # an agent that does not tell
        skew_s = health.now - (before + after) / 2
        if abs(skew_s) - abs(after - before) / 2 <= CLOCK_SKEW_MAX_S:
            return
        if len(self.clock_skews) >= SKEWS_MAX:
            del self.clock_skews[next(iter(self.clock_skews))]
        self.clock_skews[vm_id] = round(skew_s, 3)
        log.warning("clock_skew", extra={"vm_id": vm_id, "skew_s": round(skew_s, 3), "bound_s": CLOCK_SKEW_MAX_S})


def _words(protocols: tuple[int, int]) -> str:
    oldest, newest = protocols
    return f"version {oldest}" if oldest == newest else f"versions {oldest} to {newest}"


class SimulatedHealthProbe:
    """Every simulated VM is well, and speaks as we do."""

    clock_skews: Mapping[VmId, float] = {}

    async def __call__(self, vm_id: VmId, host: str, port: int, reach: Reach) -> str:
        return ""

    async def meet(self, vm_id: VmId, address: VmAddress) -> None:
        """Nothing to agree on."""
