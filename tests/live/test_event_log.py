"""The event log on a real server: appends that are tried again, and followers that are left behind."""

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from nats.aio.client import Client
from nats.js import api

from deploy.provision import provision
from shared.codec import encode, subject_of
from shared.errors import Unavailable
from shared.jetstream.following import INACTIVE_S
from shared.jetstream.log import NatsEventLog
from shared.jetstream.reading import BATCH_EVENTS
from shared.jetstream.topology import EVENTS
from shared.ports import Head, WrongLastSequence
from shared.ulids import new_id
from tests.deploy.waiting import eventually
from tests.live.choice import kinds
from tests.live.servers import LogServer, connected, log_server
from tests.live.writing import event, meta

ANSWERS = 5
"""Messages beside the events: the end of a batch, and what the stream's last sequence was asked for."""


@pytest.fixture(params=kinds())
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[LogServer]:
    """A server with the streams of a platform: each test runs on both kinds, where there are both."""
    async with log_server(request.param, tmp_path) as server:
        yield server


async def test_an_append_that_was_stored_unheard_is_no_conflict(server: LogServer) -> None:
    """Sent again under its id, it gets its first sequence, also when others have appended since; another writer's event in
    its place is a conflict, and nothing is stored twice."""
    async with connected(server) as client:
        log, project, other = NatsEventLog(client), new_id(), new_id()
        created, changed = meta(1), meta(2)
        first = await log.append(event(project, 1), created, after=0)
        await log.append(event(other, 1), meta(1), after=0)
        second = await log.append(event(project, 2), changed, after=first)

        assert await log.append(event(project, 1), created, after=0) == first
        assert await log.append(event(project, 2), changed, after=first) == second
        for after in (0, first):
            with pytest.raises(WrongLastSequence):
                await log.append(event(project, 2), meta(2), after=after)
        assert await log.head(f"gateway.project.{project}") == Head(second, 2)
        assert await log.last_seq() == second == 3


async def test_an_append_fails_at_once_where_the_only_server_is_away(server: LogServer) -> None:
    """No waiting for what does not come: the caller hears that the log is away, and may come again."""
    async with connected(server) as client:
        log = NatsEventLog(client)
        await server.stop()
        await eventually(lambda: not client.is_connected)
        with pytest.raises(Unavailable) as refused:
            await log.append(event(new_id(), 1), meta(1), after=0)

    assert refused.value.code == "log_unavailable"


async def test_a_follower_that_only_hears_heartbeats_is_made_anew(server: LogServer) -> None:
    """A consumer that lives and delivers nothing (here: one that is paused) is replaced, nothing is missed or told twice,
    and the server forgets the old one."""
    async with connected(server) as client:
        js, log, project, followed = client.jetstream(timeout=5), NatsEventLog(client, check_s=0.3), new_id(), []
        head = await log.append(event(project, 1), meta(1), after=0)
        follower = await log.follow(0, lambda recorded: followed.append(recorded.seq), lambda _: None)
        await eventually(lambda: followed == [1])
        [stalled] = await _followers(js)
        await js.pause_consumer(EVENTS, stalled.name, pause_until=(datetime.now(UTC) + timedelta(hours=1)).isoformat())

        for rev in range(2, 6):
            head = await log.append(event(project, rev), meta(rev), after=head)
        await eventually(lambda: followed == [1, 2, 3, 4, 5], 30)

        async def forgotten() -> bool:
            return stalled.name not in {each.name for each in await _followers(js)}

        await eventually(forgotten, 10 * INACTIVE_S)
        assert len(await _followers(js)) == 1
        assert followed == [1, 2, 3, 4, 5]
        await follower.stop()


async def test_a_follower_that_has_everything_is_left_alone(server: LogServer) -> None:
    """Silence is not standing still: while nothing is appended the consumer stays the same."""
    async with connected(server) as client:
        js, log, followed = client.jetstream(timeout=5), NatsEventLog(client, check_s=0.05), []
        follower = await log.follow(0, lambda recorded: followed.append(recorded.seq), lambda _: None)
        head = 0
        for rev in range(1, 4):
            head = await log.append(event("quiet", rev), meta(rev), after=head)
        await eventually(lambda: len(followed) == 3)
        [before] = await _followers(js)
        began = time.monotonic()
        await eventually(lambda: time.monotonic() - began > 0.5)

        assert [each.name for each in await _followers(js)] == [before.name]
        await follower.stop()


async def test_a_reader_gets_what_it_asks_for_and_no_more(server: LogServer) -> None:
    """However long the log is: a stretch of it comes whole and in order, in batches that are asked for one by one, also
    for several readers of one connection; nothing is left on the server."""
    stored = BATCH_EVENTS * 4
    async with connected(server) as client:
        js, log = client.jetstream(timeout=5), NatsEventLog(client)
        await _store(client, stored)

        before = client.stats["in_msgs"]
        assert [each.seq async for each in log.read(700, 710)] == list(range(701, 711))
        assert client.stats["in_msgs"] - before <= 10 + ANSWERS
        before = client.stats["in_msgs"]
        reader = log.read(0, stored)
        first = await anext(reader)
        assert (first.seq, first.meta.rev, first.event) == (1, 1, event("long", 1))
        assert client.stats["in_msgs"] - before <= BATCH_EVENTS + ANSWERS

        other = [each async for each in log.read(BATCH_EVENTS - 1)]
        whole = [first, *[each async for each in reader]]
        assert [each.seq for each in whole] == list(range(1, stored + 1))
        assert [each.meta.rev for each in whole] == [each.seq for each in whole]
        assert other == whole[BATCH_EVENTS - 1 :]
        assert [each async for each in log.read(stored)] == []
        assert await _followers(js) == []


async def test_a_reader_outlives_its_server(server: LogServer) -> None:
    """What a reader still lacks when its server dies comes from the one that is started in its place."""
    stored = BATCH_EVENTS + 10
    async with connected(server) as client:
        log = NatsEventLog(client)
        await _store(client, stored)
        reader = log.read(0, stored)
        seqs = [(await anext(reader)).seq for _ in range(BATCH_EVENTS)]
        await server.die()
        await eventually(lambda: not client.is_connected)
        seqs += [each.seq async for each in reader]
    assert seqs == list(range(1, stored + 1))


async def _store(client: Client, count: int) -> None:
    """So many events of one project, without waiting for each."""
    js = client.jetstream(timeout=5)
    for rev in range(1, count + 1):
        happened = event("long", rev)
        await client.publish(subject_of(happened), encode(happened, meta(rev)))

    async def all_are_there() -> bool:
        return bool((await js.stream_info(EVENTS)).state.last_seq == count)

    await eventually(all_are_there, 60)


async def _followers(js: object) -> list[api.ConsumerInfo]:
    found: list[api.ConsumerInfo] = await js.consumers_info(EVENTS)  # type: ignore[attr-defined]
    return [each for each in found if each.config is not None and each.config.durable_name is None]


async def test_streams_that_were_compressed_are_no_longer(server: LogServer) -> None:
    """Provisioning anew changes a stream of an earlier version; what is in it can still be read."""
    async with connected(server) as client:
        js, log = client.jetstream(timeout=5), NatsEventLog(client)
        stored = (await js.stream_info(EVENTS)).config
        await js.update_stream(stored, compression=api.StoreCompression.S2)
        await log.append(event("kept", 1), meta(1), after=0)

        await provision(server.url)

        assert (await js.stream_info(EVENTS)).config.compression in (None, api.StoreCompression.NONE)
        assert [each.seq async for each in log.read()] == [1]
