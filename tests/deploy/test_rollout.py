"""A rollout by the supervisor, with stand-ins for the services: one process at a time, and none lost when it fails."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from deploy.local import logs, records
from deploy.local.errors import LauncherError
from deploy.local.options import RunStatus, UpOptions
from deploy.local.paths import Home
from deploy.local.rollout import Request, ask, checked_services, service_of
from deploy.local.status import read_status
from tests.deploy import standins
from tests.deploy.test_launcher import running
from tests.deploy.waiting import alive, eventually

SERVE = (sys.executable, standins.__file__, "serve")
SERVE_OR_CRASH = (sys.executable, standins.__file__, "serve_or_crash")

Json = dict[str, Any]


def options(**changes: object) -> UpOptions:
    """Two of each of two stand-ins."""
    usual = UpOptions(port=0, replicas=2, services={"pool": SERVE, "gateway": SERVE}, provision=())
    return msgspec.structs.replace(usual, **changes)


async def asked(home: Home, *services: str, request_id: str = "r1") -> list[Json]:
    """All that is told of a rollout."""
    async with asyncio.timeout(60):
        return [line async for line in ask(home, Request(request_id, services))]


def pids(home: Home) -> dict[str, int]:
    """The processes that the status names now."""
    status = read_status(home)
    assert isinstance(status, RunStatus)
    return status.pids


async def test_each_process_is_replaced_after_its_successor_serves(home: Home) -> None:
    """The steps come in order, one process after another; then all of that service are new, and no other."""
    async with running(home, options()) as status:
        lines = await asked(home, "pool")
        steps = [(line["process"], line["state"]) for line in lines[:-1]]
        assert steps == [(name, state) for name in ("pool", "pool-1") for state in ("starting", "draining", "done")]
        assert lines[-1]["processes"] == ["pool", "pool-1"]
        after = pids(home)
        assert {name for name in after if after[name] != status.pids[name]} == {"pool", "pool-1"}
        assert not alive(status.pids["pool"])
        assert all(alive(pid) for pid in after.values())
        assert after["pool"] == int((home.run / "pool.pid").read_text())

    assert not any(alive(pid) for pid in after.values())
    assert os.listdir(home.run) == ["supervisor.lock"]


async def test_the_gateways_of_a_rollout_have_the_same_socket(home: Home) -> None:
    """The address stays: the new process listens where the old one did."""
    async with running(home, options(replicas=1)) as status:
        await asked(home, "gateway")
        sockets = psutil.Process(pids(home)["gateway"]).net_connections()
        (listening,) = [each for each in sockets if each.status == psutil.CONN_LISTEN]
        assert status.gateway == f"http://127.0.0.1:{listening.laddr.port}"
        told = json.loads(logs.tail(home.logs / "gateway.log")[-1])
        assert told["DRAPE_GATEWAY_LISTEN_FDS"] == str(listening.fd)


async def test_a_new_process_that_does_not_come_up_leaves_the_old_one(home: Home, tmp_path: Path) -> None:
    """The error has its words; nothing else is touched, and once it is mended the next rollout works."""
    broken = tmp_path / "broken"
    services = {"pool": (*SERVE_OR_CRASH, str(broken)), "gateway": SERVE}
    async with running(home, options(services=services)) as status:
        broken.touch()
        lines = await asked(home, "pool", "gateway")
        assert [line["type"] for line in lines] == ["rollout_step", "error"]
        assert lines[-1]["code"] == "service_failed"
        assert "no such setting" in lines[-1]["detail"]
        assert pids(home) == status.pids
        assert all(alive(pid) for pid in status.pids.values())
        broken.unlink()
        lines = await asked(home, "pool", request_id="r2")
        assert lines[-1]["processes"] == ["pool", "pool-1"]


async def test_rollouts_that_are_asked_for_at_once_come_one_after_another(home: Home) -> None:
    """Neither is lost, and no process is replaced by both at a time."""
    async with running(home, options(replicas=1)):
        first, second = await asyncio.gather(asked(home, "pool", request_id="a"), asked(home, "pool", request_id="b"))
        assert [line["type"] for line in (first[-1], second[-1])] == ["rollout", "rollout"]
        assert first[-2]["pid"] != second[-2]["pid"]


async def test_down_in_the_middle_of_a_rollout_leaves_nothing(home: Home) -> None:
    """Old and new are both ended, and whoever waits for the rollout is told."""
    seen: set[int] = set()
    async with running(home, options()):
        rollout = asyncio.create_task(asked(home, "pool", "gateway"))
        await eventually(lambda: len({process.pid for process in records.marked(home)}) > 6)
        seen |= {process.pid for process in records.marked(home)}
    assert not any(alive(pid) for pid in seen)
    with pytest.raises(LauncherError, match="during the rollout"):
        await rollout


async def test_where_nothing_runs_it_says_how_to_start(home: Home) -> None:
    with pytest.raises(LauncherError) as caught:
        await asked(home, "pool")
    assert (caught.value.code, "drape up" in caught.value.hint) == ("not_running", True)


def test_names_of_services_and_processes() -> None:
    assert checked_services(()) == ("pool", "orchestrator", "gateway", "telemetry")
    assert checked_services(("telemetry", "pool")) == ("pool", "telemetry")
    assert [service_of(name) for name in ("pool", "pool-1", "gateway-12")] == ["pool", "pool", "gateway"]
