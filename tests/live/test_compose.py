"""compose.yaml, started: every container that can be built here, from nothing to a preview, through deaths, to nothing.

VMs are the Docker provider's where its image is there (`deploy/workspace/build` makes it), else the simulated one's, in which
no project runs.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from deploy.entry import PROBES, SERVICES
from deploy.local.ports import free_port
from services.pool.adapters import docker_vm
from tests.deploy.waiting import eventually
from tests.live.client import SERVER, Client, node_project
from tests.pool.docker_stage import rules_of

ROOT = Path(__file__).parents[2]
REPLICAS = [f"{name}-{number}" for name in SERVICES for number in (1, 2)]
UP_LIMIT_S, BUILD_LIMIT_S, DOCKER_LIMIT_S = 400, 900, 60
BACK_LIMIT_S = 90
"""Until a container that was killed is started again, has replayed and is asked by its health check."""
WORKSPACE = os.environ.get("DRAPE_WORKSPACE_IMAGE") or "drape-workspace:latest"


def _docker(*words: str, limit_s: float = DOCKER_LIMIT_S) -> str:
    done = subprocess.run(("docker", *words), capture_output=True, text=True, check=False, timeout=limit_s)
    assert done.returncode == 0, f"docker {' '.join(words)}: {done.stderr}"
    return done.stdout.strip()


def _missing() -> str:
    """Why this can't be tried here, or empty."""
    try:
        if subprocess.run(("docker", "info"), capture_output=True, check=False, timeout=DOCKER_LIMIT_S).returncode:
            return "no Docker engine answers"
    except FileNotFoundError:
        return "the docker command is not installed"
    if find_spec("shared.health") is None or not (ROOT / "deploy" / "images" / "build").exists():
        return "health, or the images of the servers, is not there yet"
    return ""


class Deployment:
    """One project of compose, apart from any other: own name, ports, subnet, secrets."""

    def __init__(self, home: Path) -> None:
        self.project = f"drape-test-{os.getpid()}"
        self.port = free_port()
        self.secrets = home / "compose"
        self.runs_projects = (
            find_spec("services.pool.adapters.docker") is not None and _docker("images", "--quiet", WORKSPACE) != ""
        )
        self._env = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("DRAPE_", "COMPOSE_", "OTEL_"))},
            "PATH": f"{_folder_of_compose()}:{os.environ['PATH']}",
            "DRAPE_HOME": str(home),
            "COMPOSE_PROJECT_NAME": self.project,
            "DRAPE_PORT": str(self.port),
            "DRAPE_EDGE_SUBNET": f"10.214.{os.getpid() % 256}.0/24",
            "DRAPE_POOL_PROVIDER": "docker" if self.runs_projects else "simulated",
            "DRAPE_WORKSPACE_IMAGE": WORKSPACE,
            # Nobody would hear it: the collector's image can't be built here.
            "OTEL_EXPORTER_OTLP_ENDPOINT": "",
            "DOCKER_BUILDKIT": "0",
            "DRAPE_BUILD_NETWORK": "host",
            **({"DRAPE_IMAGE_CA": ca} if (ca := os.environ.get("PIP_CERT", "")) else {}),
        }

    def run(self, *words: str, limit_s: float = UP_LIMIT_S) -> str:
        """`deploy/compose --local` with these words."""
        done = subprocess.run(
            (sys.executable, "-m", "deploy.composing", "--local", *words),
            cwd=ROOT,
            env=self._env,
            capture_output=True,
            text=True,
            check=False,
            timeout=limit_s,
        )
        assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}\n{self.logs()}"
        return done.stdout

    @property
    def token(self) -> str:
        return (self.secrets / "api_tokens").read_text("ascii").partition(":")[0]

    def container(self, name: str) -> str:
        return f"{self.project}-{name}"

    def inspect(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(_docker("inspect", self.container(name)))[0]
        return found

    def probe(self, name: str, probe: str) -> dict[str, Any]:
        """What this replica answers; fails where it is not 200."""
        said = _docker("exec", self.container(name), "/usr/bin/python3.11", "-P", "-m", "deploy.entry", "health", probe)
        status, _, body = said.partition(" ")
        assert status == "200"
        answer: dict[str, Any] = json.loads(body)
        return answer

    def healthy(self, name: str) -> bool:
        state = self.inspect(name)["State"]
        return bool(state["Running"] and state.get("Health", {"Status": "healthy"})["Status"] == "healthy")

    def is_back(self, name: str, pid: int) -> bool:
        """Whether another process than `pid` runs there, and is well."""
        return self.inspect(name)["State"]["Pid"] not in (0, pid) and self.healthy(name)

    def kill(self, name: str) -> None:
        """As a crash: not by the engine, which would take that for somebody's wish."""
        os.kill(self.inspect(name)["State"]["Pid"], signal.SIGKILL)

    def left(self) -> list[str]:
        """Everything of this project that is still there: compose's and the pool's."""
        found = []
        for label in (f"com.docker.compose.project={self.project}", f"{docker_vm.HOME}={self.project}"):
            for listing in (("ps", "--all"), ("network", "ls"), ("volume", "ls")):
                found += _docker(*listing, "--quiet", "--filter", f"label={label}").split()
        return found + (rules_of(self.project) if os.geteuid() == 0 else [])

    def logs(self) -> str:
        """The last lines of all containers, for a test that fails."""
        names = _docker("ps", "--all", "--format", "{{.Names}} {{.Status}}", "--filter", f"name={self.project}-")
        tails = [names]
        for line in names.splitlines():
            told = subprocess.run(
                ("docker", "logs", "--tail", "8", line.split()[0]), capture_output=True, text=True, check=False
            )
            tails.append(f"{line.split()[0]}:\n{told.stdout}{told.stderr}")
        return "\n".join(tails)


def _folder_of_compose() -> Path:
    """Where the `docker-compose` of the development dependencies is, for machines without their own."""
    found = find_spec("compose")
    return Path(found.origin).parent if found is not None and found.origin else Path(sys.executable).parent


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    if why := _missing():
        pytest.skip(why)
    started = Deployment(tmp_path_factory.mktemp("composed"))
    try:
        started.run("up", limit_s=BUILD_LIMIT_S + UP_LIMIT_S)
        yield started
    finally:
        started.run("down", "--volumes", "--timeout", "5")


@pytest.fixture
async def user(deployment: Deployment) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as session:
        yield Client(f"http://localhost:{deployment.port}", session, deployment.token)


@pytest.mark.timeout(1500)
def test_every_replica_is_ready_and_confined(deployment: Deployment) -> None:
    """Two of each answer all three probes under names of their own; none is root, may write its root or has a secret in sight."""
    # Each look is a process in a container: side by side they take as long as a few.
    with ThreadPoolExecutor(len(REPLICAS)) as threads:
        found = {probe: list(threads.map(partial(deployment.probe, probe=probe), REPLICAS)) for probe in PROBES}
    for answered in found.values():
        answers = dict(zip(REPLICAS, answered, strict=True))
        assert {name: answer["service"] for name, answer in answers.items()} == {
            name: name.rpartition("-")[0] for name in REPLICAS
        }
        assert len({answer["instance"] for answer in answers.values()}) == len(REPLICAS)
    secrets = [path.read_text("utf-8").strip() for path in deployment.secrets.iterdir()]
    for name in REPLICAS:
        told = deployment.inspect(name)
        assert told["Config"]["User"] == "10001:10001"
        assert told["HostConfig"]["ReadonlyRootfs"]
        assert told["HostConfig"]["CapDrop"] == ["ALL"]
        assert told["HostConfig"]["Memory"] > 0
        assert not any(secret in json.dumps(told) for secret in secrets)
    assert deployment.inspect("provision-1")["State"]["ExitCode"] == 0
    image = int(_docker("image", "inspect", "--format", "{{.Size}}", deployment.inspect("pool-1")["Image"]))
    assert image < 150_000_000


async def test_project_becomes_a_preview(deployment: Deployment, user: Client) -> None:
    """Through the proxy, without a token refused; a project is uploaded, its preview asked for, and shown by either gateway."""
    refused = await Client(user.gateway, user.session).call("GET", "/api/projects")
    assert refused.status == 401
    project_id = await user.project(node_project(SERVER))
    preview_id = await user.request_preview(project_id)
    try:
        shown = [(await user.preview(preview_id))["project_id"] for _ in range(4)]
        assert shown == [project_id] * 4
        if deployment.runs_projects:
            view = await user.ended(preview_id)
            assert view["status"] == "ready", view["error"]
            assert "<title>live</title>" in (await user.visit(preview_id)).text
    finally:
        await user.stop(preview_id)


async def test_deaths_are_survived(deployment: Deployment, user: Client) -> None:
    """A node of NATS and one replica of each service are killed: requests go on being answered, and all of them come back."""
    victims = ["nats-2-1", *(f"{name}-1" for name in SERVICES)]
    pids = {name: deployment.inspect(name)["State"]["Pid"] for name in victims}
    for name in victims:
        deployment.kill(name)

    project_id = await user.project(node_project(SERVER), "during")
    assert (await user.call("GET", f"/api/projects/{project_id}")).status == 200
    for name in victims:
        await eventually(partial(deployment.is_back, name, pids[name]), BACK_LIMIT_S)
    assert (await user.call("GET", f"/api/projects/{project_id}")).status == 200
    assert deployment.probe("gateway-1", "ready")["status"] == "ready"


async def test_end_is_orderly_and_leaves_nothing(deployment: Deployment) -> None:
    """SIGTERM reaches the services, which end by themselves; then no container, network, volume or VM is left."""
    await asyncio.to_thread(deployment.run, "stop")
    assert {name: deployment.inspect(name)["State"]["ExitCode"] for name in REPLICAS} == dict.fromkeys(REPLICAS, 0)
    await asyncio.to_thread(deployment.run, "down", "--volumes")
    assert deployment.left() == []
