"""A package that only a token gets: the token is a variable of the project, and .npmrc names it."""

import hashlib
import io
import tarfile
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from aiohttp import web

from tests.live.client import Client, node_project
from tests.live.platform import Platform

TOKEN = "npm_s3cret0fTheProject"
SERVER = """
import http from 'node:http'
import said from 'private-greeting'
http.createServer((request, response) => response.end(said)).listen(process.env.PORT, '127.0.0.1')
"""


def tarball() -> bytes:
    """The package, as npm packs it."""
    raw = io.BytesIO()
    manifest = {"name": "private-greeting", "version": "1.0.0", "main": "index.js"}
    files = {"package.json": msgspec.json.encode(manifest), "index.js": b"module.exports = 'only for members'"}
    with tarfile.open(fileobj=raw, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return raw.getvalue()


@asynccontextmanager
async def registry(refused: list[str]) -> AsyncIterator[int]:
    """A registry that answers only to the token; gives its port. `refused`: what it answered 401 to."""
    packed = tarball()

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            refused.append(request.path)
            return web.json_response({}, status=401)
        if request.path.endswith(".tgz"):
            return web.Response(body=packed)
        integrity = "sha512-" + b64encode(hashlib.sha512(packed).digest()).decode()
        dist = {"tarball": f"http://{request.host}/private-greeting-1.0.0.tgz", "integrity": integrity}
        version = {"name": "private-greeting", "version": "1.0.0", "main": "index.js", "dist": dist}
        tags = {"latest": "1.0.0"}
        return web.json_response({"name": "private-greeting", "dist-tags": tags, "versions": {"1.0.0": version}})

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


async def test_a_private_package_is_installed_by_the_projects_token(client: Client, platform: Platform) -> None:
    """Without the variable the registry's refusal is the cause; with it, another try shows the page. No event has it."""
    refused: list[str] = []
    async with registry(refused) as port:
        npmrc = f"registry=http://127.0.0.1:{port}/\n//127.0.0.1:{port}/:_authToken=${{NPM_TOKEN}}\n"
        package = {
            "private": True,
            "scripts": {"dev": "node server.mjs"},
            "dependencies": {"private-greeting": "1.0.0"},
        }
        files: dict[str, str | bytes] = {
            **node_project(SERVER),
            ".npmrc": npmrc,
            "package.json": msgspec.json.encode(package),
        }
        project_id = await client.project(files)
        failed = await client.ended(await client.request_preview(project_id))
        assert failed["error"]["code"] == "registry_unauthorized", failed["error"]
        assert refused
        said = await client.call("PATCH", f"/api/projects/{project_id}/env", json={"NPM_TOKEN": TOKEN})
        assert said.json["names"] == ["NPM_TOKEN"]
        preview_id = await client.request_preview(project_id)
        view = await client.ended(preview_id)
        assert view["status"] == "ready", view["error"]
        assert (await client.visit(preview_id)).text == "only for members"
        assert TOKEN not in "".join(str(event) for event in await platform.events(preview_id))
        await client.stop(preview_id)
