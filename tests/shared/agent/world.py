"""A real agent for the tests: its process, its client, and small things to run in it."""

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import aiohttp
import psutil

from shared.agent.client import AgentClient
from shared.agent.protocol import FileEntry, FileSync, SyncResult

REPOSITORY = Path(__file__).parents[3]
TOKEN = "a-token-for-tests"


class RunningAgent:
    """One agent process under test."""

    def __init__(self, root: Path, process: asyncio.subprocess.Process, port: int, client: AgentClient) -> None:
        self.root = root
        self.app = root / "app"
        self.process = process
        self.pid = process.pid
        self.url = f"http://127.0.0.1:{port}"
        self.client = client

    async def put(
        self, version: int, files: Mapping[str, bytes], base: int | None = None, **more: object
    ) -> SyncResult:
        """Syncs these files, all contents sent."""
        sync = sync_of(version, files, base, **more)
        return await self.client.sync_files(sync, contents_of(files))


def sync_of(version: int, files: Mapping[str, bytes], base: int | None = None, **more: object) -> FileSync:
    """The header for these files."""
    entries = {path: entry_of(data) for path, data in files.items()}
    return FileSync(version=version, base_version=base, files=entries, **more)  # type: ignore[arg-type]


def entry_of(data: bytes, mode: int = 0o644) -> FileEntry:
    """The manifest entry for this content."""
    return FileEntry(sha256=hashlib.sha256(data).hexdigest(), size=len(data), mode=mode)


async def contents_of(files: Mapping[str, bytes]) -> AsyncIterator[tuple[str, bytes | AsyncIterator[bytes]]]:
    """The contents of a sync."""
    for path, data in files.items():
        yield path, data


@contextlib.asynccontextmanager
async def running_agent(
    root: Path, *arguments: str, env: Mapping[str, str] | None = None
) -> AsyncIterator[RunningAgent]:
    """Starts an agent in `root`, and ends it and all below it afterwards."""
    port_file = root.with_name(f"{root.name}.port.json")
    port_file.unlink(missing_ok=True)
    argv = [sys.executable, "-m", "shared.agent", "--vm-id", "vm-1", "--root", str(root), "--port-file", str(port_file)]
    process = await asyncio.create_subprocess_exec(
        *argv,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=REPOSITORY,
        env={**os.environ, **(env or {})},
    )
    assert process.stdin is not None
    process.stdin.write(TOKEN.encode() + b"\n")
    process.stdin.close()
    try:
        await until(port_file.exists, 10)
        port = json.loads(port_file.read_bytes())["port"]
        async with aiohttp.ClientSession() as session:
            client = AgentClient(f"http://127.0.0.1:{port}", TOKEN, session)
            yield RunningAgent(root, process, port, client)
    finally:
        await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    below: list[psutil.Process] = []
    # It may have ended by itself, and asyncio not have heard of it yet.
    with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
        below = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(15):
            await process.communicate()
    except TimeoutError:
        process.kill()
        await process.communicate()
    _, alive = psutil.wait_procs(below, timeout=2)
    for left in alive:
        left.kill()
    assert not alive, "the agent left processes behind"


async def until(condition: Callable[[], bool], timeout_s: float) -> None:
    """Waits for a condition, bounded; looks every few milliseconds."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


def gone(pid: int) -> bool:
    """True when no living process has this number."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
