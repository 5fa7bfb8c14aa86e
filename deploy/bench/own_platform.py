"""The platform that a bench starts for itself, as its user and as a reader of its log."""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from deploy.bench.rows import Run, kept_of, read_run
from deploy.cli.api import Api
from deploy.cli.folder import LocalFile, pack_changes, pack_folder, read_folder
from deploy.cli.platform import STATUS_FUNCTION
from deploy.local.detach import down, up_detached
from deploy.local.options import UpOptions
from deploy.local.paths import Home
from shared.errors import DrapeError
from shared.events import Event
from shared.ids import PreviewId
from shared.jetstream.connection import bus_on, connect

PREVIEW_TIMEOUT_S = 400.0
KEPT_TIMEOUT_S = 60.0
POLL_S = 0.05
ENDED = ("ready", "ready_with_errors", "failed", "stopped")

View = dict[str, Any]


class OwnPlatform:
    """One of its own, with nothing else on it. `open_own` makes one."""

    def __init__(self, api: Api, session: aiohttp.ClientSession, gateway_url: str, nats_url: str, home: Home) -> None:
        self.session = session
        self.gateway_url = gateway_url
        self._api = api
        self._nats_url = nats_url
        self._home = home

    async def project(self, files: Mapping[str, LocalFile], name: str, npmrc: str = "") -> str:
        """A new project with these files, at version 1; `npmrc`: one more, which changes what an install is made of."""
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

    async def edit(self, project_id: str, changed: Mapping[str, LocalFile], base_version: int) -> int:
        """Send changed files, as `preview --watch` does. Gives the new version."""
        body = pack_changes(changed, base_version, [])
        answer = await self._api.upload("PATCH", f"/api/projects/{project_id}/files", body)
        return int(answer["version"])

    async def delete(self, project_id: str) -> None:
        await self._api.call("DELETE", f"/api/projects/{project_id}")

    async def preview(self, project_id: str) -> tuple[View, Run]:
        """Ask for it, and wait until it is ready. Raises `DrapeError` where it is not."""
        asked = await self._ask(project_id)
        return await self._until_ready(asked["preview_id"], asked["attempt"])

    async def stop(self, preview_id: PreviewId) -> None:
        await self._api.call("DELETE", f"/api/previews/{preview_id}")

    async def is_kept(self, preview_id: PreviewId) -> bool:
        """Whether the VM of a stopped preview was emptied for the next; known once the log says either."""
        async with asyncio.timeout(KEPT_TIMEOUT_S):
            while (kept := kept_of(await self._log(), preview_id)) is None:
                await asyncio.sleep(POLL_S)
        return kept

    async def keep_residents(self, project_id: str, count: int) -> None:
        """Make the project a template."""
        await self._api.call("PUT", f"/api/projects/{project_id}/residents", json={"count": count})

    async def until_resident(self, project_id: str) -> None:
        """Until one runs. Raises `DrapeError` where it fails."""
        async with asyncio.timeout(PREVIEW_TIMEOUT_S):
            while not (told := await self._api.call("GET", f"/api/projects/{project_id}/residents"))["ready"]:
                if told["error"] is not None:
                    raise DrapeError("bench_preview_failed", f"The template failed: {told['error']['message']}")
                await asyncio.sleep(POLL_S)

    async def status(self, preview_id: PreviewId) -> str:
        view = await self._api.call("GET", f"/api/previews/{preview_id}")
        return str(view["status"])

    async def events(self, preview_id: PreviewId) -> list[Event]:
        """The preview's, in the log's order."""
        return [each for each in await self._log() if getattr(each, "preview_id", "") == preview_id]

    async def _log(self) -> list[Event]:
        client = await connect(self._nats_url, "drape-bench")
        try:
            found = [recorded.event async for recorded in bus_on(client, "bench").log.read()]
        finally:
            await client.close()
        return [each for each in found if each is not None]

    async def until_kept(self, installs: int) -> None:
        """Until so many installs are kept, and what the package manager fetched for them. Raises `DrapeError`."""
        entries = self._home.root / "cache" / "deps" / "entries"
        await _until(lambda: len(list(entries.glob("*/manifest"))) > installs, "The install was not kept")

    async def until_prepared(self) -> None:
        """Until the next restore is prepared, as it is a moment after the last one. Raises `DrapeError`."""
        spares = self._home.root / "cache" / "deps" / "spares"
        await _until(lambda: bool(list(spares.glob("*"))), "No restore was prepared")

    async def _ask(self, project_id: str) -> View:
        return dict(await self._api.call("POST", "/api/previews", json={"project_id": project_id}))

    async def _until_ready(self, preview_id: PreviewId, attempt: int) -> tuple[View, Run]:
        view = await self._until_status(preview_id, attempt, ENDED)
        if view["status"] != "ready":
            raise DrapeError("bench_preview_failed", f"The preview {view['status']}: {view['message']}")
        return view, read_run(await self.events(preview_id), preview_id, attempt)

    async def _until_status(self, preview_id: PreviewId, attempt: int, statuses: tuple[str, ...]) -> View:
        async with asyncio.timeout(PREVIEW_TIMEOUT_S):
            async for _, _, message in self._api.stream(f"/api/previews/{preview_id}/events"):
                views = [message["preview"]] if message["type"] == "preview" else message.get("previews", [])
                for view in views:
                    if view["attempt"] >= attempt and view["status"] in statuses:
                        return dict(view)
        raise DrapeError("bench_stream_ended", "The gateway ended the event stream.")


async def _until(reached: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + KEPT_TIMEOUT_S
    while not reached():
        if time.monotonic() >= deadline:
            hint = "Install scripts of its own, file: dependencies and a very large install are reasons."
            raise DrapeError("bench_not_kept", f"{what} within {KEPT_TIMEOUT_S:g} s.", hint)
        await asyncio.sleep(POLL_S)


@asynccontextmanager
async def open_own(folder: Path, env: dict[str, str]) -> AsyncIterator[OwnPlatform]:
    """Started below `folder` with these settings, and ended. `folder` is the caller's to remove."""
    home = Home(folder)
    status = await up_detached(UpOptions(port=0, env=env), home, STATUS_FUNCTION)
    try:
        async with aiohttp.ClientSession() as session:
            yield OwnPlatform(Api(status.gateway, session), session, status.gateway, status.nats, home)
    finally:
        await down(home)
