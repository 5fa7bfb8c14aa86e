"""NATS and PostgreSQL that somebody else runs: servers in containers, as a team would have them beside its CI.

The images are made here, from nothing but the binaries that the platform ships. Skips where no engine answers.
"""

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import msgspec
import pytest

from deploy.images.servers import build
from deploy.provision import provision
from services.gateway.app import definition
from services.gateway.config import GatewayConfig
from services.gateway.state import State
from shared.codec import Meta, event_id
from shared.commands import CreateProject, RecordFiles
from shared.definition import digest, replay
from shared.events import ProjectCreated, aggregate_key
from shared.jetstream.connection import bus_on, connect
from shared.ports import WrongLastSequence
from shared.runtime import Runtime
from tests.live.choice import CONTAINERS, WANTING, choice

CHOSEN = choice()
pytestmark = pytest.mark.skipif(
    CHOSEN.kind != CONTAINERS, reason=f"no Docker {WANTING} that is to be used: {CHOSEN.reason}"
)
NAMES = {"drape-nats": "/nats-server", "drape-postgres": "/entrypoint.sh"}
DOCKER_TIMEOUT_S = 60


@pytest.fixture
async def nats_url() -> AsyncIterator[str]:
    """A NATS with JetStream in a container of its own."""
    from tests.live.containers import NatsContainer, started

    server = NatsContainer()
    try:
        await started(server)
        yield server.url
    finally:
        await asyncio.to_thread(server.remove)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_an_image_is_small_runs_as_nobody_and_is_built_once(name: str) -> None:
    """The same content has the same name, and building it again builds nothing."""
    tag = build(name)
    before = _inspect(tag)

    assert build(name) == tag
    assert _inspect(tag)["Id"] == _inspect(f"{name}:local")["Id"] == before["Id"]
    assert before["Config"]["User"] == "10001:10001"
    assert NAMES[name] in before["Config"]["Entrypoint"]
    assert before["Size"] < 80_000_000


def _inspect(image: str) -> Any:
    said = subprocess.run(
        ("docker", "image", "inspect", image), capture_output=True, check=True, timeout=DOCKER_TIMEOUT_S
    ).stdout
    return msgspec.json.decode(said)[0]


async def test_a_postgres_in_a_container_has_the_database_it_was_asked_for() -> None:
    """User, password and database come from the environment; a wrong password is refused; what was written is there after
    it was killed."""
    from tests.live.containers import PostgresContainer, started

    server = PostgresContainer("right-one")
    try:
        await started(server)
        connection = await asyncpg.connect(server.url)
        assert await connection.fetchval("SELECT current_database() || current_user") == "drapedrape"
        await connection.execute("CREATE TABLE kept AS SELECT 7 AS value")
        await connection.close()
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(server.url.replace("right-one", "wrong-one"))

        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        await server.ready()

        connection = await asyncpg.connect(server.url)
        assert await connection.fetchval("SELECT value FROM kept") == 7
        await connection.close()
    finally:
        await asyncio.to_thread(server.remove)


async def test_a_postgres_without_a_password_says_what_it_lacks() -> None:
    """It ends at once, and its last words say what to give it."""
    from tests.live.containers import PostgresContainer

    server = PostgresContainer("")
    try:
        await asyncio.to_thread(server.start)
        ended = await asyncio.to_thread(server.made.wait, timeout=DOCKER_TIMEOUT_S)
        assert ended["StatusCode"] == 1
        assert b"POSTGRES_PASSWORD" in server.made.logs()
    finally:
        await asyncio.to_thread(server.remove)


async def test_a_service_appends_folds_and_replays_on_a_nats_in_a_container(nats_url: str) -> None:
    """Provisioned twice without harm; commands are decided, stored and folded; replay gives the same state; a writer
    that has missed an event is refused."""
    await provision(nats_url)
    await provision(nats_url)
    client = await connect(nats_url, "drape-live-container")
    bus = bus_on(client, "live", "sealing-tests")
    gateway: Runtime[State] = Runtime(definition(GatewayConfig()), bus)
    try:
        await gateway.start()
        made = await gateway.execute(CreateProject(id="c1", owner="alice", name="boxed"))
        (project,) = gateway.state.projects.values()
        assert made.seq == 1
        await gateway.execute(
            RecordFiles(
                id="c2",
                project_id=project.project_id,
                owner="alice",
                base_version=0,
                manifest="m",
                files=1,
                size_bytes=1,
                changed=1,
                deleted=0,
            )
        )
        assert gateway.state.projects[project.project_id].files_version == 1
        stored = [each async for each in bus.log.read()]
        assert [each.type for each in stored] == ["ProjectCreated", "ProjectFilesChanged"]
        assert digest(replay(definition(GatewayConfig()), stored)) == digest(gateway.state)
        late = ProjectCreated(project_id=project.project_id, owner="bob", name="late")
        assert aggregate_key(late) == stored[0].key
        meta = Meta(id=event_id("c3", late), at=time.time(), rev=2, correlation_id="", causation_id="", actor="test")
        with pytest.raises(WrongLastSequence):
            await bus.log.append(late, meta, after=1)
    finally:
        await gateway.stop()
        await client.close()
