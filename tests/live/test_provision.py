"""`drape provision`: again and again without harm, new keys under a platform that runs, keys for a server elsewhere."""

import asyncio
import json
import os
import signal
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from deploy.local.nats import find_nats_server
from deploy.local.options import SERVICES
from deploy.nats.identities import seed_file
from deploy.nats.permissions import IDENTITIES
from tests.deploy.waiting import eventually
from tests.live.choice import CONTAINERS, kinds
from tests.live.client import Client
from tests.live.platform import Platform

BACK_WITHIN_S = 60.0


async def test_keys_are_rotated_under_a_running_platform(rough: Platform, rough_client: Client) -> None:
    """New keys, a new password in the address, new processes; what was known before opens nothing, a preview still works,
    and nothing that was printed is a secret."""
    seeds = rough.home.nats_seeds
    before = {identity: seed_file(seeds, identity).read_text() for identity in IDENTITIES}
    old, pids = rough.status.nats, {name: rough.pid(name) for name in SERVICES}
    ran = await rough.drape("provision", "--rotate", "--json")
    assert (ran.code, [line["type"] for line in ran.lines]) == (0, ["rotated", "provisioned"]), ran.out + ran.err

    after = {identity: seed_file(seeds, identity).read_text() for identity in IDENTITIES}
    assert set(before.values()) & set(after.values()) == set()
    assert rough.status.nats != old
    assert all(rough.pid(name) not in (0, pids[name]) for name in SERVICES)
    for secret in (*before.values(), *after.values(), rough.status.nats.split("@")[0]):
        assert secret not in ran.out + ran.err
    status = await rough.drape("status", "--json")
    assert status.code == 0, status.out
    # The supervisor knows the new address, too.
    replaced = await rough.drape("rollout", "--service", "telemetry", "--json")
    assert (replaced.code, replaced.last["type"]) == (0, "rollout"), replaced.out + replaced.err
    view = await rough_client.ready({"index.html": "<title>after</title>"})
    await rough_client.stop(view["preview_id"])
    # A killed server comes back with the keys that count now.
    killed = rough.kill("nats")

    async def is_back() -> bool:
        return rough.pid("nats") not in (0, killed) and (await rough.drape("status", "--json")).code == 0

    await eventually(is_back, BACK_WITHIN_S)
    view = await rough_client.ready({"index.html": "<title>again</title>"})
    await rough_client.stop(view["preview_id"])
    with_old = await Platform(rough.home.root, {"NATS_URL": old}).drape("provision", "--json")
    assert (with_old.code, with_old.last["code"]) == (1, "nats_unreachable")


async def test_a_rotation_that_fails_changes_nothing(rough: Platform, rough_client: Client) -> None:
    """The server hangs meanwhile: what was asked of it late is to read the old keys again."""
    old, seeds = rough.status.nats, {path.name: path.read_text() for path in rough.home.nats_seeds.iterdir()}
    server = rough.pid("nats")
    os.kill(server, signal.SIGSTOP)
    try:
        ran = await rough.drape("provision", "--rotate", "--json")
    finally:
        os.kill(server, signal.SIGCONT)
    assert (ran.code, ran.last["code"]) == (1, "rotation_unfinished"), ran.out + ran.err
    assert rough.status.nats == old
    assert {path.name: path.read_text() for path in rough.home.nats_seeds.iterdir()} == seeds

    async def is_well() -> bool:
        return (await rough.drape("status", "--json")).code == 0

    await eventually(is_well, BACK_WITHIN_S)
    view = await rough_client.ready({"index.html": "<title>still</title>"})
    await rough_client.stop(view["preview_id"])


async def test_provisioning_twice_changes_nothing(platform: Platform) -> None:
    """The same keys and streams; the answer is the same."""
    before = {path.name: path.read_text() for path in platform.home.nats_seeds.iterdir()}
    for _ in range(2):
        ran = await platform.drape("provision", "--json")
        assert (ran.code, ran.last) == (0, {"type": "provisioned"}), ran.out + ran.err
    assert {path.name: path.read_text() for path in platform.home.nats_seeds.iterdir()} == before


async def test_contexts_for_the_nats_command(platform: Platform, tmp_path: Path) -> None:
    """Both are written below XDG_CONFIG_HOME, hold no secret, and name files that exist."""
    own = Platform(platform.home.root, {"XDG_CONFIG_HOME": str(tmp_path)})
    ran = await own.drape("provision", "--nats-context", "--json")
    assert ran.code == 0, ran.out + ran.err
    files = [Path(line["file"]) for line in ran.lines if line["type"] == "context"]
    assert [file.name for file in files] == ["drape.json", "drape-observer.json"]
    for file in files:
        told = json.loads(file.read_text())
        assert "@" not in told["url"]
        assert Path(told["nkey"]).is_file()


async def test_keys_for_a_server_elsewhere(tmp_path: Path) -> None:
    """A new folder with private files and a block that the server takes; a second run keeps the keys, --rotate does not.
    Nothing has to run for it."""
    away = Platform(tmp_path / "home")
    folder = tmp_path / "keys"
    first = await away.drape("provision", "--out", folder, "--json")
    assert (first.code, first.last["identities"]) == (0, sorted(IDENTITIES)), first.out + first.err
    kept = {path.name: path.read_text() for path in folder.iterdir()}
    assert set(kept) == {"server-auth.conf", *(f"{identity}.nk" for identity in IDENTITIES)}
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in folder.iterdir())
    again = await away.drape("provision", "--out", folder, "--json")
    assert {path.name: path.read_text() for path in folder.iterdir()} == kept
    rotated = await away.drape("provision", "--out", folder, "--rotate", "--json")
    assert not set(kept.values()) & {path.read_text() for path in folder.iterdir()}
    printed = "".join(ran.out + ran.err for ran in (first, again, rotated))
    assert not [name for name, text in kept.items() if name.endswith(".nk") and text in printed]


@pytest.mark.parametrize("kind", kinds())
async def test_another_server_is_provisioned_with_the_written_keys(kind: str, tmp_path: Path) -> None:
    """The written block in a server's configuration, provisioning with its own key from the folder; an observer's key is
    refused by name."""
    folder = tmp_path / "keys"
    away = Platform(tmp_path / "home")
    assert (await away.drape("provision", "--out", folder)).code == 0
    async with _server_with(folder / "server-auth.conf", kind, tmp_path) as url:
        by_key = Platform(
            away.home.root,
            {"NATS_URL": url, "DRAPE_NATS_SEED_FILE": str(seed_file(folder, "provision"))},
        )
        done = await by_key.drape("provision", "--json")
        assert (done.code, done.last["type"]) == (0, "provisioned"), done.out + done.err
        wrong = Platform(away.home.root, {"NATS_URL": url, "DRAPE_NATS_SEED_FILE": str(seed_file(folder, "observer"))})
        refused = await wrong.drape("provision", "--json")
        assert (refused.code, refused.last["code"]) == (1, "nats_denied"), refused.out + refused.err


@asynccontextmanager
async def _server_with(written: Path, kind: str, folder: Path) -> AsyncIterator[str]:
    """A server that lets in whom the written block says; gives its address."""
    if kind == CONTAINERS:
        from tests.live.containers import NatsContainer

        contained = NatsContainer(files={"/etc/nats/auth.conf": written.read_bytes()})
        try:
            await asyncio.to_thread(contained.start)
            await contained.listens()
            yield contained.address
        finally:
            await asyncio.to_thread(contained.remove)
        return
    ports, config = folder / "ports", folder / "nats.conf"
    config.write_text(
        f'include "./{written.relative_to(folder)}"\nport: -1\nhost: 127.0.0.1\nports_file_dir: "{ports}"\n'
        f'jetstream {{ store_dir: "{folder / "store"}" }}\n'
    )
    ports.mkdir()
    server = await asyncio.create_subprocess_exec(
        find_nats_server(), "-c", config, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield await _address(ports)
    finally:
        server.terminate()
        await server.wait()


async def _address(ports: Path) -> str:
    """Where the server says that it listens."""
    found: list[str] = []

    def read() -> bool:
        for path in ports.glob("*.ports"):
            text = path.read_text()
            if text.strip():
                found.append(json.loads(text)["nats"][0])
        return bool(found)

    await eventually(read, 30.0)
    return found[0]
