"""Drape in the background: real supervisors, killed and ended from outside."""

import os
import signal
import socket
import sys
from collections.abc import AsyncIterator

import asyncpg
import psutil
import pytest

from deploy.local import postgres
from deploy.local.detach import down, up_detached
from deploy.local.errors import LauncherError
from deploy.local.options import AlreadyRunning, RunStatus, UpOptions
from deploy.local.paths import Home
from deploy.local.status import read_status
from tests.deploy import standins
from tests.deploy.waiting import alive, eventually

STATUS = "tests.deploy.standins:service_status"
SERVE = (sys.executable, standins.__file__, "serve")


@pytest.fixture(autouse=True)
async def ended_afterwards(home: Home) -> AsyncIterator[None]:
    """Nothing outlives its test, even one that fails half-way."""
    yield
    await down(home, timeout_s=5)


async def up(home: Home, **changes: object) -> RunStatus:
    """A background start with one stand-in service."""
    values = {"port": 0, "services": {"gateway": SERVE}, "provision": ()}
    return await up_detached(UpOptions(**{**values, **changes}), home, STATUS)  # type: ignore[arg-type]


async def test_up_in_the_background_then_down_twice(home: Home) -> None:
    """It is in a session of its own, a second start is refused, down ends all of it, and down again is harmless."""
    status = await up(home)
    try:
        assert os.getsid(status.supervisor_pid) == status.supervisor_pid
        assert status == read_status(home)
        with pytest.raises(AlreadyRunning) as caught:
            await up(home)
        assert caught.value.status is not None
        assert status.gateway == caught.value.status.gateway
    finally:
        first = await down(home)

    assert first.supervisor == "stopped"
    assert {"gateway", "nats", "postgres"} == set(first.ended)
    assert not any(alive(pid) for pid in (*status.pids.values(), status.supervisor_pid))
    assert read_status(home) is None
    second = await down(home)
    assert (second.supervisor, second.ended) == ("not_running", [])


async def test_down_where_nothing_ever_ran(home: Home) -> None:
    """An empty home, and one that does not exist, have nothing to end."""
    for place in (home, Home(home.root / "never")):
        assert (await down(place)).supervisor == "not_running"
    assert not (home.root / "never").exists()


async def test_next_up_ends_what_a_killed_supervisor_left_and_keeps_the_data(home: Home) -> None:
    """After kill -9 of the supervisor its children live on; the next start ends them politely and finds all rows."""
    first = await up(home)
    try:
        await _run(first.postgres, "CREATE TABLE kept AS SELECT 42 AS fact")
        os.kill(first.supervisor_pid, signal.SIGKILL)
        await eventually(lambda: not alive(first.supervisor_pid))
        assert all(alive(pid) for pid in first.pids.values())

        second = await up(home)

        assert not any(alive(pid) for pid in first.pids.values())
        assert all(alive(pid) for pid in second.pids.values())
        assert await _run(second.postgres, "SELECT fact FROM kept") == 42
        log = (home.logs / "postgres.log").read_text()
        assert "database system is shut down" in log
        assert "was not properly shut down" not in log
    finally:
        await down(home)


async def test_next_up_recovers_after_everything_was_killed(home: Home) -> None:
    """kill -9 of the supervisor, NATS, PostgreSQL and the services at once: the next start has the committed rows."""
    first = await up(home)
    try:
        await _run(first.postgres, "CREATE TABLE kept AS SELECT 42 AS fact")
        for pid in (first.supervisor_pid, *first.pids.values()):
            os.kill(pid, signal.SIGKILL)
        await eventually(lambda: not any(alive(pid) for pid in (first.supervisor_pid, *first.pids.values())))

        second = await up(home)

        assert await _run(second.postgres, "SELECT fact FROM kept") == 42
    finally:
        await down(home)


async def test_down_cleans_up_after_a_killed_supervisor(home: Home) -> None:
    """With the supervisor dead already, down ends its children itself."""
    status = await up(home)
    os.kill(status.supervisor_pid, signal.SIGKILL)
    await eventually(lambda: not alive(status.supervisor_pid))
    report = await down(home)

    assert report.supervisor == "not_running"
    assert {"gateway", "nats", "postgres"} == set(report.ended)
    assert {name: psutil.Process(pid) for name, pid in status.pids.items() if alive(pid)} == {}
    assert os.listdir(home.run) == ["supervisor.lock"]


async def test_down_forces_a_supervisor_that_does_not_listen(home: Home) -> None:
    """A supervisor that is stopped dead is killed after the bound, and its children are ended all the same."""
    status = await up(home)
    os.kill(status.supervisor_pid, signal.SIGSTOP)
    report = await down(home, timeout_s=0.3)

    assert report.supervisor == "killed"
    assert not any(alive(pid) for pid in (*status.pids.values(), status.supervisor_pid))


async def test_failure_in_the_background_comes_back_as_the_same_error(home: Home) -> None:
    """The one who asked sees the code, message and hint, not a traceback, and nothing is left running."""
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(LauncherError) as caught:
        await up(home, port=taken.getsockname()[1])

    assert caught.value.code == "port_taken"
    assert "--port" in caught.value.hint
    assert "Traceback" not in str(caught.value)
    assert (await down(home)).supervisor == "not_running"


async def _run(url: str, query: str) -> object:
    assert await postgres.answers(url)
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query) if query.startswith("SELECT") else await connection.execute(query)
    finally:
        await connection.close()
