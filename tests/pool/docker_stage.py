"""A Docker engine to test VMs on: whether there is one, the image, set-ups of the provider, and engines that misbehave."""

import contextlib
import hashlib
import http.client
import io
import json
import os
import re
import socket
import subprocess
import tarfile
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import msgspec
import psutil
import pytest

from services.pool.adapters.docker import DEFAULT_URL, DockerProvider
from services.pool.adapters.docker_config import DockerConfig
from services.pool.adapters.docker_isolation import bridge_name, network_name
from shared.agent.protocol import AGENT_VERSION
from tests.pool.contract_home import FAULTS, Fault

ROOT = Path(__file__).parents[2]
IMAGE = os.environ.get("DRAPE_TEST_VM_IMAGE", f"drape-workspace:{AGENT_VERSION}")
BOOT_S = 60.0
URL = os.environ.get("DOCKER_HOST", DEFAULT_URL)


def docker(*arguments: str, text: str | None = None, timeout_s: float = 120, check: bool = True) -> str:
    """The command's output; a failure fails the test with what it said."""
    environment = {**os.environ, "DOCKER_BUILDKIT": "0"}
    done = subprocess.run(
        ["docker", *arguments],
        input=text,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=environment,
        check=False,
    )
    assert not check or done.returncode == 0, done.stderr
    return done.stdout.strip()


def engine_answers() -> bool:
    try:
        found = subprocess.run(["docker", "version"], capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return found.returncode == 0 and URL.startswith("unix://")


needs_engine = pytest.mark.skipif(not engine_answers(), reason="no Docker engine answers on a socket of this machine")


def agent_digest() -> str:
    """As `deploy/workspace/build` writes it into the image's labels."""
    sources = sorted((ROOT / "shared" / "agent").glob("*.py"), key=lambda path: path.name)
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]


def build_image() -> str:
    """The image of VMs with this tree's agent; building it anew takes a minute, with the builder's cache seconds."""
    shown = docker("image", "inspect", "--format", '{{index .Config.Labels "drape.agent.digest"}}', IMAGE, check=False)
    if shown != agent_digest():
        certificates = os.environ.get("DRAPE_IMAGE_CA", os.environ.get("SSL_CERT_FILE", ""))
        command = [str(ROOT / "deploy/workspace/build"), "--tag", IMAGE]
        command += ["--ca", certificates] if certificates else []
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return IMAGE


def hanging_image(home: str) -> str:
    """One whose agent never listens."""
    name = f"drape-test-hanging:{home}"
    docker("build", "-q", "-t", name, "-", text=f'FROM {IMAGE}\nENTRYPOINT ["/bin/sleep", "600"]\n')
    return name


def load_image(name: str, *, architecture: str, labels: dict[str, str]) -> None:
    """An image with nothing in it but what it says of itself."""
    layer = io.BytesIO()
    tarfile.open(fileobj=layer, mode="w").close()
    digest = f"sha256:{hashlib.sha256(layer.getvalue()).hexdigest()}"
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {"Labels": labels, "Cmd": ["/nothing"]},
        "rootfs": {"type": "layers", "diff_ids": [digest]},
    }
    files = {
        "config.json": json.dumps(config).encode(),
        "layer.tar": layer.getvalue(),
        "manifest.json": json.dumps([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]).encode(),
    }
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    done = subprocess.run(["docker", "load"], input=packed.getvalue(), capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


class Answers(ThreadingHTTPServer):
    """Stands before the engine. What `canned` names (a pattern of `METHOD /path`) it answers itself: (status, body), or
    None for no answer at all. The rest goes through."""

    daemon_threads = True

    def __init__(self, canned: Mapping[str, tuple[int, bytes] | None]) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.canned = canned
        self.held = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"tcp://127.0.0.1:{self.server_address[1]}"

    def stop(self) -> None:
        self.held.set()
        self.shutdown()
        self.server_close()


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        stage = cast(Answers, self.server)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        for pattern, canned in stage.canned.items():
            if re.search(pattern, f"{self.command} {self.path}"):
                if canned is None:
                    stage.held.wait(60)
                    self.close_connection = True
                else:
                    self._answer(*canned, "application/json" if canned[1][:1] in b"{[" else "text/html")
                return
        self._pass_on(body)

    do_GET = do_POST = do_DELETE = handle_any  # noqa: N815

    def _pass_on(self, body: bytes) -> None:
        connection = http.client.HTTPConnection("engine")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(URL.removeprefix("unix://"))
        with contextlib.closing(connection):
            connection.request(self.command, self.path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            self._answer(answer.status, answer.read(), answer.headers.get("Content-Type") or "text/plain")

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if status != 204:
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


FAULTY: dict[Fault, tuple[int, bytes] | None] = {
    "rate_limited": (429, b'{"message": "too many requests"}'),
    "rubbish": (200, b"<html>not an engine</html>"),
    "slow": None,
}


class DockerHome:
    """Docker providers on the engine of this machine, with VMs of their own."""

    isolated = True
    limits_memory = True
    shares_network = False
    runs_agents = True
    faults = frozenset(FAULTS)

    def __init__(self, home: str) -> None:
        self.key = home
        # Whether the network keeps VMs apart is a test of its own; here it would be tried for each case anew.
        self.config = DockerConfig(image=IMAGE, isolation="none", disk_mb=256)
        self._open: list[Answers] = []

    def provider(
        self, urls: tuple[str, ...] = (URL,), boot_timeout_s: float = BOOT_S, **changes: Any
    ) -> DockerProvider:
        config = msgspec.structs.replace(self.config, **changes)
        return DockerProvider(config, urls, home=self.key, boot_timeout_s=boot_timeout_s)

    def hanging(self) -> DockerProvider:
        return self.provider(boot_timeout_s=3.0, image=hanging_image(self.key))

    def faulty(self, fault: Fault) -> DockerProvider:
        if fault == "down":
            return self.provider(("tcp://127.0.0.1:1",), request_timeout_s=1.0)
        return self.provider((self.before({".": FAULTY[fault]}),), request_timeout_s=1.0)

    def before(self, canned: Mapping[str, tuple[int, bytes] | None]) -> str:
        """The URL of something that stands before the engine (see `Answers`)."""
        answers = Answers(canned)
        self._open.append(answers)
        return answers.url

    async def lose(self, vm_id: str) -> None:
        docker("kill", f"drape-{self.key}-{vm_id}")

    def visible(self, vm_id: str) -> str:
        name = f"drape-{self.key}-{vm_id}"
        shown = [docker("inspect", name), docker("logs", name)]
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if vm_id in " ".join(argv := process.cmdline()):
                    shown += [*argv, repr(process.environ())]
        return "\n".join(shown)

    def leftovers(self) -> list[str]:
        of_home = ("--filter", f"label=drape.home={self.key}")
        found = docker("ps", "-a", *of_home, "--format", "{{.Names}}").split()
        return found + docker("volume", "ls", "-q", *of_home).split()

    def stop(self) -> None:
        for each in self._open:
            each.stop()
        self._open.clear()


def fresh_home(label: str) -> Iterator[str]:
    """A home that nobody has, whose containers, network and rules are gone afterwards."""
    key = f"t{os.getpid()}-{label}"
    yield key
    forget(key)


def forget(key: str) -> None:
    """Remove all that a home has on this machine, also where a test failed."""
    for each in docker("ps", "-aq", "--filter", f"label=drape.home={key}").split():
        docker("rm", "-fv", each, check=False)
    docker("network", "rm", network_name(key), check=False)
    docker("rmi", "-f", f"drape-test-hanging:{key}", check=False)
    bridge = bridge_name(key)
    for chain in ("INPUT", "DOCKER-USER", "FORWARD"):
        for rule in _iptables("-S", chain).splitlines():
            if f"-i {bridge} " in rule:
                _iptables("-D", *rule.split()[1:])
    for chain in (f"DRAPE-{bridge[3:]}", f"DRAPE-{bridge[3:]}-HOST"):
        for verb in ("-F", "-X"):
            _iptables(verb, chain)


def rules_of(key: str) -> list[str]:
    """The firewall's rules and chains of a home."""
    name = bridge_name(key)[3:]
    return [line for line in _iptables("-S").splitlines() if name in line]


def _iptables(*arguments: str) -> str:
    done = subprocess.run(["iptables", "-w", "20", *arguments], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout
