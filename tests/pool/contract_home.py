"""What a provider's set-up under test is, and the little that the contract's cases share."""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeAlias
from uuid import uuid4

import aiohttp
import pytest

from services.pool.ports import Provider, VmAddress, VmListing, VmSpec

WAIT_S = 20.0
TOKEN = "contract-token-5f0c"
Fault: TypeAlias = Literal["down", "rate_limited", "slow", "rubbish"]
"""What can be wrong with what a provider speaks to: nobody answers; it asks for patience (429); it accepts and does not
answer; it answers what is no answer of its protocol."""
FAULTS: tuple[Fault, ...] = ("down", "rate_limited", "slow", "rubbish")


class Home(Protocol):
    """One provider set-up under test; every `provider` shares the same VMs, as a restarted pool would."""

    isolated: bool
    """Whether VMs can't see the machine's and each other's files."""
    limits_memory: bool
    shares_network: bool
    """Whether what runs in a VM reaches what listens on this machine's loopback."""
    runs_agents: bool
    """Whether something runs in the VMs. Cases that speak to an agent are skipped where nothing does (the fake)."""
    faults: frozenset[Fault]
    """What its backend can be made to do; empty where there is none (local)."""

    def provider(self) -> Provider: ...

    def hanging(self) -> Provider:
        """A provider whose VMs start but never listen, with a boot time-out well below a second."""

    def faulty(self, fault: Fault) -> Provider:
        """A provider on the same VMs whose backend does that, with time-outs of a second or so."""

    async def lose(self, vm_id: str) -> None:
        """End a VM behind the provider's back: its processes die, or the backend stops or removes it."""

    def visible(self, vm_id: str) -> str:
        """What others can read of a VM from outside: its record or `inspect` output, its logs, its processes' argv and
        environment. Empty where that is nothing."""

    def leftovers(self) -> list[str]:
        """What VMs still hold here: processes, folders, groups; empty when there are none."""


class Agent:
    """Just enough of the agent's HTTP."""

    def __init__(self, session: aiohttp.ClientSession, address: VmAddress, token: str = TOKEN) -> None:
        self._session = session
        self._url = f"{'https' if address.reach.tls else 'http'}://{address.host}:{address.port}"
        self._headers = {"Authorization": f"Bearer {token}", **dict(address.reach.headers)}

    async def health(self, timeout_s: float = WAIT_S) -> int:
        """The status of GET /health."""
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        async with self._session.get(f"{self._url}/health", headers=self._headers, timeout=timeout) as response:
            await response.read()
            return response.status

    async def is_silent(self, for_s: float) -> bool:
        """Whether no request of the next `for_s` seconds reaches the agent: unanswered, refused, or answered for it by what
        stands in front of its VM."""
        until_s = time.monotonic() + for_s
        while (left_s := until_s - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError, aiohttp.ClientError):
                if await self.health(timeout_s=left_s) == 200:
                    return False
        return True

    async def start(self, script: str, *arguments: str) -> str:
        """Start a Python script as a job; returns the job's id."""
        job_id = uuid4().hex
        body: dict[str, Any] = {
            "argv": ["{python}", "-u", "-c", script, *arguments],
            "cwd": ".",
            "env": {},
            "timeout_s": None,
        }
        async with self._session.put(f"{self._url}/jobs/{job_id}", json=body, headers=self._headers) as response:
            assert response.status == 201, await response.text()
        return job_id

    async def log(self, job_id: str, *, follow: bool) -> list[str]:
        """Lines that the job wrote; with `follow`, all of them until its end."""
        url = f"{self._url}/jobs/{job_id}/log?offset=0&follow={int(follow)}"
        async with self._session.get(url, headers=self._headers) as response:
            assert response.status == 200
            lines = [json.loads(line) for line in (await response.text()).splitlines() if line]  # empty: still there
            return [line["text"] for line in lines if line["stream"] != "agent"]

    async def run(self, script: str, *arguments: str) -> tuple[dict[str, Any], list[str]]:
        """Run a script to its end: (status, lines)."""
        job_id = await self.start(script, *arguments)
        lines = await self.log(job_id, follow=True)
        async with self._session.get(f"{self._url}/jobs/{job_id}?wait_s=10", headers=self._headers) as response:
            return await response.json(), lines


def a_vm(vm_id: str | None = None, **changes: Any) -> VmSpec:
    return VmSpec(**{"vm_id": vm_id or f"vm-{uuid4().hex[:12]}", "token": TOKEN, "memory_mb": 512, **changes})


async def until(condition: Callable[[], Any], what: str) -> None:
    """Wait for a condition that nothing announces, within a bound."""
    try:
        async with asyncio.timeout(WAIT_S):
            while not condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"did not happen within {WAIT_S} s: {what}")


async def listed(provider: Provider, vm_id: str) -> VmListing | None:
    return next((vm for vm in await provider.list() if vm.vm_id == vm_id), None)
