"""The log on a NATS that somebody else runs: a server in a container, as a team would have one beside its CI.

The image is made here, from nothing but the server's own binary; nothing is downloaded. Skips where no engine answers.
"""

import gc
import io
import tarfile
import time
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from testcontainers.core.container import DockerContainer
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

from deploy.local.nats import find_nats_server
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

docker = pytest.importorskip("docker", reason="the Docker SDK is not installed")

IMAGE = "drape-test-nats:scratch"
ENGINE_API = "1.44"
"""Docker 25 and newer."""
ENGINE_TIMEOUT_S = 5
START_TIMEOUT_S = 30
PORT = 4222
CONFIG = """
listen: 0.0.0.0:4222
jetstream { store_dir: "/data", sync_interval: always }
"""
DOCKERFILE = """
FROM scratch
COPY nats-server /nats-server
COPY nats.conf /nats.conf
EXPOSE 4222
ENTRYPOINT ["/nats-server", "-c", "/nats.conf"]
"""


def _engine() -> Any:
    """The Docker engine. Skips, with the reason, where none answers."""
    # With a version given nothing is sent yet, so that the client can be closed where nobody answers.
    engine = docker.from_env(version=ENGINE_API, timeout=ENGINE_TIMEOUT_S)
    refused = ""
    try:
        engine.ping()
    except Exception as error:
        refused = type(error).__name__
    if refused:
        engine.close()
        with warnings.catch_warnings():
            # The SDK forgets the socket that it could not connect; it is collected here, not in somebody's test.
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
        pytest.skip(f"no Docker engine answers: {refused}")
    return engine


def _context() -> io.BytesIO:
    """The build context as a tar."""
    raw = io.BytesIO()
    files = {
        "Dockerfile": (DOCKERFILE.encode(), 0o644),
        "nats.conf": (CONFIG.encode(), 0o644),
        "nats-server": (find_nats_server().read_bytes(), 0o755),
    }
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, (content, mode) in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), mode
            tar.addfile(info, io.BytesIO(content))
    raw.seek(0)
    return raw


@pytest.fixture(scope="module")
def nats_url(monkeypatch_module: pytest.MonkeyPatch) -> Iterator[str]:
    """A NATS with JetStream in a container of its own."""
    engine = _engine()
    # Its helper container would have to be downloaded; this one is removed by the block's end.
    monkeypatch_module.setattr("testcontainers.core.config.testcontainers_config.ryuk_disabled", True)
    engine.images.build(fileobj=_context(), custom_context=True, tag=IMAGE, rm=True)
    started = LogMessageWaitStrategy("Server is ready").with_startup_timeout(START_TIMEOUT_S)
    try:
        with DockerContainer(IMAGE).with_exposed_ports(PORT).waiting_for(started) as container:
            yield f"nats://{container.get_container_host_ip()}:{container.get_exposed_port(PORT)}"
    finally:
        engine.images.remove(IMAGE, force=True)
        engine.close()


@pytest.fixture(scope="module")
def monkeypatch_module() -> Iterator[pytest.MonkeyPatch]:
    """pytest's monkeypatch for a whole module."""
    with pytest.MonkeyPatch.context() as patch:
        yield patch


async def test_a_service_appends_folds_and_replays_on_a_nats_in_a_container(nats_url: str) -> None:
    """Provisioned twice without harm; commands are decided, stored and folded; replay gives the same state; a writer
    that has missed an event is refused."""
    await provision(nats_url)
    await provision(nats_url)
    client = await connect(nats_url, "drape-live-container")
    bus = bus_on(client, "live")
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
