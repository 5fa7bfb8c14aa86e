"""Three NATS nodes: one dies, is cut off, loses its disk, is restarted; what was acknowledged is there once, in order."""

import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from nats.aio.client import Client
from nats.js.api import ClusterInfo

from shared.errors import Unavailable
from shared.jetstream.keys import NatsKeys
from shared.jetstream.log import NatsEventLog
from shared.jetstream.topology import EVENTS, FILES_BUCKET, KEYS, LOGS, PARKED, TIMERS, reactor_name
from shared.ports import EventLog
from shared.ulids import new_id
from tests.deploy.waiting import eventually
from tests.live.choice import choice, kinds
from tests.live.nodes import HEALTHY_TIMEOUT_S, SIZE, Cluster
from tests.live.servers import provisioned_cluster
from tests.live.writing import Writers, event, meta

WRITERS = 4


BOTH = ("test_everything_is_on_three_nodes", "test_the_leader_dies")
"""Tests that run on processes and on containers, where there are both; the others run on the session's kind."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Which clusters a test runs on."""
    if "nodes" in metafunc.fixturenames:
        on = kinds() if metafunc.function.__name__ in BOTH else (choice().kind,)
        metafunc.parametrize("nodes", on, indirect=True, scope="module")


@pytest.fixture(scope="module")
def nodes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with the streams of a platform."""
    cluster = provisioned_cluster(request.param, Path(tmp_path_factory.mktemp("nodes")))
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
async def client(nodes: Cluster) -> AsyncIterator[Client]:
    """Connected to whichever node answers."""
    async with nodes.connected() as client:
        yield client


@asynccontextmanager
async def writers(nodes: Cluster) -> AsyncIterator[Writers]:
    """Writers with a connection each, writing throughout the block; checked afterwards, with all three stores."""
    async with AsyncExitStack() as stack:
        logs: list[EventLog] = [
            NatsEventLog(await stack.enter_async_context(nodes.connected())) for _ in range(WRITERS)
        ]
        found = Writers(logs)
        async with found.writing():
            yield found
        await nodes.settled()
        await found.check(logs[0])
        await nodes.same()


async def test_everything_is_on_three_nodes(nodes: Cluster, client: Client) -> None:
    """Streams, bucket and durable consumers have three replicas each, and blocks are not compressed."""
    js = client.jetstream(timeout=5)
    for stream in (EVENTS, TIMERS, LOGS, PARKED, f"OBJ_{FILES_BUCKET}"):
        info = await js.stream_info(stream)
        assert (info.config.num_replicas, _followers(info.cluster)) == (3, 2), stream
        assert info.config.compression in (None, "none"), stream
    consumer = await js.consumer_info(EVENTS, reactor_name("pool"))
    assert _followers(consumer.cluster) == 2


def _followers(cluster: ClusterInfo | None) -> int:
    assert cluster is not None
    return len(cluster.replicas or [])


async def test_the_leader_dies(nodes: Cluster, client: Client) -> None:
    """kill -9 of the node that leads the events, under writers: they go on with the next leader."""
    async with writers(nodes) as under_way:
        leader = await nodes.leader(client)
        nodes.end(leader)
        await under_way.go_on()
        nodes.start(leader)


async def test_a_key_is_made_while_its_leader_is_away(nodes: Cluster, client: Client) -> None:
    """Who creates a project during an election waits for it, and finds the key that an unanswered try may have made."""
    keys, project = NatsKeys(client, within_s=HEALTHY_TIMEOUT_S), new_id()
    leader = await nodes.leader(client, KEYS)
    nodes.end(leader)
    try:
        await keys.create(project, b"wrapped")

        assert await keys.get(project) == b"wrapped"
        assert not await keys.create(project, b"another")
    finally:
        nodes.start(leader)
        await nodes.settled()


async def test_a_minority_is_cut_off(nodes: Cluster, client: Client) -> None:
    """The leader alone on its side of the network acknowledges nothing; the others go on; afterwards all are the same,
    and what was refused on the one side has not become two events."""
    async with writers(nodes) as under_way:
        cut = await nodes.leader(client)
        async with nodes.connected(cut) as alone:
            answers = nodes.cut(cut)
            try:
                project = new_id()
                with pytest.raises(Unavailable) as refused:
                    await NatsEventLog(alone).append(event(project, 1), meta(1), after=0)
                assert refused.value.code == "log_unavailable"
                assert alone.is_connected or not answers
                await under_way.go_on()
                async with nodes.connected(*({1, 2, 3} - {cut})) as majority:
                    assert await nodes.leader(majority) != cut
            finally:
                nodes.mend(cut)


async def test_a_node_is_wiped(nodes: Cluster, client: Client) -> None:
    """A node that comes back with an empty disk gets everything from the others."""
    await nodes.settled()  # the two that stay have all of it
    async with writers(nodes) as under_way:
        wiped = await nodes.leader(client) % SIZE + 1
        nodes.end(wiped)
        nodes.wipe(wiped)
        await under_way.go_on()
        nodes.start(wiped)


async def test_a_rolling_restart(nodes: Cluster) -> None:
    """Each node is ended politely and started anew, the next one once that is well again: writers go on throughout."""
    async with writers(nodes) as under_way:
        for number in (1, 2, 3):
            nodes.end(number, signal.SIGTERM)
            nodes.start(number)
            await nodes.settled()
            await under_way.go_on()


async def test_every_node_tells_the_same(nodes: Cluster, client: Client) -> None:
    """Whichever node leads, each message is the same, byte for byte."""
    await nodes.settled()

    assert len({await nodes.digest(client, number) for number in (1, 2, 3)}) == 1


async def test_a_follower_lives_through_changes_of_leader(nodes: Cluster, client: Client) -> None:
    """It gets everything, while the stream's leader is stepped down again and again."""
    log, followed = NatsEventLog(client, check_s=0.5), []
    start = await log.last_seq()
    follower = await log.follow(start, lambda recorded: followed.append(recorded.seq), lambda _: None)
    try:
        async with writers(nodes) as under_way:
            for _ in range(3):
                await client.request(f"$JS.API.STREAM.LEADER.STEPDOWN.{EVENTS}", b"", timeout=10)
                await under_way.go_on()
        last = await log.last_seq()
        await eventually(lambda: len(followed) >= last - start, HEALTHY_TIMEOUT_S)
        assert followed == list(range(start + 1, last + 1))
    finally:
        await follower.stop()
