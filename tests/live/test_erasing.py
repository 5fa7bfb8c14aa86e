"""The stores' own promises on real NATS: a key is made once and erased for good, and what is removed leaves the disk."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from nats.aio.client import Client as Nats

from shared.jetstream.connection import bus_on
from shared.jetstream.keys import NatsKeys
from shared.output import LogLine
from shared.seals import Erased
from shared.ulids import new_id
from tests.live.platform import Platform
from tests.live.test_erasure import holds


@pytest.fixture
async def nats(platform: Platform) -> AsyncIterator[Nats]:
    """As the gateway, which is who erases."""
    async with platform.connected("gateway") as client:
        yield client


def on_disk(platform: Platform, word: bytes) -> Callable[[], list[Path]]:
    return lambda: [path for path in platform.home.nats.rglob("*") if holds(path, word)]


async def test_a_key_is_made_once_and_erased_for_good(platform: Platform, nats: Nats) -> None:
    """No second one ever takes its place, and its bytes are overwritten."""
    keys, project_id = NatsKeys(nats), new_id()
    wrapped = f"wrapped-of-{project_id}".encode()
    assert await keys.get(project_id) is None
    assert await keys.create(project_id, wrapped)
    assert not await keys.create(project_id, b"another")
    assert await keys.get(project_id) == wrapped
    found = on_disk(platform, wrapped)
    assert found()
    for _ in range(2):
        await keys.erase(project_id)
        assert found() == []
        with pytest.raises(Erased):
            await keys.get(project_id)
        assert not await keys.create(project_id, b"another")


async def test_a_key_that_never_was_is_erased_too(nats: Nats) -> None:
    """Whoever comes late makes none."""
    keys, project_id = NatsKeys(nats), new_id()
    await keys.erase(project_id)
    assert not await keys.create(project_id, b"late")


async def test_objects_leave_the_disk(platform: Platform, nats: Nats) -> None:
    """One of many chunks and one of none; a neighbour stays."""
    bus, word = bus_on(nats, "live"), f"word-{new_id()}".encode()
    prefix = f"ann/{new_id()}/"
    await bus.objects.put(f"{prefix}large", word * 20_000)
    await bus.objects.put(f"{prefix}empty", b"")
    await bus.objects.put(f"{prefix[:-1]}0/small", b"of another project")
    found = on_disk(platform, word)
    assert found()
    assert await bus.objects.erase(prefix) == 2
    assert found() == []
    assert await bus.objects.erase(prefix) == 0
    assert await bus.objects.get(f"{prefix[:-1]}0/small") == b"of another project"
    await bus.objects.delete(f"{prefix[:-1]}0/small")


async def test_output_leaves_the_disk(platform: Platform, nats: Nats) -> None:
    """Of one preview; another's stays, in the same blocks."""
    bus, one, two = bus_on(nats, "live"), new_id(), new_id()
    async with platform.connected("orchestrator") as writer:
        for preview in (one, two, one):
            line = LogLine(at=1.0, step="install", stream="stdout", text=f"said by {preview}")
            await bus_on(writer, "live").preview_logs.append(preview, [line])
    assert on_disk(platform, one.encode())()
    assert await bus.preview_logs.erase(one) == 2
    assert await bus.preview_logs.erase(one) == 0
    assert on_disk(platform, f"said by {one}".encode())() == []
    assert len(await bus.preview_logs.read(two)) == 1
    await bus.preview_logs.erase(two)
