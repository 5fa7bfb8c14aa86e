"""A user's side of the gateway for live tests: JSON requests, uploads, streams, and previews by host name."""

import asyncio
import io
import tarfile
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec

Json = dict[str, Any]
REQUEST_TIMEOUT_S = 30.0
READY_TIMEOUT_S = 120.0
TAR = {"Content-Type": "application/x-tar"}


class Answer(msgspec.Struct, frozen=True):
    """An HTTP answer with its whole body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()

    def problem(self) -> tuple[int, str]:
        """(status, code) of problem JSON; fails for anything else."""
        assert self.headers["Content-Type"].split(";")[0] == "application/problem+json", self.text
        problem = self.json
        assert problem["status"] == self.status
        assert problem["detail"]
        return self.status, problem["code"]


class Client:
    """One gateway, asked over `session`. `token` is sent where it is given."""

    def __init__(self, gateway: str, session: aiohttp.ClientSession, token: str = "") -> None:
        self.gateway = gateway
        self.session = session
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    async def call(
        self, method: str, path: str, *, json: Any = None, data: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request and its whole answer; redirects are not followed."""
        given = {**self._headers, **(headers or {})}
        if json is not None:
            data = msgspec.json.encode(json)
            given = {"Content-Type": "application/json", **given}
        if isinstance(data, bytes):
            data = io.BytesIO(data)  # aiohttp warns of large bodies given as bytes
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
        async with self.session.request(
            method, self.gateway + path, data=data, headers=given, timeout=timeout, allow_redirects=False
        ) as response:
            return Answer(response.status, response.headers, await response.read())

    async def project(self, files: Mapping[str, str | bytes], name: str = "live") -> str:
        """A new project with these files; gives its id."""
        made = await self.call("POST", "/api/projects", json={"name": name})
        assert made.status == 201, made.text
        project_id: str = made.json["project_id"]
        stored = await self.call("PUT", f"/api/projects/{project_id}/files", data=tar_of(files), headers=TAR)
        assert stored.status == 200, stored.text
        return project_id

    async def request_preview(self, project_id: str) -> str:
        """Ask for a project's preview; gives its id."""
        wanted = await self.call("POST", "/api/previews", json={"project_id": project_id})
        assert wanted.status in (200, 202), wanted.text
        preview_id: str = wanted.json["preview_id"]
        return preview_id

    async def preview(self, preview_id: str) -> Json:
        """The preview as the API shows it."""
        answer = await self.call("GET", f"/api/previews/{preview_id}")
        assert answer.status == 200, answer.text
        view: Json = answer.json
        return view

    async def ended(self, preview_id: str, *, timeout_s: float = READY_TIMEOUT_S) -> Json:
        """Follow the preview's own events until it is ready (with errors or without), failed or stopped; gives its view."""
        async with asyncio.timeout(timeout_s):
            async for _, _, message in self.sse(f"/api/previews/{preview_id}/events"):
                views = message.get("previews") or [message.get("preview")]
                if views[0] and views[0]["status"] in ("ready", "ready_with_errors", "failed", "stopped"):
                    return await self.preview(preview_id)
        raise AssertionError("the event stream ended before the preview did")

    async def ready(self, files: Mapping[str, str | bytes], name: str = "live") -> Json:
        """A new project's preview, once it is ready."""
        view = await self.ended(await self.request_preview(await self.project(files, name)))
        assert view["status"] == "ready", view["error"]
        return view

    async def patch(
        self, project_id: str, base_version: int, files: Mapping[str, str | bytes], delete: tuple[str, ...] = ()
    ) -> Answer:
        """Change files."""
        header = msgspec.json.encode({"base_version": base_version, "delete": delete})
        body = tar_of({".drape-patch.json": header, **files})
        return await self.call("PATCH", f"/api/projects/{project_id}/files", data=body, headers=TAR)

    async def stop(self, preview_id: str) -> None:
        """End a preview, so that its VM makes room."""
        answer = await self.call("DELETE", f"/api/previews/{preview_id}")
        assert answer.status == 200, answer.text

    async def visit(self, preview_id: str, path: str = "/", *, accept: str = "text/html") -> Answer:
        """Ask for a page of the preview as a browser does: by its host name."""
        port = urlsplit(self.gateway).port
        headers = {"Host": f"{preview_id}.preview.localhost:{port}", "Accept": accept}
        return await self.call("GET", path, headers=headers)

    async def sse(self, path: str, last_id: str = "") -> AsyncIterator[tuple[str, str, Json]]:
        """Server-sent events as (event, id, data); whoever reads sets the bound."""
        headers = {"Accept": "text/event-stream", **self._headers, **({"Last-Event-ID": last_id} if last_id else {})}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
        async with self.session.get(self.gateway + path, headers=headers, timeout=timeout) as response:
            assert response.status == 200, await response.text()
            fields: dict[str, str] = {}
            async for raw in response.content:
                name, _, value = raw.decode().rstrip("\r\n").partition(": ")
                if name:
                    fields[name] = value
                elif "data" in fields:
                    yield fields.get("event", "message"), fields.get("id", ""), msgspec.json.decode(fields["data"])
                    fields = {}
                else:
                    fields = {}


def tar_of(files: Mapping[str, str | bytes]) -> bytes:
    """A tar of {path: content}."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(path)
            info.size, info.mode = len(data), 0o644
            tar.addfile(info, io.BytesIO(data))
    return raw.getvalue()


def node_project(script: str, dev: str = "node server.mjs") -> dict[str, str | bytes]:
    """A project without dependencies whose dev script is `dev`; `script` is server.mjs."""
    package = msgspec.json.encode({"name": "live", "private": True, "scripts": {"dev": dev}})
    return {"package.json": package, "server.mjs": script}


SERVER = """
import http from 'node:http'
http.createServer((request, response) => {
  response.setHeader('content-type', 'text/html')
  response.end('<title>live</title>' + request.url)
}).listen(process.env.PORT, '127.0.0.1', () => console.log('listening on ' + process.env.PORT))
"""
"""The smallest dev server: it listens where it is told and answers everything."""
