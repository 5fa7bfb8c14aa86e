"""Previews on an own platform, beside the bare cost of the same project, in turn, in one run."""

import asyncio
import shutil
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import aiohttp
import msgspec

from deploy.bench.bare_preview import BareRun, run_bare
from deploy.cli.api import Api
from deploy.cli.folder import LocalFile, pack_folder, read_folder, read_texts
from deploy.cli.platform import STATUS_FUNCTION
from deploy.local.detach import down, up_detached
from deploy.local.options import UpOptions
from deploy.local.paths import Home
from services.orchestrator.rules.detection import Detection, detect
from shared.errors import DrapeError
from shared.events import DevServerReady, InstallCompleted, PreviewReady
from shared.jetstream.connection import bus_on, connect

PREVIEW_TIMEOUT_S = 400.0


class Run(msgspec.Struct, frozen=True):
    """Seconds of one preview. `own_s`: its total less the package manager's and the dev server's own time."""

    total_s: float
    own_s: float
    steps: dict[str, float]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Medians of one mode. `ratio`: total over bare."""

    mode: str
    runs: int
    bare_s: float
    total_s: float
    ratio: float
    own_s: float
    steps: dict[str, float]


async def measure(path: Path, runs: int, say: Callable[[str], None]) -> list[Row]:
    """Bare, ours, bare, ours …; the platform and every folder are gone afterwards.

    Mode `cold`: a warm VM, an install with an empty npm cache; the bare run's cache is empty as well.
    """
    files = read_folder(path)
    found = detect(files, read_texts(files))
    with tempfile.TemporaryDirectory(prefix="drape-bench-") as folder:
        home = Home(Path(folder) / "home")
        status = await up_detached(UpOptions(port=0), home, STATUS_FUNCTION)
        try:
            async with aiohttp.ClientSession() as session:
                api = Api(status.gateway, session)
                pairs = []
                for number in range(1, runs + 1):
                    bare = await _bare(files, found, Path(folder) / "npm")
                    ours = await _ours(api, status.nats, files, path.resolve().name)
                    say(f"run {number}: bare {bare.install_s + bare.boot_s:.2f} s, preview {ours.total_s:.2f} s")
                    pairs.append((bare, ours))
        finally:
            await down(home)
    return [_row("cold", pairs)]


async def _bare(files: dict[str, LocalFile], found: Detection, cache: Path) -> BareRun:
    try:
        return await run_bare(files, found, cache)
    finally:
        await asyncio.to_thread(shutil.rmtree, cache, ignore_errors=True)


async def _ours(api: Api, nats_url: str, files: dict[str, LocalFile], name: str) -> Run:
    project = await api.call("POST", "/api/projects", json={"name": name})
    project_id = project["project_id"]
    await api.upload("PUT", f"/api/projects/{project_id}/files", pack_folder(files))
    preview = await api.call("POST", "/api/previews", json={"project_id": project_id})
    async with asyncio.timeout(PREVIEW_TIMEOUT_S):
        view = await _until_ended(api, preview["preview_id"])
    if view["status"] != "ready":
        raise DrapeError("bench_preview_failed", f"The preview {view['status']}: {view['message']}")
    run = await _read_run(nats_url, preview["preview_id"])
    await api.call("DELETE", f"/api/projects/{project_id}")
    return run


async def _until_ended(api: Api, preview_id: str) -> dict[str, str]:
    async for _, _, message in api.stream(f"/api/previews/{preview_id}/events"):
        views = [message["preview"]] if message["type"] == "preview" else message.get("previews", [])
        for view in views:
            if view["status"] in ("ready", "ready_with_errors", "failed", "stopped"):
                return dict(view)
    raise DrapeError("bench_stream_ended", "The gateway ended the event stream.")


async def _read_run(nats_url: str, preview_id: str) -> Run:
    """From the facts themselves."""
    client = await connect(nats_url, "drape-bench")
    try:
        foreign_s = 0.0
        ready: PreviewReady | None = None
        async for recorded in bus_on(client, "bench").log.read():
            match recorded.event:
                case InstallCompleted(preview_id=each, install_s=install_s) if each == preview_id:
                    foreign_s += install_s
                case DevServerReady(preview_id=each, boot_s=boot_s) if each == preview_id:
                    foreign_s += boot_s
                case PreviewReady(preview_id=each) as event if each == preview_id:
                    ready = event
    finally:
        await client.close()
    if ready is None:
        raise DrapeError("bench_no_ready", "The log has no PreviewReady for the run.")
    return Run(ready.total_s, round(ready.total_s - foreign_s, 4), ready.steps)


def _row(mode: str, pairs: list[tuple[BareRun, Run]]) -> Row:
    bare = [run.install_s + run.boot_s for run, _ in pairs]
    total = [run.total_s for _, run in pairs]
    steps = {
        step: round(statistics.median(run.steps.get(step, 0.0) for _, run in pairs), 4) for step in pairs[0][1].steps
    }
    return Row(
        mode=mode,
        runs=len(pairs),
        bare_s=round(statistics.median(bare), 3),
        total_s=round(statistics.median(total), 3),
        ratio=round(statistics.median(ours / by_hand for ours, by_hand in zip(total, bare, strict=True)), 3),
        own_s=round(statistics.median(run.own_s for _, run in pairs), 4),
        steps=steps,
    )
