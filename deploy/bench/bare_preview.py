"""What a person would do by hand: the package manager, then `npm run dev`, in a plain folder, to the first 200."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
import psutil

from deploy.cli.folder import LocalFile
from services.orchestrator.rules.detection import BASE_ENV, PORT, Detection
from services.orchestrator.rules.frameworks import FRAMEWORKS, TOOLS
from services.pool.adapters.node import node_dir
from shared.errors import DrapeError

INSTALL_TIMEOUT_S = 300.0
BOOT_TIMEOUT_S = 120.0
POLL_S = 0.01
STOP_S = 5.0
NPM_CLI = "lib/node_modules/npm/bin/npm-cli.js"


class BareRun(msgspec.Struct, frozen=True):
    """Seconds: the install, and from spawn to the first whole 200."""

    install_s: float
    boot_s: float


class BareServer(msgspec.Struct, frozen=True):
    """A dev server that answers at `url`. `folder`: the project's files, which it watches."""

    folder: Path
    url: str
    run: BareRun


async def run_bare(files: dict[str, LocalFile], found: Detection, cache: Path) -> BareRun:
    """One run in a fresh folder. `cache`: npm's, as empty or full as the caller wants it."""
    async with bare_server(files, found, cache) as server:
        return server.run


@asynccontextmanager
async def bare_server(files: dict[str, LocalFile], found: Detection, cache: Path) -> AsyncIterator[BareServer]:
    """As `run_bare`, and the dev server goes on as long as the block does."""
    with tempfile.TemporaryDirectory(prefix="drape-bare-") as name:
        folder = Path(name) / "app"
        await asyncio.to_thread(_copy, files, folder)
        env = _environment(Path(name), cache)
        begun = time.perf_counter()
        if found.install_command:
            await _install(found, folder, env)
        install_s = time.perf_counter() - begun
        port = _free_port()
        begun = time.perf_counter()
        async with _process(by_hand(found, port), folder, {**env, "PORT": str(port)}) as process:
            await _first_200(process, port)
            run = BareRun(round(install_s, 4), round(time.perf_counter() - begun, 4))
            yield BareServer(folder, f"http://localhost:{port}", run)


def _copy(files: dict[str, LocalFile], folder: Path) -> None:
    for name, file in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file.path, target)


def _environment(scratch: Path, cache: Path) -> dict[str, str]:
    """The Node that VMs get too, by its real programs: the wheel's wrappers would slow the bare run down."""
    env = {**os.environ, **{key: value for key, value in BASE_ENV.items() if PORT not in value}}
    env |= {"npm_config_cache": str(cache), "NEXT_TELEMETRY_DISABLED": "1"}
    folder = node_dir(os.environ.get("DRAPE_POOL_NODE_DIR", ""))
    if folder is not None:
        shim = scratch / "bin"
        shim.mkdir()
        (shim / "node").symlink_to(folder / "bin" / "node")
        (shim / "npm").symlink_to(folder / NPM_CLI)
        env["PATH"] = f"{shim}:{env['PATH']}"
    return env


def by_hand(found: Detection, port: int) -> list[str]:
    """`npm run dev` with what makes this framework take the port."""
    if found.framework == "static":
        return ["python3", "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    tools = [TOOLS[name] for name in FRAMEWORKS[found.framework].tools]
    flags = next((tool.flags for tool in tools if tool.binary in found.dev_command), ())
    words = [flag.replace(PORT, str(port)) for flag in flags]
    return ["npm", "run", _script(found), *(["--", *words] if words else [])]


def _script(found: Detection) -> str:
    named = (re.match(r"script (\S+) in ", each) for each in found.evidence)
    return next((match[1] for match in named if match is not None), "dev")


async def _install(found: Detection, folder: Path, env: dict[str, str]) -> None:
    async with _process(list(found.install_command), folder, env) as process:
        code = await asyncio.wait_for(process.wait(), INSTALL_TIMEOUT_S)
    if code != 0:
        raise DrapeError(
            "bare_install_failed", f"{' '.join(found.install_command)} ended with {code} in a plain folder."
        )


async def _first_200(process: asyncio.subprocess.Process, port: int) -> None:
    deadline = time.perf_counter() + BOOT_TIMEOUT_S
    timeout = aiohttp.ClientTimeout(total=BOOT_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        while time.perf_counter() < deadline:
            if process.returncode is not None:
                raise DrapeError(
                    "bare_server_ended", f"The dev server ended with {process.returncode} in a plain folder."
                )
            try:
                async with session.get(f"http://localhost:{port}/", headers={"Accept": "text/html,*/*"}) as response:
                    await response.read()
                    if response.status < 500:
                        return
            except aiohttp.ClientError:
                await asyncio.sleep(POLL_S)
    raise DrapeError("bare_server_timeout", f"The dev server did not answer within {BOOT_TIMEOUT_S:g} s.")


@asynccontextmanager
async def _process(argv: list[str], folder: Path, env: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *argv,
        cwd=folder,
        env=env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        await asyncio.to_thread(_end_tree, process.pid)
        await process.wait()


def _end_tree(pid: int) -> None:
    """End what the process started; the process itself is its owner's to wait for."""
    try:
        root = psutil.Process(pid)
        below = root.children(recursive=True)
        for each in [*below, root]:
            each.send_signal(signal.SIGTERM)
    except psutil.NoSuchProcess:
        return  # it has ended, or part of it did meanwhile: the rest ends with its session
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(below, timeout=STOP_S)
    for each in alive:
        each.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
