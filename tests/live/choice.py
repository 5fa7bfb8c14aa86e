"""Which NATS and PostgreSQL the tests about servers run on: in containers where a Docker engine answers, else embedded.

Decided once a session. DRAPE_TEST_SERVERS=containers or embedded forces either; forced, and not there, is an error.
"""

import functools
import http.client
import os
import platform
import shutil
import socket

import msgspec
import pytest

SETTING = "DRAPE_TEST_SERVERS"
CONTAINERS = "containers"
EMBEDDED = "embedded"
AUTO = "auto"
WANTING = "engine answers"
"""In the reason of every test that is skipped for want of an engine."""
DEFAULT_HOST = "unix:///var/run/docker.sock"
TIMEOUT_S = 5.0
API_MIN = (1, 41)
"""Docker 20.10's."""
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class Choice(msgspec.Struct, frozen=True):
    """`kind`: `containers` or `embedded`; `reason`: why not the other."""

    kind: str
    reason: str


class _Version(msgspec.Struct, frozen=True, rename="pascal"):
    """What an engine says of itself."""

    version: str
    api_version: str
    os: str
    arch: str


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_S)
        try:
            self.sock.connect(self._path)
        except OSError:
            self.sock.close()
            raise


@functools.cache
def choice() -> Choice:
    """What this session uses. Raises pytest.UsageError where something is forced that is not there."""
    forced = os.environ.get(SETTING, AUTO) or AUTO
    if forced not in (CONTAINERS, EMBEDDED, AUTO):
        raise pytest.UsageError(f"{SETTING} is {forced!r}; it may be {CONTAINERS}, {EMBEDDED} or {AUTO}.")
    if forced == EMBEDDED:
        return Choice(EMBEDDED, f"{SETTING} says so")
    missing = without_engine()
    if missing and forced == CONTAINERS:
        raise pytest.UsageError(f"{SETTING} is {forced}, but {missing}. Start an engine, or unset it.")
    return Choice(EMBEDDED, missing) if missing else Choice(CONTAINERS, "an engine answers")


def kinds() -> tuple[str, ...]:
    """For the few tests that run on both."""
    return (EMBEDDED, CONTAINERS) if choice().kind == CONTAINERS else (EMBEDDED,)


def without_engine() -> str:
    """Why containers can't be used here; empty where they can."""
    host = os.environ.get("DOCKER_HOST") or DEFAULT_HOST
    scheme, _, path = host.partition("://")
    if scheme != "unix":
        return "the engine of DOCKER_HOST is reached over a network, and its ports may be another machine's"
    if shutil.which("docker") is None:
        return "there is no docker command to build the images with"
    connection = _UnixConnection(path)
    try:
        connection.request("GET", "/version")
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            return f"the engine at {host} answers {answer.status}"
        return _unfit(msgspec.json.decode(body, type=_Version))
    except (OSError, http.client.HTTPException, msgspec.MsgspecError) as error:
        return f"no Docker engine answers at {host} ({type(error).__name__})"
    finally:
        connection.close()


def _unfit(engine: _Version) -> str:
    if tuple(int(part) for part in engine.api_version.split(".")) < API_MIN:
        return f"the engine is too old: Docker {engine.version}, API {engine.api_version}"
    here = (platform.system().lower(), ARCHITECTURES.get(platform.machine(), platform.machine()))
    if (engine.os, engine.arch) != here:
        return f"the engine runs {engine.os}/{engine.arch}, and the binaries here are for {'/'.join(here)}"
    return ""
