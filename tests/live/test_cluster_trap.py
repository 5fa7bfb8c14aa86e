"""The trap of R3: writers that spell one aggregate's filter in two ways get two events through. Ours spell it in one; and
were it not so, every fold would notice."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import nats.errors
import pytest
from nats.aio.client import Client

from services.gateway.app import definition
from services.gateway.config import GatewayConfig
from shared.codec import Recorded, encode, filter_of, subject_of
from shared.events import aggregate_key
from shared.jetstream.connection import bus_on
from shared.jetstream.log import WRONG_LAST_SEQUENCE, NatsEventLog
from shared.ports import WrongLastSequence
from shared.runtime import Runtime
from shared.ulids import new_id
from tests.builders import project_created
from tests.live.choice import choice
from tests.live.nodes import Cluster
from tests.live.servers import provisioned_cluster
from tests.live.writing import meta

WRITERS = 6
ROUNDS = 40
TRAP_ROUNDS_MAX = 2_000


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with the streams of a platform."""
    cluster = provisioned_cluster(choice().kind, Path(tmp_path_factory.mktemp("nodes")))
    try:
        yield cluster
    finally:
        cluster.close()


async def _ours(client: Client, project: str) -> bool:
    try:
        await NatsEventLog(client).append(project_created(project, name=new_id()), meta(1), after=0)
    except WrongLastSequence:
        return False
    return True


async def _spelled(client: Client, project: str, ending: str) -> bool:
    """An append as nobody here makes it: with the filter's last token written as `ending`."""
    event, known = project_created(project, name=new_id()), meta(1)
    headers = {
        "Nats-Msg-Id": known.id,
        "Nats-Expected-Last-Subject-Sequence": "0",
        "Nats-Expected-Last-Subject-Sequence-Subject": filter_of(aggregate_key(event)).removesuffix(">") + ending,
    }
    try:
        await client.jetstream(timeout=10).publish(subject_of(event), encode(event, known), headers=headers)
    except nats.errors.Error as error:
        assert getattr(error, "err_code", None) in WRONG_LAST_SEQUENCE, error
        return False
    return True


async def test_one_spelling_lets_one_writer_through(nodes: Cluster) -> None:
    """Writers that race for the same new aggregate through our append: one of them gets its event in, each time."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(nodes.connected()) for _ in range(WRITERS)]
        for _ in range(ROUNDS):
            project = new_id()
            assert sum(await asyncio.gather(*(_ours(client, project) for client in clients))) == 1


async def test_two_spellings_let_two_through_and_the_fold_counts_it(
    nodes: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    """With `.>` beside `.*` two writers are acknowledged, sooner or later. Every state then holds the first event, by the
    log's order, and says that there was a second one."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(nodes.connected()) for _ in range(WRITERS)]
        for _ in range(TRAP_ROUNDS_MAX):
            project = new_id()
            endings = [">*"[number % 2] for number in range(WRITERS)]
            raced = (_spelled(client, project, ending) for client, ending in zip(clients, endings, strict=True))
            if sum(await asyncio.gather(*raced)) > 1:
                break
        else:
            pytest.fail(f"the trap did not close in {TRAP_ROUNDS_MAX} rounds: this NATS may be without it")
        bus = bus_on(clients[0], "trap")
        key = f"gateway.project.{project}"
        twice: list[Recorded] = [each async for each in bus.log.read() if each.key == key]
        assert {each.meta.rev for each in twice} == {1}
        runtime = Runtime(definition(GatewayConfig()), bus, instance="trap")
        with caplog.at_level(logging.ERROR, "drape.runtime"):
            await runtime.start()
            await runtime.stop()
        counted = [each.__dict__["seq"] for each in caplog.records if each.message == "duplicate_revision"]
        assert [seq for seq in counted if seq in {each.seq for each in twice}] == [each.seq for each in twice[1:]]
        assert runtime.state.projects[project].name == twice[0].event.name  # type: ignore[union-attr]
