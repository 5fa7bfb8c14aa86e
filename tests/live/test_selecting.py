"""Reading a part of the log from a real server: what is sent, what is taken, and what an outage does to it."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
from nats.aio.client import Client

from deploy.travel.moments import begin_of, moment, state_of
from shared.codec import encode, subject_of
from shared.errors import Invalid, Unavailable
from shared.jetstream.log import NatsEventLog
from shared.jetstream.moments import first_since, stored_at
from shared.jetstream.selecting import BATCH_EVENTS, selected
from tests.deploy.waiting import eventually
from tests.live.choice import kinds
from tests.live.servers import LogServer, connected, log_server
from tests.live.writing import event, meta

MINE, OTHERS = "drape.evt.gateway.project.mine.>", "drape.evt.gateway.project.others.>"
CREATED = "drape.evt.gateway.project.*.ProjectCreated"
FOLLOW_WITHIN_S = 60.0
ANSWERS = 10
"""Messages beside the events: what made the consumer, and the end of each batch."""


@pytest.fixture(params=kinds())
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[LogServer]:
    async with log_server(request.param, tmp_path) as server:
        yield server


async def _store(client: Client, *counts: tuple[str, int]) -> None:
    """So many events of each project in turn, without waiting for each."""
    log, begun = NatsEventLog(client), await NatsEventLog(client).last_seq()
    total = 0
    for project, count in counts:
        for rev in range(1, count + 1):
            happened = event(project, rev)
            await client.publish(subject_of(happened), encode(happened, meta(rev)))
            total += 1

    async def all_are_there() -> bool:
        return await log.last_seq() == begun + total

    await eventually(all_are_there, 60)


async def test_only_what_is_wanted_is_sent(server: LogServer) -> None:
    """In order, whole, across batches, up to a place; of the others nothing comes over the wire."""
    mine = BATCH_EVENTS * 2 + 10
    async with connected(server) as client:
        await _store(client, ("others", 300), ("mine", mine), ("others", 50))
        before = client.stats["in_msgs"]
        found = [each async for each in selected(client, [MINE], 0, 350 + mine)]
        assert client.stats["in_msgs"] - before <= mine + ANSWERS

        assert [each.seq for each in found] == list(range(301, 301 + mine))
        assert [each.meta.rev for each in found] == list(range(1, mine + 1))
        assert found[0].event == event("mine", 1)
        assert [each.seq async for each in selected(client, [MINE], 310, 315)] == list(range(311, 316))
        assert [each.seq async for each in selected(client, [MINE], 300 + mine, 350 + mine)] == []
        both = [each.seq async for each in selected(client, [CREATED, "drape.evt.pool.vm.*.VmLost"], 0, 350 + mine)]
        assert both == [1, 301, 301 + mine]


async def test_following_outlives_the_server(server: LogServer) -> None:
    """Killed between two events: the reader has each once, in order, and what came before, during and after."""
    async with connected(server) as client:
        log, seqs = NatsEventLog(client), list[int]()
        await _store(client, ("others", 3), ("mine", 2))

        async def follow() -> None:
            async with aclosing(selected(client, [MINE], 0, None)) as found:
                async for each in found:
                    seqs.append(each.seq)

        following = asyncio.create_task(follow())
        try:
            await eventually(lambda: seqs == [4, 5], FOLLOW_WITHIN_S)
            head = await log.append(event("mine", 3), meta(3), after=5)
            await server.die()
            await eventually(lambda: not client.is_connected)
            await eventually(lambda: client.is_connected, FOLLOW_WITHIN_S)
            for rev in (4, 5):
                head = await log.append(event("mine", rev), meta(rev), after=head)
                await log.append(event(f"others-{rev}", 1), meta(1), after=0)
            await eventually(lambda: len(seqs) >= 5, FOLLOW_WITHIN_S)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    assert seqs == [4, 5, 6, 7, 9]


async def test_a_reader_that_takes_its_time_is_not_pushed(server: LogServer) -> None:
    """However much there is: no more than a batch comes before it is asked for, and nothing is lost."""
    stored = BATCH_EVENTS * 5
    async with connected(server) as client:
        await _store(client, ("mine", stored))
        before = client.stats["in_msgs"]
        async with aclosing(selected(client, [MINE], 0, None)) as reader:
            first = await anext(reader)
            await client.flush()
            assert client.stats["in_msgs"] - before <= BATCH_EVENTS + ANSWERS
            rest = [(await anext(reader)).seq for _ in range(stored - 1)]

    assert [first.seq, *rest] == list(range(1, stored + 1))


async def test_a_log_that_is_away_at_the_beginning_is_said_to_be(server: LogServer) -> None:
    """Not waited for: whoever asked hears it."""
    async with connected(server) as client:
        await server.stop()
        await eventually(lambda: not client.is_connected)
        with pytest.raises(Unavailable) as refused:
            await anext(selected(client, [MINE], 0, None))

    assert refused.value.code == "log_unavailable"


async def test_when_events_were_stored(server: LogServer) -> None:
    """The first at a time or later, by the server's clock; none where nothing is that new, or the log is empty."""
    async with connected(server) as client:
        assert await first_since(client, 0.0) is None
        await _store(client, ("mine", 2))
        second = await stored_at(client, 2)
        assert second is not None
        assert (second.seq, abs(second.at - time.time()) < 3600) == (2, True)
        await _store(client, ("others", 1))

        assert await first_since(client, second.at - 3600) == await stored_at(client, 1)
        later = await first_since(client, second.at + 0.000_001)
        assert later is not None
        assert later.seq == 3
        assert await first_since(client, second.at + 3600) is None
        assert await stored_at(client, 4) is None


async def test_moments_in_a_log(server: LogServer) -> None:
    """A state is that of all events stored before a time; what begins at a time begins with the first one stored from then
    on. Neither before the log nor in the future is there a state."""
    async with connected(server) as client:
        with pytest.raises(Invalid, match="is empty"):
            await state_of(client, moment("now", time.time()), 0, time.time())
        await _store(client, ("mine", 3))
        third = await stored_at(client, 3)
        assert third is not None
        now = third.at + 10
        at = f"@{math.floor(third.at * 1e6) / 1e6:.6f}"  # rounded up it would be later than the event

        for text, seq in (("2", 2), ("now", 3), (at, 2), ("-1s", 3)):
            assert await state_of(client, moment(text, now), 3, now) == seq, text
        for text, after in (("2", 2), ("99", 99), ("-1h", 0), ("now", 3), (at, 2)):
            assert await begin_of(client, moment(text, now), 3) == after, text
        for text, code in (
            ("0", "before_the_log"),
            ("-1h", "before_the_log"),
            ("4", "in_the_future"),
            ("2999-01-01", "in_the_future"),
        ):
            with pytest.raises(Invalid) as refused:
                await state_of(client, moment(text, now), 3, now)
            assert refused.value.code == code, text
