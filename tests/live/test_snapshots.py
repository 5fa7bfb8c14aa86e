"""Snapshots on real NATS: services start from them, and from nothing else where one is wrong."""

import hashlib
from collections.abc import AsyncIterator, Iterator

import aiohttp
import msgspec
import pytest

from deploy.cli.lifecycle import services_of
from deploy.doctor.replaying import DEFINITIONS
from deploy.local.options import SERVICES
from shared.codec import Recorded
from shared.fingerprint import fingerprint_of, folded_types, passed_over
from shared.jetstream.connection import bus_on
from shared.jetstream.topology import SNAPSHOTS_STREAM, SNAPSHOTS_SUBJECT
from shared.ports import Bus
from shared.snapshot import Assembly, Kept, Snapshot, SnapshotHead, SnapshotUnfit, pieces
from tests.deploy.waiting import eventually
from tests.live.client import SERVER, Client, node_project
from tests.live.conftest import running
from tests.live.platform import Platform

KEPT_WITHIN_S = 60.0
BACK_WITHIN_S = 60.0
LARGE = 40_000
"""Remembered ids: about 2 MiB compressed, so several pieces."""


@pytest.fixture(scope="module")
def keeping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform that writes its states down every few events."""
    env = {"DRAPE_SNAPSHOT_EVENTS": "4", "DRAPE_SNAPSHOT_PERIOD_S": "0.2"}
    yield from running(tmp_path_factory.mktemp("keeping") / "home", env)


@pytest.fixture
async def user(keeping: Platform) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as session:
        yield Client(keeping.gateway, session)


def fingerprint(service: str) -> str:
    definition = DEFINITIONS[service]()
    return fingerprint_of(definition.evolve, type(definition.initial()))


async def heads(bus: Bus) -> dict[str, SnapshotHead]:
    found = {name: await bus.snapshots.head(name, fingerprint(name)) for name in SERVICES}
    return {name: head for name, head in found.items() if head is not None}


async def started_from(platform: Platform) -> dict[str, int]:
    """The snapshots' sequences that the services started from; waits until all are there."""
    found: dict[str, int] = {}

    async def all_are_ready() -> bool:
        services = await services_of(platform.status.nats)
        if all(each["ready"] for each in services.values()):
            async with platform.bus() as bus:
                for name in SERVICES:
                    found[name] = msgspec.json.decode(await bus.commands.query(name, "status"))["snapshot_seq"]
        return len(found) == len(SERVICES)

    await eventually(all_are_ready, BACK_WITHIN_S)
    return found


async def check_replay(platform: Platform) -> None:
    doctor = await platform.drape("doctor", "--replay-check", "--json")
    checks = {line["check"]: line["level"] for line in doctor.lines if line.get("check", "").startswith("replay ")}
    assert checks == {f"replay {name}": "ok" for name in SERVICES}, doctor.out


async def test_a_platform_starts_from_its_snapshots_unless_they_are_wrong(keeping: Platform, user: Client) -> None:
    """After `down` and `up` every service has begun with one, and its state is what the log leads to. One that is
    garbage, of other code or of a log that was made anew is passed over, and written over."""
    view = await user.ready(node_project(SERVER), name="kept")
    await user.stop(view["preview_id"])
    async with keeping.bus() as bus:
        await eventually(lambda: _all_kept(bus), KEPT_WITHIN_S)
    keeping.down()
    keeping.up()
    begun = await started_from(keeping)
    assert all(begun.values()), begun
    await check_replay(keeping)
    user.gateway = keeping.gateway
    assert [each["name"] for each in (await user.call("GET", "/api/projects")).json["projects"]] == ["kept"]

    with keeping.supervisor_paused():
        for name in ("pool", "orchestrator", "gateway"):
            keeping.kill(name)
        await _spoil(keeping)
    begun = await started_from(keeping)
    assert [begun[name] for name in ("pool", "orchestrator", "gateway")] == [0, 0, 0]
    await check_replay(keeping)
    async with keeping.bus() as bus:
        await eventually(lambda: _all_kept(bus), KEPT_WITHIN_S)


async def _all_kept(bus: Bus) -> bool:
    log_id = await bus.snapshots.log_id()
    try:
        found = await heads(bus)
    except SnapshotUnfit:
        return False
    return len([head for head in found.values() if head.log == log_id]) == len(SERVICES)


async def _spoil(platform: Platform) -> None:
    """The pool's is garbage, the orchestrator's is of other code, the gateway's of another log."""
    for name, changes in (("orchestrator", {"fingerprint": "other"}), ("gateway", {"log": "made anew"})):
        async with platform.connected(name) as client:
            key = f"{SNAPSHOTS_SUBJECT}.{name}.{fingerprint(name)}"
            stored = await client.jetstream().get_last_msg(SNAPSHOTS_STREAM, key, direct=True)
            entry = msgspec.json.decode(stored.data or b"")
            entry["head"] |= changes
            await client.jetstream().publish(key, msgspec.json.encode(entry))
    async with platform.connected("pool") as client:
        await client.jetstream().publish(f"{SNAPSHOTS_SUBJECT}.pool.{fingerprint('pool')}", b"{ this is no snapshot")


def large(seq: int) -> Snapshot:
    """One that does not fit into one value, whatever is done to it."""
    ids = {hashlib.sha256(f"{seq}-{n}".encode()).hexdigest(): n for n in range(LARGE)}
    kept = Kept(DEFINITIONS["pool"]().initial(), seq, "e", ({}, {}), ({}, ids))
    assembly = Assembly(kept)
    for name, part in pieces(kept):
        assembly.add(name, part)
    return assembly.snapshot(service="pool", fingerprint="large", log="made", at=1.0)


async def test_a_large_state_lies_in_pieces(platform: Platform) -> None:
    """Each new one beside the last; an older one changes nothing; one that lacks a piece, or holds another, is known."""
    async with platform.connected("pool") as client:
        js, snapshots = client.jetstream(), bus_on(client, "live").snapshots
        key = f"{SNAPSHOTS_SUBJECT}.pool.large"
        for seq in (10, 20, 30):
            assert await snapshots.store(large(seq))
            assert await snapshots.load("pool", "large") == large(seq)
        assert not await snapshots.store(large(25))
        assert await snapshots.load("pool", "large") == large(30)
        assert await snapshots.load("pool", "unknown") is None
        await js.publish(f"{key}.live-0.1", b"another piece")
        with pytest.raises(SnapshotUnfit):
            await snapshots.load("pool", "large")
        entry = {"type": "Snapshot", "head": large(30).head, "place": "nowhere", "parts": 2}
        await js.publish(key, msgspec.json.encode(entry))
        with pytest.raises(SnapshotUnfit, match="is missing"):
            await snapshots.load("pool", "large")
        assert await snapshots.store(large(30), over_any=True)
        assert await snapshots.load("pool", "large") == large(30)


async def test_the_bulk_reader_gives_what_the_log_holds(platform: Platform) -> None:
    """The same events as in batches; or of a fold's aggregates only, with the content that it names, and the last one. From
    anywhere, to anywhere."""
    async with platform.bus() as bus:
        events = [each async for each in bus.log.read()]
        last = events[-1].seq
        for after, until in ((0, last), (last // 2, last), (last // 3, last - 1), (last, last)):
            found: list[Recorded] = []
            await bus.log.replay(after, until, None, found.append)
            assert found == events[after:until]
        few: list[Recorded] = []
        types = folded_types(DEFINITIONS["telemetry"]().evolve)
        await bus.log.replay(0, last, types, few.append)
        assert [each for each in few if each.event is not None] == [each for each in events if each.type in types]
        passed = passed_over(types)
        assert [(each.seq, each.key, each.type, each.meta.id, each.meta.rev) for each in few] == [
            (each.seq, each.key, each.type, each.meta.id, each.meta.rev)
            for each in events
            if each.type not in passed or each.seq == last
        ]
        assert (await bus.log.last_seq()) >= last  # the connection serves on
