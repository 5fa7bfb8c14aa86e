"""`drape doctor` on a platform that is well, and on one in which something is wrong: it says what, and what to do.

The last test leaves the platform dead: what its agents do without a control plane.
"""

import os
import signal
from collections.abc import Callable, Iterator

import msgspec
import pytest

from deploy.local import records
from services.pool.adapters.local import LocalConfig, LocalProvider
from services.pool.adapters.node import node_dir
from services.pool.ports import VmSpec
from services.pool.reaping import Inventory
from tests.deploy.waiting import eventually
from tests.live.conftest import running
from tests.live.platform import Json, Platform

STRANGER = "vm-900000"
ENV = {
    "DRAPE_POOL_RECONCILE_PERIOD_S": "2",
    "DRAPE_POOL_ORPHAN_GRACE_S": "3600",
    "DRAPE_POOL_HEALTH_PERIOD_S": "1",
    "DRAPE_POOL_ORPHAN_TIMEOUT_S": "12",
}
LOOKS_MAX = 20
"""Looks at a platform that gets well by itself; each takes seconds."""


@pytest.fixture(scope="module")
def doubtful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform to break. Its agents end themselves soon, and orphans are left until they say that they are old."""
    yield from running(tmp_path_factory.mktemp("doubtful") / "home", ENV)


def found(lines: list[Json]) -> dict[str, set[str]]:
    """The checks that are not well, by code."""
    codes: dict[str, set[str]] = {}
    for line in lines:
        if line["type"] == "finding" and line["level"] != "ok":
            assert line["what"], line
            codes.setdefault(line["code"], set()).add(line["check"])
    return codes


async def well(platform: Platform, unless: Callable[[list[Json]], bool] = lambda lines: False) -> list[Json]:
    """What doctor says once it finds no error."""
    for _ in range(LOOKS_MAX):
        ran = await platform.drape("doctor", "--json")
        if ran.code == 0 and not unless(ran.lines):
            return ran.lines
    raise AssertionError(f"it does not get well:\n{ran.out}\n{ran.err}")


async def test_a_platform_that_is_well_is_called_well(doubtful: Platform) -> None:
    """Every part is named, so that nothing is well by being left out."""
    lines = await well(doubtful, unless=lambda lines: "process_gone" in found(lines))
    checks = {line["check"] for line in lines if line["type"] == "finding" and line["level"] == "ok"}

    assert {"node", "disk", "processes", "storing", "reactions", "parked", "vms", "postgres", "clock"} <= checks
    assert {"service pool", "service orchestrator", "service gateway", "service telemetry"} <= checks
    assert {f"stream {name}" for name in ("DRAPE_EVENTS", "DRAPE_TIMERS", "DRAPE_LOGS", "DRAPE_PARKED")} <= checks
    assert sum(check.startswith("nats ") for check in checks) >= 2
    assert lines[-1] == {"type": "doctor", "ok": True, "failed": []}


async def test_a_service_that_hangs_is_an_error_that_names_its_process(doubtful: Platform) -> None:
    """It runs, holds its connections, and answers nobody."""
    pid = doubtful.pid("orchestrator")
    os.kill(pid, signal.SIGSTOP)
    try:
        ran = await doubtful.drape("doctor", "--json")
    finally:
        os.kill(pid, signal.SIGCONT)
    codes = found(ran.lines)

    assert ran.code == 1, ran.out
    assert "Traceback" not in ran.err
    assert codes["process_stopped"] == {"processes"}
    assert codes["service_silent"] == {"service orchestrator"}
    assert codes["replica_hung"] == {"replica orchestrator"}
    hung = next(line for line in ran.lines if line.get("code") == "replica_hung")
    assert f"kill -CONT {pid}" in hung["what_to_do"]
    assert not {"service pool", "service gateway"} & set(ran.last["failed"])
    await well(doubtful)


async def test_an_orphan_is_told_and_then_reaped(doubtful: Platform) -> None:
    """A VM that the log has never heard of: seen while it is young, gone once it is not."""
    provider = _provider(doubtful)
    try:
        await provider.create(_spec(STRANGER))
        ran = await doubtful.drape("doctor", "--json")
        assert found(ran.lines)["vm_orphaned"] == {"vms"}
        assert STRANGER in next(line["what"] for line in ran.lines if line.get("code") == "vm_orphaned")
        assert doubtful.vm_processes(STRANGER) != []

        record = doubtful.home.vms / STRANGER / "vm.json"
        aged = {**doubtful.vm(STRANGER), "created": 1.0}
        records.write_private(record, msgspec.json.encode(aged))
        await eventually(lambda: not record.exists(), 60)
        lines = await well(doubtful, unless=lambda lines: "vm_orphaned" in found(lines))
        assert "vm_process_leaked" not in found(lines)
        async with doubtful.bus() as bus:
            seen = msgspec.json.decode(await bus.commands.query("pool", "inventory"), type=Inventory)
        assert seen.counters["orphan_reaped"] >= 1
        assert STRANGER not in dict(seen.provider)
    finally:
        await provider.destroy(STRANGER)
        await provider.close()


async def test_nats_that_is_gone_is_an_error_and_nothing_behind_it_is_called_well(doubtful: Platform) -> None:
    """What stands on it could not be looked at, and says so."""
    with doubtful.supervisor_paused():
        doubtful.kill("nats")
        ran = await doubtful.drape("doctor", "--replay-check", "--json")
    codes = found(ran.lines)

    assert ran.code == 1, ran.out
    assert "Traceback" not in ran.err
    assert {"nats_silent", "monitor_silent", "process_gone"} <= set(codes)
    assert codes["not_looked_at"] == {"streams", "services", "vms", "boots", "postgres", "replay"}
    well_ones = {line["check"] for line in ran.lines if line.get("level") == "ok"}
    assert not {"storing", "reactions", "vms", "postgres"} & well_ones
    await well(doubtful)


async def test_agents_without_a_control_plane_end_themselves_but_not_while_suspended(doubtful: Platform) -> None:
    """Everything of ours is killed: the VM ends with all that ran in it. One that is frozen can't be called, and stays."""
    provider = _provider(doubtful)
    try:
        await provider.create(_spec(STRANGER, orphan_timeout_s=12.0))
        await provider.suspend(STRANGER)
        await eventually(lambda: _awake(doubtful) != [], 60)
        doubtful.kill_everything()
        await eventually(lambda: _awake(doubtful) == [], 90)

        assert doubtful.vm_processes(STRANGER) != []
    finally:
        await provider.destroy(STRANGER)
        await provider.close()


def _awake(platform: Platform) -> list[str]:
    """The platform's own VMs that have processes."""
    names = (path.parent.name for path in platform.home.vms.glob("*/vm.json"))
    return [name for name in names if name != STRANGER and platform.vm_processes(name)]


def _provider(platform: Platform) -> LocalProvider:
    return LocalProvider(platform.home.vms, config=LocalConfig(node_dir=node_dir("")))


def _spec(vm_id: str, orphan_timeout_s: float = 600.0) -> VmSpec:
    return VmSpec(vm_id=vm_id, token="nobody-asks", memory_mb=512, orphan_timeout_s=orphan_timeout_s)
