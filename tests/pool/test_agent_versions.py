"""A pool and agents that are not of one release: they agree on a version of their wire, or the boot fails with what to do."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from services.pool.adapters.health import CLOCK_SKEW_MAX_S, AgentHealthProbe
from services.pool.adapters.simulated import SimulatedProvider
from services.pool.config import PoolConfig
from services.pool.effects import PoolEffects
from services.pool.ports import ProviderError, VmAddress, VmSpec
from services.pool.react import CleanVm, CreateVm
from services.pool.state import State
from services.pool.usage import Usages, VmUsage
from shared.agent.protocol import PROTOCOLS
from shared.agent.versions import common
from shared.commands import Command, RecordVmBooted, RecordVmBootFailed
from shared.ports import Cause
from shared.reach import Reach, agent_url
from tests.builders import VM, vm_creation_started
from tests.pool.test_decide import pool
from tests.shared.agent.world import RunningAgent, running_agent

SECRET = "5" * 64
LOOPBACK = "127.0.0.1"
HEALTH = {"vm_id": VM, "agent_version": "0", "uptime_s": 1.0, "orphan_in_s": 180.0, "files_version": 0, "jobs": {}}


@asynccontextmanager
async def answering(**more: Any) -> AsyncIterator[tuple[str, int]]:
    """Something that answers `/health` as an agent of another release does."""

    async def health(_: web.Request) -> web.Response:
        return web.json_response(
            {**HEALTH, **{key: value() if callable(value) else value for key, value in more.items()}}
        )

    app = web.Application()
    app.add_routes([web.get("/health", health)])
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, LOOPBACK, 0).start()
        yield LOOPBACK, int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


@asynccontextmanager
async def probing(protocols: tuple[int, int] = PROTOCOLS) -> AsyncIterator[AgentHealthProbe]:
    async with aiohttp.ClientSession() as session:
        yield AgentHealthProbe(session, SECRET, 10.0, protocols=protocols)


@pytest.mark.parametrize(
    ("theirs", "ours", "found"),
    [((1, 2), (1, 2), 2), ((1, 1), (1, 2), 1), ((2, 9), (1, 3), 3), ((3, 4), (1, 2), None), ((1, 1), (2, 2), None)],
)
def test_the_newest_that_both_speak(theirs: tuple[int, int], ours: tuple[int, int], found: int | None) -> None:
    assert common(theirs, ours) == common(ours, theirs) == found


async def test_an_agent_from_before_there_were_versions_will_do() -> None:
    """It does not say which it speaks, nor what its clock says, and lacks nothing that a VM on this network needs."""
    async with answering() as (host, port), probing() as probe:
        await probe.meet(VM, VmAddress(host, port))
        assert await probe(VM, host, port, Reach()) == ""


async def test_a_newer_one_that_still_speaks_ours_will_do() -> None:
    more = {"protocols": [PROTOCOLS[1], PROTOCOLS[1] + 5], "now": time.time, "of_tomorrow": {"a": 1}}
    async with answering(**more) as (host, port), probing() as probe:
        await probe.meet(VM, VmAddress(host, port))


async def test_one_that_is_too_old_needs_another_image() -> None:
    async with answering() as (host, port), probing((3, 4)) as probe:
        with pytest.raises(ProviderError) as refused:
            await probe.meet(VM, VmAddress(host, port))
        assert refused.value.code == "agent_version_unsupported"
        assert "speaks version 1" in refused.value.message
        assert "needs versions 3 to 4" in refused.value.message
        assert "deploy/workspace/build" in refused.value.message
        assert await probe(VM, host, port, Reach()) == refused.value.message  # also one that has served until now


async def test_one_that_is_too_new_needs_another_control_plane() -> None:
    async with answering(protocols=[7, 8]) as (host, port), probing() as probe:
        with pytest.raises(ProviderError, match=r"speaks versions 7 to 8.*upgrade the control plane"):
            await probe.meet(VM, VmAddress(host, port))


async def test_one_without_tunnels_is_of_no_use_where_they_are_the_only_way() -> None:
    async with answering(protocols=[1, 1]) as (host, port), probing() as probe:
        with pytest.raises(ProviderError, match="to reach servers inside the VM: rebuild the VM image"):
            await probe.meet(VM, VmAddress(host, port, Reach(tunnel=True)))


async def test_another_vm_at_the_address_is_none() -> None:
    async with answering(vm_id="vm-000099") as (host, port), probing() as probe:
        with pytest.raises(ProviderError, match="vm-000099"):
            await probe.meet(VM, VmAddress(host, port))


class Found(SimulatedProvider):
    """Its VMs are at this address."""

    address = VmAddress(LOOPBACK, 1)

    async def create(self, spec: VmSpec) -> VmAddress:
        await super().create(spec)
        return self.address


async def created(address: VmAddress, probe: AgentHealthProbe) -> list[Command]:
    """What the pool reports of a VM that its provider has made."""
    sent: list[Command] = []

    async def send(command: Command, _cause: Cause) -> bytes:
        sent.append(command)
        return b"{}"

    async def clean(vm: CleanVm) -> str:
        return ""

    async def nothing(_project_id: str = "") -> None:
        return

    provider = Found(0.0)
    provider.address = address
    state: State = pool(vm_creation_started(1)).state
    config = PoolConfig(boot_timeout_s=60)
    more = {"forget": nothing, "config": config, "secret": SECRET, "catch_up": nothing}
    effects = PoolEffects(provider, probe, clean, send, lambda: state, **more)  # type: ignore[arg-type]
    await effects.perform(CreateVm(VM), Cause(causation_id="started", actor="test"))
    return sent


async def test_a_boot_is_reported_with_how_the_vm_is_reached_or_with_why_it_is_of_no_use() -> None:
    reach = Reach(headers=(("x-instance", "a"),))
    async with answering() as (host, port):
        async with probing() as probe:
            [booted] = await created(VmAddress(host, port, reach), probe)
        assert isinstance(booted, RecordVmBooted)
        assert (booted.host, booted.port, booted.reach) == (host, port, reach)
        async with probing((3, 3)) as probe:
            [failed] = await created(VmAddress(host, port, reach), probe)
        assert isinstance(failed, RecordVmBootFailed)
        assert failed.code == "agent_version_unsupported"


async def test_a_clock_that_differs_is_noticed_and_one_that_is_set_right_forgotten(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ahead_s = [CLOCK_SKEW_MAX_S + 60]
    async with answering(now=lambda: time.time() + ahead_s[0]) as (host, port), probing() as probe:
        assert await probe(VM, host, port, Reach()) == ""  # nothing is ordered by it, so the VM is well
        assert probe.clock_skews[VM] == pytest.approx(CLOCK_SKEW_MAX_S + 60, abs=30)
        assert "clock_skew" in caplog.messages
        ahead_s[0] = 0.0
        assert await probe(VM, host, port, Reach()) == ""
        assert probe.clock_skews == {}


async def test_the_agent_of_today_tells_what_it_speaks_and_its_time(tmp_path: Path) -> None:
    agent: RunningAgent
    async with running_agent(tmp_path / "vm") as agent:
        before = time.time()
        health = await agent.client.health()
        assert health.protocols == PROTOCOLS
        assert before <= health.now <= time.time()


@pytest.mark.parametrize(
    ("host", "reach", "url"),
    [
        ("127.0.0.1", Reach(), "http://127.0.0.1:4711"),
        ("fdaa::3", Reach(tunnel=True), "http://[fdaa::3]:4711"),
        ("[fdaa::3]", Reach(), "http://[fdaa::3]:4711"),
        ("app.example", Reach(tls=True), "https://app.example:4711"),
    ],
)
def test_an_agents_address(host: str, reach: Reach, url: str) -> None:
    assert agent_url(host, 4711, reach) == url


async def test_what_an_agent_says_of_its_vm_is_heard() -> None:
    """Of two answers, the processors between them; of an older agent, which says nothing, nothing."""
    usages = Usages()
    said = iter(
        [
            {"at": 100.0, "cpu_s": 5.0, "memory_bytes": 1 << 20},
            {"at": 110.0, "cpu_s": 8.0, "memory_bytes": 2 << 20},
        ]
    )
    async with aiohttp.ClientSession() as session:
        probe = AgentHealthProbe(session, SECRET, 10.0, usages=usages)
        async with answering() as (host, port):
            assert await probe(VM, host, port, Reach()) == ""
        assert usages.since(0) == {}
        async with answering(usage=lambda: next(said)) as (host, port):
            for _ in range(2):
                assert await probe(VM, host, port, Reach()) == ""

    assert usages.since(0) == {VM: VmUsage(cpu_cores=0.3, memory_bytes=2 << 20)}
