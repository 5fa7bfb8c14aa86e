"""The embedded NATS and PostgreSQL, as real processes."""

import asyncio
import os
import re
import signal
import socket
import stat

import asyncpg
import nats
import nats.errors
import psutil
import pytest

from deploy.local import nats as local_nats
from deploy.local import postgres
from deploy.local.errors import LauncherError
from deploy.local.nats import running_nats
from deploy.local.nats_config import NatsOptions
from deploy.local.paths import Home
from deploy.local.postgres import PostgresOptions, running_postgres
from tests.deploy.waiting import alive, eventually

PASSWORD = "correct-horse_battery"


def kill(pid: int | None) -> None:
    """Ends a process the hard way."""
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


async def test_nats_answers_and_ends_with_its_block(home: Home) -> None:
    """JetStream answers at the URL; afterwards the process and its record are gone."""
    async with running_nats(home, PASSWORD) as server:
        pid = server.child.pid
        assert pid is not None
        assert await local_nats.answers(server.url)

    assert not alive(pid)
    assert os.listdir(home.run) == []


async def test_nats_refuses_a_wrong_password(home: Home) -> None:
    """Nobody on this machine gets in without the password, and the file that holds it is private."""
    async with running_nats(home, PASSWORD) as server:
        for url in (f"nats://127.0.0.1:{server.port}", f"nats://drape:wrong@127.0.0.1:{server.port}"):
            with pytest.raises((nats.errors.Error, OSError)):
                await local_nats.check_answers(url)

    assert stat.S_IMODE((home.nats / "nats.conf").stat().st_mode) == 0o600


async def test_nats_killed_comes_back_at_the_same_address_with_its_data(home: Home) -> None:
    """An acknowledged message survives kill -9, and clients need not learn a new URL."""
    async with running_nats(home, PASSWORD) as server:
        client = await nats.connect(server.url, reconnect_time_wait=0.05, error_cb=_quiet)
        stream = client.jetstream()
        await stream.add_stream(name="KEPT", subjects=["kept.>"])
        await stream.publish("kept.one", b"fact")
        first = server.child.pid
        kill(first)
        await eventually(lambda: server.child.pid not in (None, first))
        await eventually(lambda: local_nats.answers(server.url))
        await eventually(lambda: client.is_connected)

        assert (await stream.get_msg("KEPT", 1)).data == b"fact"
        await client.close()


async def test_nats_syncs_always_and_listens_on_loopback_only(home: Home) -> None:
    """The server takes the configuration that durability and privacy depend on."""
    async with running_nats(home, PASSWORD) as server:
        addresses = {c.laddr.ip for c in psutil.Process(server.child.pid).net_connections() if c.status == "LISTEN"}
        client = await nats.connect(server.url)
        limit = client.max_payload
        await client.close()

    assert {"127.0.0.1"} == addresses
    assert NatsOptions().payload_bytes_max == limit
    assert re.search(r"^\s+sync_interval: always$", (home.nats / "nats.conf").read_text(), re.MULTILINE)


async def test_nats_on_a_taken_port_is_refused_by_name(home: Home) -> None:
    """The error names the port and says what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LauncherError, match=str(port)) as caught:
            await local_nats.start_nats(home, PASSWORD, NatsOptions(port=port))

    assert caught.value.code == "port_taken"


async def test_nats_that_cannot_start_shows_its_log(home: Home) -> None:
    """A store that cannot be used ends in an error with the server's own words, and nothing is left running."""
    (home.nats / "jetstream").write_text("a file where a folder should be")

    with pytest.raises(LauncherError, match=r"storage directory|not a directory") as caught:
        await local_nats.start_nats(home, PASSWORD)

    assert caught.value.code == "nats_failed"
    assert os.listdir(home.run) == []


async def test_postgres_keeps_rows_over_kill_and_restart(home: Home) -> None:
    """A committed row survives kill -9 of the running server, and a second start after a clean end."""
    async with running_postgres(home, PASSWORD) as server:
        await _run(server.url, "CREATE TABLE kept (fact text)")
        await _run(server.url, "INSERT INTO kept VALUES ('one')")
        first = server.child.pid
        kill(first)
        await eventually(lambda: server.child.pid not in (None, first))
        await eventually(lambda: postgres.answers(server.url), timeout_s=20)
        assert await _run(server.url, "SELECT fact FROM kept") == "one"
        last = server.child.pid
        assert last is not None
    assert not alive(last)

    async with running_postgres(home, PASSWORD) as server:
        assert await _run(server.url, "SELECT fact FROM kept") == "one"


async def test_postgres_needs_the_password_and_is_not_root(home: Home) -> None:
    """Loopback only, scram, fsync on, and never as root."""
    async with running_postgres(home, "to be escaped: /@%:'") as server:
        with pytest.raises(asyncpg.InvalidPasswordError):
            await postgres.check_answers(server.url.replace(server.url.split("@")[0], "postgresql://drape:wrong"))
        process = psutil.Process(server.child.pid)
        addresses = {c.laddr.ip for c in process.net_connections("inet") if c.status == "LISTEN"}

        assert 0 not in process.uids()
        assert {"127.0.0.1"} == addresses
        assert await _run(server.url, "SHOW fsync") == "on"
        assert not await _run(server.url, "SELECT count(*) FROM pg_hba_file_rules WHERE auth_method <> 'scram-sha-256'")


async def test_postgres_starts_over_a_lock_of_a_reused_process_id(home: Home) -> None:
    """A stale postmaster.pid that names a living process of the same user, as after a container's restart, is no
    obstacle, and neither is an initdb that was broken off."""
    (home.postgres / "data.draft").mkdir()
    (home.postgres / "data.draft" / "half").write_text("")
    async with running_postgres(home, PASSWORD):
        pass
    lock = home.postgres / "data" / "postmaster.pid"
    owner = (home.postgres / "data").stat()
    bystander = await asyncio.create_subprocess_exec("sleep", "600", user=owner.st_uid if os.geteuid() == 0 else None)
    lock.write_text(f"{bystander.pid}\n{home.postgres / 'data'}\n1700000000\n5432\n\n127.0.0.1\n")
    os.chown(lock, owner.st_uid, owner.st_gid)
    try:
        async with running_postgres(home, PASSWORD) as server:
            assert await postgres.answers(server.url)
        assert alive(bystander.pid)
    finally:
        bystander.kill()
        await bystander.wait()


async def test_postgres_on_a_taken_port_is_refused_by_name(home: Home) -> None:
    """The error names the port; nothing has been started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LauncherError, match=str(port)) as caught:
            await postgres.start_postgres(home, PASSWORD, PostgresOptions(port=port))

    assert caught.value.code == "port_taken"


async def _quiet(_: Exception) -> None:
    return None


async def _run(url: str, query: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()
