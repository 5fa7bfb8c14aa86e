"""Everything on one machine: one start, in this process, with stand-ins for the services."""

import asyncio
import json
import os
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import psutil
import pytest

from deploy.local import logs
from deploy.local import nats as local_nats
from deploy.local.errors import LauncherError
from deploy.local.launcher import run
from deploy.local.nats import running_nats
from deploy.local.options import AlreadyRunning, RunStatus, UpOptions
from deploy.local.paths import Home
from deploy.local.ports import free_port
from deploy.local.status import read_status
from tests.deploy import standins
from tests.deploy.waiting import alive, eventually

SERVE = (sys.executable, standins.__file__, "serve")
CRASH = (sys.executable, standins.__file__, "crash")
ELSEWHERE = "postgresql://drape:hidden@127.0.0.1:1/drape"
PASSWORD = "correct-horse_battery"


def options(**changes: object) -> UpOptions:
    """Two stand-in services on a free port."""
    usual = UpOptions(port=0, services={"pool": SERVE, "gateway": SERVE}, provision=())
    return msgspec.structs.replace(usual, **changes)


@asynccontextmanager
async def running(home: Home, chosen: UpOptions) -> AsyncIterator[RunStatus]:
    """A launcher that has become ready; ended, and waited for, with the block."""
    stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(run(chosen, home, ready.set_result, stop, standins.service_status))
        await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            try:
                yield ready.result()
            finally:
                stop.set()


async def failure(home: Home, chosen: UpOptions) -> LauncherError:
    """The error that a start ends with; checks that it left nothing running."""
    with pytest.raises(LauncherError) as caught:
        await run(chosen, home, lambda _: None, asyncio.Event(), standins.service_status)
    assert os.listdir(home.run) == ["supervisor.lock"]
    return caught.value


async def test_up_starts_everything_and_down_ends_everything(home: Home) -> None:
    """The status tells true addresses and process ids while it runs; afterwards nothing is left."""
    async with running(home, options()) as status:
        file = home.run / "status.json"
        raw = json.loads(file.read_bytes())
        assert {"nats", "postgres", "pool", "gateway"} == set(status.pids) == set(raw["pids"])
        assert all(alive(pid) for pid in status.pids.values())
        assert status.pids["pool"] == int((home.run / "pool.pid").read_text())
        assert await local_nats.answers(status.nats)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        seen = json.loads(logs.tail(home.logs / "gateway.log")[0])
        assert status.gateway == f"http://127.0.0.1:{seen['DRAPE_GATEWAY_PORT']}"

    assert not any(alive(pid) for pid in status.pids.values())
    assert os.listdir(home.run) == ["supervisor.lock"]


async def test_second_up_is_refused_and_does_no_harm(home: Home) -> None:
    """The refusal carries what runs, and what runs goes on."""
    async with running(home, options()) as status:
        with pytest.raises(AlreadyRunning) as caught:
            await run(options(), home, lambda _: None, asyncio.Event(), standins.service_status)

        assert caught.value.status is not None
        assert status.gateway == caught.value.status.gateway
        assert status.pids == caught.value.status.pids
        assert all(alive(pid) for pid in status.pids.values())


async def test_crashed_service_and_server_come_back_while_it_runs(home: Home) -> None:
    """After kill -9 of a service and of NATS, the status shows new processes and the service answers again."""
    async with running(home, options()) as status:
        for name in ("pool", "nats"):
            os.kill(status.pids[name], signal.SIGKILL)

        def replaced() -> bool:
            now = read_status(home)
            return now is not None and all(
                now.pids.get(name) not in (None, status.pids[name]) for name in ("pool", "nats")
            )

        await eventually(replaced)
        await eventually(lambda: local_nats.answers(status.nats))

        async def both_answer() -> bool:
            return set(await standins.service_status(status.nats)) == {"pool", "gateway"}

        await eventually(both_answer)


async def test_taken_gateway_port_is_named_before_anything_is_started(home: Home) -> None:
    """The error names the port and how to choose another."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error = await failure(home, options(port=port))

    assert error.code == "port_taken"
    assert str(port) in error.message
    assert "--port" in error.hint
    assert not (home.logs / "nats.log").exists()


async def test_service_that_cannot_start_is_shown_with_its_own_words(home: Home) -> None:
    """A service that keeps dying fails the start at once, long before the time-out."""
    error = await failure(home, options(services={"pool": SERVE, "gateway": CRASH}, ready_timeout_s=60))

    assert error.code == "service_failed"
    assert "gateway" in error.message
    assert "no such setting" in error.message


async def test_service_that_is_never_ready_fails_the_start_by_name(home: Home) -> None:
    """After the bound the error names who is missing and nobody else."""
    mute = (sys.executable, "-S", "-c", "print('thinking', flush=True); import time; time.sleep(600)")
    error = await failure(home, options(services={"pool": SERVE, "gateway": mute}, ready_timeout_s=2.5))

    assert error.code == "services_not_ready"
    assert "gateway" in error.message
    assert "thinking" in error.message
    assert "pool" not in error.message


async def test_failed_provisioning_fails_the_start(home: Home) -> None:
    """Its exit code and last words are in the error; PostgreSQL, started beside it, does not stay."""
    error = await failure(home, options(provision=(sys.executable, "-S", "-c", "raise SystemExit('no stream')")))

    assert error.code == "provision_failed"
    assert "no stream" in error.message


@pytest.mark.parametrize(
    ("setting", "url", "code"),
    [
        ("nats_url", "nats://drape:hidden@127.0.0.1:1", "nats_unreachable"),
        ("database_url", ELSEWHERE, "postgres_unreachable"),
        ("database_url", "nonsense", "postgres_unreachable"),
    ],
)
async def test_given_server_that_does_not_answer_is_named_without_its_password(
    home: Home, setting: str, url: str, code: str
) -> None:
    """NATS_URL and DATABASE_URL are checked; the error tells which variable and address, never the password."""
    error = await failure(home, options(**{setting: url}))

    assert code == error.code
    assert setting.upper() in error.message
    assert "hidden" not in str(error)


async def test_given_nats_is_used_and_left_running(home: Home, tmp_path: Path) -> None:
    """With NATS_URL set no server of our own is started, and that one outlives us."""
    other = Home(tmp_path / "other")
    other.create()
    async with running_nats(other, PASSWORD) as server:
        async with running(home, options(nats_url=server.url)) as status:
            assert server.url == status.nats
            assert "nats" not in status.pids
        assert await local_nats.answers(server.url)


async def test_replicas_have_names_of_their_own_and_gateways_one_address(home: Home) -> None:
    """Two of each service: `pool` and `pool-1`; both gateways are given the socket that the supervisor listens on."""
    async with running(home, options(replicas=2)) as status:
        assert {"pool", "pool-1", "gateway", "gateway-1", "nats", "postgres"} == set(status.pids)
        told = [json.loads(logs.tail(home.logs / f"{name}.log")[0]) for name in ("gateway", "gateway-1")]
        assert {status.gateway} == {f"http://127.0.0.1:{each['DRAPE_GATEWAY_PORT']}" for each in told}
        for name, each in zip(("gateway", "gateway-1"), told, strict=True):
            sockets = psutil.Process(status.pids[name]).net_connections()
            inherited = [one for one in sockets if one.status == psutil.CONN_LISTEN]
            assert each["DRAPE_GATEWAY_LISTEN_FDS"] == str(inherited[0].fd)
            assert inherited[0].laddr.port == int(each["DRAPE_GATEWAY_PORT"])


async def test_stop_while_starting_leaves_nothing(home: Home) -> None:
    """Asked to stop before it is ready, the launcher ends what it had begun and returns without an error."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(run(options(), home, lambda _: None, stop, standins.service_status))
        await eventually((home.run / "nats.pid").exists)
        stop.set()
        async with asyncio.timeout(10):
            await task

    assert os.listdir(home.run) == ["supervisor.lock"]


async def test_vms_left_by_the_pool_are_ended_at_stop(home: Home) -> None:
    """A VM's process tree, stopped ones and other sessions included, does not outlive everything else."""
    code = (
        "import subprocess, sys, time;"
        "p = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(600)'], start_new_session=True);"
        "print(p.pid, flush=True); time.sleep(600)"
    )
    vm = await asyncio.create_subprocess_exec(
        sys.executable, "-S", "-c", code, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    assert vm.stdout is not None
    job = int(await vm.stdout.readline())
    folder = home.vms / "vm-1"
    folder.mkdir()
    created = psutil.Process(vm.pid).create_time()
    (folder / "vm.json").write_text(json.dumps({"vm_id": "vm-1", "pid": vm.pid, "created": created}))
    try:
        async with running(home, options()):
            os.kill(vm.pid, signal.SIGSTOP)
            assert alive(vm.pid)
        assert await asyncio.wait_for(vm.wait(), 5) == -signal.SIGKILL
        await eventually(lambda: not alive(job))
    finally:
        if vm.returncode is None:
            vm.kill()


def test_options_from_the_environment_and_bad_ones() -> None:
    """The command line wins over the environment; a port that is none is refused."""
    environ = {"DRAPE_GATEWAY_PORT": "9000", "NATS_URL": "nats://x:1"}

    assert UpOptions.from_env(environ=environ).port == 9000
    assert UpOptions.from_env(port=1, environ=environ).port == 1
    assert UpOptions.from_env(environ=environ).nats_url == "nats://x:1"
    for bad in ("70000", "http", "-1"):
        with pytest.raises(LauncherError, match="port"):
            UpOptions.from_env(environ={"DRAPE_GATEWAY_PORT": bad})


async def test_given_port_is_the_one_the_gateway_is_told(home: Home) -> None:
    """What was asked for with --port is what the gateway and the status say."""
    port = free_port()
    async with running(home, options(port=port)) as status:
        assert f"http://127.0.0.1:{port}" == status.gateway
