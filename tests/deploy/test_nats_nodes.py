"""How many NATS nodes a home has, what they say of themselves, and how one that takes no writes is brought back."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import nats
import nats.errors
import pytest
from aiohttp import web
from nats.js import api

from deploy.local.errors import LauncherError
from deploy.local.nats import running_nats
from deploy.local.nats_cluster import nodes_for, start_nodes, stored_nodes
from deploy.local.nats_config import NatsOptions
from deploy.local.nats_health import Turns, health, health_of
from deploy.local.paths import Home
from tests.deploy.waiting import eventually

PASSWORD = "correct-horse_battery"
DISK_BYTES = 24 * 1024 * 1024
CHUNK_BYTES = 256 * 1024
BACK_WITHIN_S = 60.0


def test_a_new_home_has_as_many_nodes_as_asked_for(home: Home) -> None:
    """One where nothing is said; nothing but one or three."""
    assert [nodes_for(home, asked) for asked in (None, 1, 3)] == [1, 1, 3]
    with pytest.raises(LauncherError) as refused:
        nodes_for(home, 2)
    assert refused.value.code == "bad_option"


async def test_one_server_is_not_made_three(home: Home) -> None:
    """The store of a single server is left alone, with what to do; so is one from before layouts were written down."""
    servers = await start_nodes(home, PASSWORD)
    await servers.stop()
    assert stored_nodes(home) == nodes_for(home, None) == 1

    for _ in range(2):
        with pytest.raises(LauncherError, match="one NATS server") as refused:
            await start_nodes(home, PASSWORD, nodes=3)
        assert refused.value.code == "nats_layout"
        assert "--nats-nodes 1" in refused.value.hint
        (home.nats / "layout.json").unlink(missing_ok=True)


def test_a_layout_that_cannot_be_read_is_told(home: Home) -> None:
    """Not taken for a new home."""
    (home.nats / "layout.json").write_text("three")

    with pytest.raises(LauncherError) as refused:
        stored_nodes(home)
    assert refused.value.code == "nats_layout_unreadable"


class Monitor:
    """A server's monitor that says what the test wants it to."""

    def __init__(self) -> None:
        self.error = ""

    async def answer(self, _: web.Request) -> web.Response:
        if not self.error:
            return web.json_response({"status": "ok"})
        return web.json_response({"status": "unavailable", "error": self.error}, status=503)


WRITE_ERROR = "JetStream stream '$G > E' write error: write 4.blk: no space left on device"
BEHIND = "JetStream stream '$G > E' is not current"


async def test_one_node_is_restarted_at_a_time(tmp_path: Path) -> None:
    """Only what does not get well by itself; the next one once the first is well, or has had its time."""
    now = 0.0
    turns, monitors, urls, runners = Turns(lambda: now), [Monitor(), Monitor()], [], []
    for monitor in monitors:
        app = web.Application()
        app.router.add_get("/healthz", monitor.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        runners.append(runner)
        urls.append(f"http://127.0.0.1:{runner.addresses[0][1]}")

    async def stuck() -> list[bool]:
        return [await turns.stuck(f"nats-{n}", url, tmp_path) for n, url in enumerate(urls, 1)]

    try:
        assert await stuck() == [False, False]
        monitors[0].error = BEHIND
        assert await stuck() == [False, False]
        monitors[0].error = monitors[1].error = WRITE_ERROR
        assert await stuck() == [True, False]
        assert await stuck() == [True, False]
        monitors[0].error = BEHIND  # restarted, and catching up: the other one waits on
        assert await stuck() == [False, False]
        monitors[0].error = ""
        assert await stuck() == [False, True]
        monitors[0].error = WRITE_ERROR
        assert await stuck() == [False, True]
        now += 1_000  # it does not get well: the other one's turn
        assert await stuck() == [True, False]
        assert await health_of(urls) == {"nats-1": WRITE_ERROR, "nats-2": WRITE_ERROR}
    finally:
        for runner in runners:
            await runner.cleanup()
    assert await health(urls[0]) == "silent"


@pytest.fixture
def small_disk(home: Home) -> Iterator[Home]:
    """A home whose NATS has a small disk of its own."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("a file system can be mounted by root only")
    mounted = subprocess.run(
        ("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(home.nats)), capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.decode()}")
    try:
        yield home
    finally:
        subprocess.run(("umount", str(home.nats)), check=True)


async def test_nats_takes_writes_again_once_its_full_disk_has_room(small_disk: Home) -> None:
    """The disk fills up: appends fail. It gets room: the server, which would stay read-only, is started again, and what
    was acknowledged is there."""
    async with running_nats(small_disk, PASSWORD, NatsOptions(stuck_check_s=0.2)) as server:
        client = await nats.connect(server.url, reconnect_time_wait=0.05, error_cb=_quiet)
        stream = client.jetstream(timeout=2)
        await stream.add_stream(api.StreamConfig(name="KEPT", subjects=["kept.>"], discard=api.DiscardPolicy.NEW))

        async def stored() -> bool:
            try:
                await stream.publish("kept.one", os.urandom(CHUNK_BYTES))
            except (nats.errors.Error, TimeoutError):
                return False
            return True

        acknowledged = 0
        while await stored():
            acknowledged += 1
        assert acknowledged > 0
        first = server.child.pid
        assert "write error" in await health(server.monitor_url)
        # Without room a restart would not help, and is not made.
        assert server.child.exits == 0

        size = f"remount,size={4 * DISK_BYTES}"
        mount = await asyncio.create_subprocess_exec("mount", "-o", size, str(small_disk.nats))
        assert await mount.wait() == 0
        await eventually(lambda: server.child.pid not in (None, first), BACK_WITHIN_S)
        await eventually(stored, BACK_WITHIN_S)

        state = (await stream.stream_info("KEPT")).state
        assert state.messages >= acknowledged + 1
        for seq in range(1, acknowledged + 1):
            assert len((await stream.get_msg("KEPT", seq)).data or b"") == CHUNK_BYTES
        await client.close()


async def _quiet(_: Exception) -> None:
    return None
