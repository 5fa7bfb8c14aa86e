"""An image registry of our own, as much of it as a push takes: https://distribution.github.io/distribution/spec/api/."""

import base64
import hashlib
from collections.abc import Awaitable, Callable
from uuid import uuid4

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Registry:
    """`async with Registry(password) as registry`: at `registry.name`. `manifests`: what was pushed, by digest."""

    def __init__(self, password: str) -> None:
        self._authorization = "Basic " + base64.b64encode(f"x:{password}".encode()).decode()
        self._uploads: dict[str, bytearray] = {}
        self._runner: web.AppRunner | None = None
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.refused = 0
        self.name = ""

    async def __aenter__(self) -> "Registry":
        app = web.Application(middlewares=[self._authorized], client_max_size=1 << 30)
        blobs, uploads = "/v2/{name:.+}/blobs/{digest}", "/v2/{name:.+}/blobs/uploads/{upload:.*}"
        app.router.add_get("/v2/", self._base)
        app.router.add_post(uploads, self._begin)
        app.router.add_patch(uploads, self._continue)
        app.router.add_put(uploads, self._finish)
        app.router.add_route("HEAD", blobs, self._has)
        app.router.add_put("/v2/{name:.+}/manifests/{tag}", self._manifest)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.name = f"127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    @web.middleware
    async def _authorized(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.headers.get("Authorization") == self._authorization:
            return await handler(request)
        self.refused += 1
        return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="registry"'}, text='{"errors": []}')

    async def _base(self, _request: web.Request) -> web.Response:
        return web.json_response({}, headers={"Docker-Distribution-API-Version": "registry/2.0"})

    async def _has(self, request: web.Request) -> web.Response:
        blob = self.blobs.get(request.match_info["digest"])
        if blob is None:
            return web.Response(status=404)
        digest = request.match_info["digest"]
        return web.Response(headers={"Content-Length": str(len(blob)), "Docker-Content-Digest": digest})

    async def _begin(self, request: web.Request) -> web.Response:
        upload = uuid4().hex
        self._uploads[upload] = bytearray()
        return self._at(request, upload)

    async def _continue(self, request: web.Request) -> web.Response:
        upload = request.match_info["upload"]
        async for chunk in request.content.iter_any():
            self._uploads[upload] += chunk
        return self._at(request, upload)

    async def _finish(self, request: web.Request) -> web.Response:
        blob = bytes(self._uploads.pop(request.match_info["upload"])) + await request.read()
        digest = f"sha256:{hashlib.sha256(blob).hexdigest()}"
        if digest != request.query["digest"]:
            return web.Response(status=400)
        self.blobs[digest] = blob
        return web.Response(status=201, headers={"Docker-Content-Digest": digest})

    async def _manifest(self, request: web.Request) -> web.Response:
        body = await request.read()
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        self.manifests[digest] = body
        return web.Response(status=201, headers={"Docker-Content-Digest": digest})

    def _at(self, request: web.Request, upload: str) -> web.Response:
        location = f"http://{self.name}/v2/{request.match_info['name']}/blobs/uploads/{upload}"
        headers = {
            "Location": location,
            "Docker-Upload-UUID": upload,
            "Range": f"0-{max(0, len(self._uploads[upload]) - 1)}",
        }
        return web.Response(status=202, headers=headers)
