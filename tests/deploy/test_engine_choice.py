"""Which servers tests use: what an engine may say, and what that comes to."""

import http.server
import platform
import shutil
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from tests.live.choice import ARCHITECTURES, without_engine

HERE = {"Os": platform.system().lower(), "Arch": ARCHITECTURES.get(platform.machine(), platform.machine())}
GOOD = {"Version": "20.10.24", "ApiVersion": "1.41", **HERE}


@contextmanager
def engine(path: Path, status: int, body: bytes) -> Iterator[None]:
    """Something on a Unix socket that answers every GET like this."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

        def address_string(self) -> str:
            return "a socket"

    with socketserver.UnixStreamServer(str(path), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def docker_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where DOCKER_HOST says that the engine is; there is a docker command."""
    path, command = tmp_path / "engine.sock", tmp_path / "bin" / "docker"
    command.parent.mkdir()
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(command.parent))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    return path


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (200, msgspec.json.encode(GOOD), ""),
        (200, msgspec.json.encode({**GOOD, "ApiVersion": "1.54"}), ""),
        (200, msgspec.json.encode({**GOOD, "ApiVersion": "1.40", "Version": "19.3"}), "too old: Docker 19.3, API 1.40"),
        (200, msgspec.json.encode({**GOOD, "Arch": "riscv64"}), "runs linux/riscv64"),
        (200, b"<html>", "no Docker engine answers"),
        (200, b"{}", "no Docker engine answers"),
        (500, b"", "answers 500"),
    ],
)
def test_an_engine_is_used_only_where_it_fits(docker_host: Path, status: int, body: bytes, reason: str) -> None:
    """Old, foreign and broken ones are named."""
    with engine(docker_host, status, body):
        said = without_engine()

    assert reason in said
    assert bool(said) == bool(reason)


def test_without_an_engine_the_reason_says_where_it_was_looked_for(docker_host: Path) -> None:
    """Nobody listens there, or there is nothing."""
    assert str(docker_host) in without_engine()


def test_an_engine_elsewhere_or_without_a_command_is_not_used(
    docker_host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ports would be another machine's; and images need the command."""
    monkeypatch.setenv("DOCKER_HOST", "tcp://192.0.2.1:2376")
    assert "over a network" in without_engine()

    monkeypatch.setenv("DOCKER_HOST", f"unix://{docker_host}")
    monkeypatch.setenv("PATH", str(docker_host))
    assert shutil.which("docker") is None
    assert "no docker command" in without_engine()
