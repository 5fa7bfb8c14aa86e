"""Previews on an own platform, beside the bare cost of the same project, in turn, in one run."""

import asyncio
import statistics
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

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
POLL_S = 0.05


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
    """Bare, ours, bare, ours …, mode after mode; the platforms and every folder are gone afterwards.

    `cold`: a warm VM, an install with an empty npm cache. `store`: an install for which all is fetched already.
    `restored`: another VM, with the dependencies of an earlier install. `preserved`: the dev server anew in the VM that
    has them. Bare: an install with an empty npm cache and the dev script; for `store` and `restored` with a warm npm
    cache; for `preserved` the dev script alone, in an installed folder.
    """
    files = read_folder(path)
    found = detect(files, read_texts(files))
    with tempfile.TemporaryDirectory(prefix="drape-bench-") as name:
        bench = _Bench(files, found, path.resolve().name, Path(name), runs, say)
        rows = [await bench.cold()]
        return [*rows, *(await bench.warm())] if found.install_command else rows


class _Bench:
    """The measured project, by hand and with us. `folder` holds all that is made for it."""

    def __init__(
        self,
        files: dict[str, LocalFile],
        found: Detection,
        name: str,
        folder: Path,
        runs: int,
        say: Callable[[str], None],
    ) -> None:
        self._files = files
        self._found = found
        self._name = name
        self._folder = folder
        self._runs = runs
        self._say = say

    async def cold(self) -> Row:
        async with self._platform("cold", cache=False) as platform:
            pairs = []
            for number in range(1, self._runs + 1):
                bare = await self._bare(self._folder / f"npm-{number}")
                project_id = await platform.project(self._files, self._name)
                pairs.append(self._told("cold", number, bare, await platform.preview(project_id)))
                await platform.delete(project_id)
            return _row("cold", pairs)

    async def warm(self) -> list[Row]:
        async with self._platform("warm", cache=True) as platform:
            npm = self._folder / "npm-warm"
            await self._bare(npm)
            await self._keep_first(platform)
            return [await self._store(platform, npm), *(await self._again(platform, npm))]

    async def _keep_first(self, platform: "_Platform") -> None:
        """One preview, so that there is something kept."""
        project_id = await platform.project(self._files, self._name)
        await platform.preview(project_id)
        await platform.until_kept(1)
        await platform.delete(project_id)

    async def _store(self, platform: "_Platform", npm: Path) -> Row:
        """Each run with another fingerprint, which finds no install to restore."""
        pairs = []
        for number in range(1, self._runs + 1):
            bare = await self._bare(npm)
            project_id = await platform.project(self._files, self._name, npmrc=f"; bench run {number}\n")
            pairs.append(self._told("store", number, bare, await platform.preview(project_id)))
            await platform.until_kept(1 + number)
            await platform.delete(project_id)
        return _row("store", pairs)

    async def _again(self, platform: "_Platform", npm: Path) -> list[Row]:
        restored, preserved = [], []
        for number in range(1, self._runs + 1):
            bare = await self._bare(npm)
            await platform.until_prepared()
            project_id = await platform.project(self._files, self._name)
            restored.append(self._told("restored", number, bare, await platform.preview(project_id)))
            again = await platform.restart(project_id)
            preserved.append(self._told("preserved", number, BareRun(0.0, bare.boot_s), again))
            await platform.delete(project_id)
        return [_row("restored", restored), _row("preserved", preserved)]

    async def _bare(self, npm: Path) -> BareRun:
        return await run_bare(self._files, self._found, npm)

    def _told(self, mode: str, number: int, bare: BareRun, ours: Run) -> tuple[BareRun, Run]:
        self._say(f"{mode} {number}: bare {bare.install_s + bare.boot_s:.2f} s, preview {ours.total_s:.2f} s")
        return bare, ours

    @asynccontextmanager
    async def _platform(self, name: str, *, cache: bool) -> AsyncIterator["_Platform"]:
        home = Home(self._folder / name)
        options = UpOptions(port=0, env={"DRAPE_POOL_CACHE": str(cache).lower()})
        status = await up_detached(options, home, STATUS_FUNCTION)
        try:
            async with aiohttp.ClientSession() as session:
                yield _Platform(Api(status.gateway, session), status.nats, home)
        finally:
            await down(home)


class _Platform:
    """An own platform, as its user and as a reader of its log."""

    def __init__(self, api: Api, nats_url: str, home: Home) -> None:
        self._api = api
        self._nats_url = nats_url
        self._home = home

    async def project(self, files: dict[str, LocalFile], name: str, npmrc: str = "") -> str:
        """A new project with these files; `npmrc`: one more, which changes what an install is made of."""
        project = await self._api.call("POST", "/api/projects", json={"name": name})
        project_id = str(project["project_id"])
        with tempfile.TemporaryDirectory() as folder:
            more = {}
            if npmrc:
                path = Path(folder) / ".npmrc"
                own = files[".npmrc"].path.read_text("utf-8") if ".npmrc" in files else ""
                path.write_text(own + npmrc, "utf-8")
                more = {".npmrc": read_folder(Path(folder))[".npmrc"]}
            await self._api.upload("PUT", f"/api/projects/{project_id}/files", pack_folder({**files, **more}))
        return project_id

    async def preview(self, project_id: str) -> Run:
        preview = await self._api.call("POST", "/api/previews", json={"project_id": project_id})
        return await self._until_ready(preview["preview_id"], preview["attempt"])

    async def restart(self, project_id: str) -> Run:
        """In its VM, as every change of the project's variables does."""
        preview = await self._api.call("POST", "/api/previews", json={"project_id": project_id})
        await self._api.call("PATCH", f"/api/projects/{project_id}/env", json={"BENCH": "again"})
        return await self._until_ready(preview["preview_id"], preview["attempt"] + 1)

    async def delete(self, project_id: str) -> None:
        await self._api.call("DELETE", f"/api/projects/{project_id}")

    async def until_kept(self, installs: int) -> None:
        """Until so many installs are kept, and what the package manager fetched for them."""
        entries = self._home.root / "cache" / "deps" / "entries"
        async with asyncio.timeout(PREVIEW_TIMEOUT_S):
            while len(list(entries.glob("*/manifest"))) < installs + 1:
                await asyncio.sleep(POLL_S)

    async def until_prepared(self) -> None:
        """Until the next restore is prepared, as it is a moment after the last one."""
        spares = self._home.root / "cache" / "deps" / "spares"
        async with asyncio.timeout(PREVIEW_TIMEOUT_S):
            while not list(spares.glob("*")):
                await asyncio.sleep(POLL_S)

    async def _until_ready(self, preview_id: str, attempt: int) -> Run:
        async with asyncio.timeout(PREVIEW_TIMEOUT_S):
            view = await _until_ended(self._api, preview_id, attempt)
        if view["status"] != "ready":
            raise DrapeError("bench_preview_failed", f"The preview {view['status']}: {view['message']}")
        return await _read_run(self._nats_url, preview_id, attempt)


async def _until_ended(api: Api, preview_id: str, attempt: int) -> dict[str, Any]:
    async for _, _, message in api.stream(f"/api/previews/{preview_id}/events"):
        views = [message["preview"]] if message["type"] == "preview" else message.get("previews", [])
        for view in views:
            if view["attempt"] >= attempt and view["status"] in ("ready", "ready_with_errors", "failed", "stopped"):
                return dict(view)
    raise DrapeError("bench_stream_ended", "The gateway ended the event stream.")


async def _read_run(nats_url: str, preview_id: str, attempt: int) -> Run:
    """From the facts themselves."""
    client = await connect(nats_url, "drape-bench")
    try:
        foreign_s = 0.0
        ready: PreviewReady | None = None
        async for recorded in bus_on(client, "bench").log.read():
            event = recorded.event
            if getattr(event, "preview_id", "") != preview_id or getattr(event, "attempt", 0) != attempt:
                continue
            match event:
                case InstallCompleted(install_s=install_s):
                    foreign_s += install_s
                case DevServerReady(boot_s=boot_s):
                    foreign_s += boot_s
                case PreviewReady():
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
