"""A platform is copied while it runs, goes away, and comes back somewhere else, with all that it knew."""

import os
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from nats.aio.client import Client as NatsClient

from deploy.local.nats import running_nats
from deploy.local.nats_config import NatsOptions
from deploy.local.paths import Home
from deploy.travel.backups import Kept, Tell, back_up, backups_in, problems
from deploy.travel.restoring import check_empty, check_files, check_secret, put_back
from shared.codec import encode, subject_of
from shared.errors import DrapeError, Invalid, Refused
from shared.jetstream.archive import CHUNK_BYTES, ArchiveError
from shared.jetstream.connection import connect
from shared.jetstream.log import NatsEventLog
from shared.jetstream.moments import stored_at
from shared.jetstream.topology import EVENTS
from shared.ulids import new_id
from tests.builders import project_created
from tests.deploy.waiting import eventually
from tests.live.choice import kinds
from tests.live.client import SERVER, Client, node_project
from tests.live.platform import Json, Platform
from tests.live.servers import log_server
from tests.live.writing import event, meta

BACK_WITHIN_S = 120.0
EVENTS_STORED = 600
LARGE = 3 * CHUNK_BYTES
"""What is copied in more than one piece has each acknowledged."""
NAME = "nightjar"


@pytest.mark.timeout(400)
async def test_a_platform_comes_back_from_its_backup(platform: Platform, tmp_path: Path) -> None:
    """States, files, variables and sealed names are those of before; the log goes on where it ended; the preview that was
    live begins anew, for its VM is not there; figures are counted again from the same log."""
    folder = tmp_path / "backups"
    project_id, preview_id, before, last = await _used_and_copied(platform, folder)

    new = Platform(tmp_path / "new")
    secret, wrong = platform.home.secrets / "platform", tmp_path / "wrong"
    wrong.write_text("0" * 64)
    refused = await new.drape("restore", folder, "--secret", wrong, "--json")
    assert (refused.code, refused.last["code"]) == (1, "other_secret")
    restored = await new.drape("restore", folder, "--secret", secret, "--json")
    assert restored.code == 0, restored.out
    assert restored.last["streams"][EVENTS] == last
    assert platform.violations() == []
    again = await new.drape("restore", folder, "--json")
    assert (again.code, again.last["code"]) == (1, "not_empty")

    try:
        new.up()
        assert await _states(new, last, project_id) == before
        await _goes_on(new, project_id, preview_id, last)
    finally:
        new.down()


async def _used_and_copied(platform: Platform, folder: Path) -> tuple[str, str, dict[str, Json], int]:
    """A live preview of a project, then two backups; the states as of the newest backup, and its last event."""
    async with aiohttp.ClientSession() as session:
        client = Client(platform.gateway, session)
        project_id = await client.project(
            {**node_project(SERVER), "noise": random.Random(2).randbytes(LARGE)}, name=NAME
        )
        assert (await client.call("PATCH", f"/api/projects/{project_id}/env", json={"BIRD": NAME})).status == 200
        preview_id = await client.request_preview(project_id)
        assert (await client.ended(preview_id))["status"] == "ready"
        first = await platform.drape("backup", folder, "--json")
        assert first.code == 0, first.out
        assert (await client.patch(project_id, 1, {"more.txt": "more"})).status == 200
        await platform.event("FilesSynced", preview_id, after=_last(first.last))
        second = await platform.drape("backup", folder, "--json")
        streams = {each["stream"]: each for each in second.last["streams"]}
        assert streams["KV_drape_keys"]["same"]  # no key has come, so it was not copied again
        assert not streams[EVENTS]["same"]
        assert not streams["OBJ_drape_files"]["same"]
        assert {os.stat(path).st_mode & 0o777 for path in folder.rglob("*")} == {0o700, 0o600}
        secret = (platform.home.secrets / "platform").read_bytes().strip()
        assert not any(secret in path.read_bytes() for path in folder.rglob("*") if path.is_file())
        states = await _states(platform, _last(second.last), project_id)
        await client.stop(preview_id)
    return project_id, preview_id, states, _last(second.last)


def _last(backup: Json) -> int:
    [events] = [each for each in backup["streams"] if each["stream"] == EVENTS]
    return int(events["last_seq"])


async def _states(platform: Platform, seq: int, project_id: str) -> dict[str, Json]:
    """All services' states at an event, opened, with their digests, and when that was stored."""
    ran = await platform.drape("replay", "--at", str(seq), "--json")
    assert ran.code == 0, ran.out
    assert ran.last["services"]["gateway"]["state"]["projects"][project_id]["name"] == NAME
    return {"at": ran.last["at"], **ran.last["services"]}


async def _goes_on(platform: Platform, project_id: str, preview_id: str, last: int) -> None:
    ready = await platform.event("PreviewReady", preview_id, after=last, timeout_s=BACK_WITHIN_S)
    log = await platform.events()
    assert [each.seq for each in log] == list(range(1, len(log) + 1))
    assert {each.type for each in log[last : ready.seq]} >= {"VmLost", "PreviewRestarted", "VmAcquired"}
    revisions: dict[str, int] = {}
    for each in log:
        assert each.meta.rev == revisions.get(each.key, 0) + 1, each
        revisions[each.key] = each.meta.rev
    async with aiohttp.ClientSession() as session:
        client = Client(platform.gateway, session)

        async def shown() -> bool:
            return (await client.visit(preview_id, "/page")).text == "<title>live</title>/page"

        await eventually(shown, BACK_WITHIN_S)
        view = (await client.call("GET", f"/api/projects/{project_id}")).json
        assert (view["name"], view["version"], view["env"]) == (NAME, 2, ["BIRD"])
        assert (await client.patch(project_id, 2, {"again.txt": "again"})).status == 200

        async def counted() -> bool:
            figures = await client.call("GET", "/metrics/stats?days=1")
            return figures.status == 200 and figures.json["previews"]["success"] >= 1

        await eventually(counted, BACK_WITHIN_S)
    doctor = await platform.drape("doctor", "--replay-check", "--json")
    checked = {line["check"]: line["level"] for line in doctor.lines if line.get("check", "").startswith("replay ")}
    assert checked == dict.fromkeys(("replay pool", "replay orchestrator", "replay gateway", "replay telemetry"), "ok")


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[NatsClient]:
    """A NATS with the streams of a platform."""
    async with log_server(kinds()[0], tmp_path) as server:
        client = await connect(server.url, "drape-live-test")
        try:
            yield client
        finally:
            await client.close()


async def _copy(client: NatsClient, folder: Path, tell: Tell = lambda _stream, _size: None, keep: int = 2) -> Kept:
    return (await back_up(client, folder, drape="0", secret="s", now=time.time(), keep=keep, tell=tell))[0]


async def test_a_backup_that_breaks_off_is_none(client: NatsClient, tmp_path: Path) -> None:
    """Whatever breaks, those of before are there and whole; what the broken one left goes with the next; old ones go."""
    log, folder = NatsEventLog(client), tmp_path / "backups"
    with pytest.raises(Invalid) as refused:
        await _copy(client, folder)
    assert refused.value.code == "nothing_to_back_up"
    await log.append(event("mine", 1), meta(1), after=0)
    first = await _copy(client, folder)
    await log.append(event("mine", 2), meta(2), after=1)

    def full(_stream: str, _size: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(DrapeError, match="No space left"):
        await _copy(client, folder, full)
    assert [each.folder for each in backups_in(folder)] == [first.folder]
    (folder / ".unfinished-1").mkdir()  # of one that was killed
    second = await _copy(client, folder)
    assert [problems(each) for each in backups_in(folder)] == [[], []]
    third = await _copy(client, folder)

    assert [each.folder for each in backups_in(folder)] == [second.folder, third.folder]
    assert len(list(folder.iterdir())) == 2
    assert [(each.last_seq, each.same) for each in third.manifest.streams if each.stream == EVENTS] == [(2, True)]


async def test_a_backup_that_is_damaged_or_not_wanted_here(client: NatsClient, tmp_path: Path) -> None:
    """A byte that is another, a file that is gone, a log that is there already, another secret: each is said, and
    nothing is restored."""
    await NatsEventLog(client).append(event("mine", 1), meta(1), after=0)
    kept = await _copy(client, tmp_path / "backups")
    with pytest.raises(Refused) as refused:
        await check_empty(client)
    assert refused.value.code == "not_empty"
    with pytest.raises(ArchiveError) as taken:
        await put_back(client, kept, 1, lambda _stream, _size: None)
    assert taken.value.code == "archive_refused"
    check_secret(kept, "s")
    with pytest.raises(Refused) as refused:
        check_secret(kept, "another")
    assert refused.value.code == "other_secret"

    check_files(kept)
    packed = kept.folder / EVENTS / "stream.tar.s2"
    whole = packed.read_bytes()
    for damaged in (whole[:-1], bytes([whole[0] ^ 1]) + whole[1:]):
        packed.write_bytes(damaged)
        with pytest.raises(DrapeError) as broken:
            check_files(kept)
        assert broken.value.code == "backup_damaged"
    packed.unlink()
    assert problems(kept) == [f"{EVENTS}: No such file or directory"]


async def test_every_event_keeps_its_place_and_time(client: NatsClient, tmp_path: Path) -> None:
    """More than a chunk of them, into a server that has nothing: the same bytes, headers, places and times of storing."""
    log, head, noise = NatsEventLog(client), 0, random.Random(1)
    for _ in range(EVENTS_STORED):
        happened = project_created(new_id(), name=noise.randbytes(2_000).hex())
        await client.publish(subject_of(happened), encode(happened, meta(1)), headers={"Drape-Actor": "me"})

    async def all_are_there() -> bool:
        return await log.last_seq() == EVENTS_STORED

    await eventually(all_are_there, 60)
    kept = await _copy(client, tmp_path / "backups")
    assert kept.manifest.piece(EVENTS).size_bytes > 4 * CHUNK_BYTES
    home = Home(tmp_path / "other")
    home.create()
    async with running_nats(home, "password", NatsOptions(sync_always=False)) as server:
        other = await connect(server.url, "drape-live-test")
        try:
            assert (await put_back(other, kept, 1, lambda _stream, _size: None))[EVENTS] == EVENTS_STORED
            assert [each async for each in NatsEventLog(other).read()] == [each async for each in log.read()]
            assert await stored_at(other, EVENTS_STORED) == await stored_at(client, EVENTS_STORED)
            head = await NatsEventLog(other).append(event("mine", 1), meta(1), after=0)
        finally:
            await other.close()
    assert head == EVENTS_STORED + 1
