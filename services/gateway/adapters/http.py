"""The HTTP surface: routes, and what each does. Decisions are elsewhere; this room only translates."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from aiohttp import web
from opentelemetry.trace import Span, SpanKind

from services.gateway import views
from services.gateway.adapters import describe, pages, sse, websocket
from services.gateway.adapters.access import Access, problem_response
from services.gateway.adapters.feed import Feed
from services.gateway.adapters.proxy import PreviewProxy
from services.gateway.adapters.uploads import Uploads
from services.gateway.config import GatewayConfig
from services.gateway.decide import owned
from services.gateway.state import ENDED, Preview, Project, State
from shared import telemetry
from shared.commands import (
    Command,
    CreateProject,
    DeleteProject,
    PreviewReply,
    ProjectReply,
    Reply,
    RequestPreview,
    RestartPreview,
    StopPreview,
)
from shared.errors import DrapeError, Invalid, NotFound, Refused, Unavailable, internal
from shared.ids import OwnerId, derive
from shared.ports import Bus, Cause, LogLine
from shared.runtime import Runtime
from shared.ulids import new_id

log = logging.getLogger("drape.gateway")

WEB = Path(__file__).parent.parent / "web"
LOGS_READ_MAX = 1000
IDEMPOTENCY_KEY_CHARS_MAX = 200
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
Json = dict[str, Any]
R = TypeVar("R", bound=Reply)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class NewProject(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /api/projects`."""

    name: str = "project"


class NewPreview(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /api/previews`."""

    project_id: str


class Api:
    """Everything that this gateway answers, on the API's hosts and on the previews'."""

    def __init__(
        self,
        runtime: Runtime[State],
        bus: Bus,
        feed: Feed,
        uploads: Uploads,
        proxy: PreviewProxy,
        access: Access,
        config: GatewayConfig,
    ) -> None:
        self._runtime = runtime
        self._bus = bus
        self._feed = feed
        self._uploads = uploads
        self._proxy = proxy
        self._access = access
        self._config = config

    def application(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(middlewares=[self._door], client_max_size=self._config.json_bytes_max)
        app.add_routes(
            [
                web.get("/", self._page),
                web.static("/assets", WEB),
                web.get("/health", self._health),
                web.get("/health/pool", self._pool),
                web.get("/metrics/stats", self._stats),
                web.get("/openapi.json", self._openapi),
                web.get("/asyncapi.json", self._asyncapi),
                web.get("/ws", self._websocket),
                web.get("/api/projects", self._list_projects),
                web.post("/api/projects", self._create_project),
                web.get("/api/projects/{project_id}", self._get_project),
                web.delete("/api/projects/{project_id}", self._delete_project),
                web.put("/api/projects/{project_id}/files", self._put_files),
                web.patch("/api/projects/{project_id}/files", self._patch_files),
                web.get("/api/previews", self._list_previews),
                web.post("/api/previews", self._request_preview),
                web.get("/api/previews/{preview_id}", self._get_preview),
                web.delete("/api/previews/{preview_id}", self._stop_preview),
                web.post("/api/previews/{preview_id}/restart", self._restart_preview),
                web.get("/api/previews/{preview_id}/logs", self._logs),
                web.get("/api/previews/{preview_id}/events", self._events),
            ]
        )
        return app

    # --- the door ---------------------------------------------------------------------------------------------

    @web.middleware
    async def _door(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Previews by host name go to the proxy; for the rest, origin first, and every error leaves as problem JSON."""
        if self._proxy.preview_id(request.headers.get("Host", "")) is not None:
            return await self._proxy.handle(request)
        begun = time.perf_counter()
        try:
            self._access.check_origin(request)
            response = await handler(request)
        except DrapeError as error:
            response = problem_response(error)
        except web.HTTPException as error:
            response = problem_response(_http_problem(error))
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:
            problem = internal(error)
            log.exception("request_broke", extra={"method": request.method, "path": request.path})
            response = problem_response(DrapeError(problem.code, problem.detail, status=500))
        if not response.prepared:
            response.headers.update(SECURITY_HEADERS)
            _measure(request, response.status, begun)
        return response

    # --- page and health --------------------------------------------------------------------------------------

    async def _page(self, _request: web.Request) -> web.StreamResponse:
        policy = pages.app_policy(self._config.preview_domain)
        headers = {"Content-Security-Policy": policy, "Cache-Control": "no-cache"}
        return web.FileResponse(WEB / "index.html", headers=headers)

    async def _health(self, _request: web.Request) -> web.StreamResponse:
        """503 while the log is out of reach: a load balancer should ask another gateway."""
        connected = self._bus.connected()
        body = {
            "status": "ok" if connected and self._runtime.ready else "unavailable",
            "nats": connected,
            "ready": self._runtime.ready,
            "seq": self._runtime.seq,
        }
        return _json(body, status=200 if body["status"] == "ok" else 503)

    async def _pool(self, _request: web.Request) -> web.StreamResponse:
        pool = msgspec.json.decode(await self._bus.commands.query("pool", "summary"))
        return _json({"pool": pool})

    async def _stats(self, request: web.Request) -> web.StreamResponse:
        owner = self._access.owner_of(request)
        days = request.query.get("days", "7")
        if not days.isdecimal() or not 1 <= int(days) <= 365:
            raise Invalid("bad_days", "`days` is a whole number from 1 to 365.")
        scope = owner if self._access.tokens else None
        body = msgspec.json.encode({"days": int(days), "owner": scope})
        return _json(msgspec.json.decode(await self._bus.commands.query("telemetry", "stats", body)))

    async def _openapi(self, _request: web.Request) -> web.StreamResponse:
        return _json(describe.openapi())

    async def _asyncapi(self, _request: web.Request) -> web.StreamResponse:
        return _json(describe.asyncapi())

    async def _websocket(self, request: web.Request) -> web.StreamResponse:
        owner = self._access.owner_of(request)
        return await websocket.serve(request, owner, self._feed, self._runtime.state, self._config)

    # --- projects ---------------------------------------------------------------------------------------------

    async def _list_projects(self, request: web.Request) -> web.StreamResponse:
        projects = views.owned_projects(self._runtime.state, self._access.owner_of(request))
        return _json({"projects": [views.project_view(project) for project in projects]})

    async def _create_project(self, request: web.Request) -> web.StreamResponse:
        owner = self._access.owner_of(request)
        wanted = await _body(request, NewProject)
        command = CreateProject(id=_command_id(request, owner), owner=owner, name=wanted.name)
        reply = await self._execute(command, ProjectReply)
        return _json(views.project_view(self._runtime.state.projects[reply.project_id]), status=201)

    async def _get_project(self, request: web.Request) -> web.StreamResponse:
        return _json(views.project_view(self._project(request)))

    async def _delete_project(self, request: web.Request) -> web.StreamResponse:
        project = self._project(request)
        await self._execute(DeleteProject(project_id=project.project_id, owner=project.owner), Reply)
        return web.Response(status=204)

    async def _put_files(self, request: web.Request) -> web.StreamResponse:
        return await self._receive(request, patch=False)

    async def _patch_files(self, request: web.Request) -> web.StreamResponse:
        return await self._receive(request, patch=True)

    async def _receive(self, request: web.Request, *, patch: bool) -> web.StreamResponse:
        project = self._project(request)
        if not self._bus.connected():
            raise Unavailable("log_unavailable", "The event log is out of reach.", "Send the files again in a moment.")
        command = await self._uploads.receive(request, project, patch=patch)
        await self._execute(command, ProjectReply)
        return _json(
            {
                "version": command.base_version + 1,
                "files": command.files,
                "bytes": command.size_bytes,
                "changed": command.changed,
                "deleted": command.deleted,
            }
        )

    # --- previews ---------------------------------------------------------------------------------------------

    async def _list_previews(self, request: web.Request) -> web.StreamResponse:
        previews = views.owned_previews(self._runtime.state, self._access.owner_of(request))
        return _json({"previews": [self._feed.view(preview) for preview in previews]})

    async def _request_preview(self, request: web.Request) -> web.StreamResponse:
        owner = self._access.owner_of(request)
        wanted = await _body(request, NewPreview)
        owned(self._runtime.state, wanted.project_id, owner)
        command = RequestPreview(id=_command_id(request, owner), project_id=wanted.project_id, owner=owner)
        reply = await self._send(command, PreviewReply)
        preview = self._runtime.state.previews[reply.preview_id]
        headers = {"Location": f"/api/previews/{preview.preview_id}"}
        return _json(self._feed.view(preview), status=202 if reply.created else 200, headers=headers)

    async def _get_preview(self, request: web.Request) -> web.StreamResponse:
        preview = self._preview(request)
        return _json(await self._with_tail(preview))

    async def _stop_preview(self, request: web.Request) -> web.StreamResponse:
        preview = self._preview(request)
        if preview.status not in ENDED:
            await self._send(StopPreview(preview_id=preview.preview_id), PreviewReply)
        return _json(self._feed.view(self._runtime.state.previews[preview.preview_id]))

    async def _restart_preview(self, request: web.Request) -> web.StreamResponse:
        preview = self._preview(request)
        command = RestartPreview(id=_command_id(request, preview.owner), preview_id=preview.preview_id)
        await self._send(command, PreviewReply)
        return _json(self._feed.view(self._runtime.state.previews[preview.preview_id]), status=202)

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        preview = self._preview(request)
        if "text/event-stream" in request.headers.get("Accept", ""):
            return await sse.logs(
                request, preview.owner, preview.preview_id, self._feed, self._bus.preview_logs, self._config
            )
        after = websocket.parse_since(request.query.get("since")) or 0
        batches = await self._bus.preview_logs.read(preview.preview_id, after, LOGS_READ_MAX)
        lines = [views.log_view(line) for batch in batches for line in batch.lines]
        return _json({"lines": lines, "next": batches[-1].seq if batches else after})

    async def _events(self, request: web.Request) -> web.StreamResponse:
        preview = self._preview(request)
        return await sse.events(request, preview.owner, preview.preview_id, self._feed, self._config)

    # --- helpers ----------------------------------------------------------------------------------------------

    def _project(self, request: web.Request) -> Project:
        return owned(self._runtime.state, request.match_info["project_id"], self._access.owner_of(request))

    def _preview(self, request: web.Request) -> Preview:
        owner = self._access.owner_of(request)
        preview_id = request.match_info["preview_id"]
        preview = self._runtime.state.previews.get(preview_id)
        if preview is None or preview.owner != owner:
            raise NotFound("preview_not_found", f"There is no preview {preview_id[:64]}.")
        return preview

    async def _with_tail(self, preview: Preview) -> Json:
        tail = await log_tail(self._bus, preview, self._config.log_tail_lines)
        now = time.time()
        return views.preview_view(self._runtime.state, preview, self._feed.progress.get(preview.preview_id), now, tail)

    async def _execute(self, command: Command, kind: type[R]) -> R:
        """A command to ourselves; the state holds what it did when this returns."""
        if not self._bus.connected():
            raise Unavailable("log_unavailable", "The event log is out of reach.", "Try again in a moment.")
        with _span(command):
            reply = await self._runtime.execute(command, _cause())
        return msgspec.convert(msgspec.to_builtins(reply), kind)

    async def _send(self, command: Command, kind: type[R]) -> R:
        """A command to another service; our state holds what it did when this returns."""
        if not self._bus.connected():
            raise Unavailable("log_unavailable", "The event log is out of reach.", "Try again in a moment.")
        with _span(command):
            body = await self._bus.commands.send(command, _cause())
        reply = msgspec.json.decode(body, type=kind)
        await self._runtime.until(reply.seq, timeout_s=self._config.ready_wait_s)
        return reply


async def log_tail(bus: Bus, preview: Preview, lines_max: int) -> list[LogLine]:
    """The last lines of this attempt's output."""
    batches = await bus.preview_logs.read(preview.preview_id, 0, LOGS_READ_MAX)
    lines = [line for batch in batches for line in batch.lines if line.attempt == preview.attempt]
    return lines[-lines_max:]


def _measure(request: web.Request, status: int, begun: float) -> None:
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else "none"
    attributes: dict[str, str | int] = {"http.request.method": request.method, "http.route": route}
    attributes["http.response.status_code"] = status
    telemetry.http_request_duration.record(time.perf_counter() - begun, attributes)


def _span(command: Command) -> AbstractContextManager[Span]:
    """Where a preview's trace begins: the request that asked for it."""
    name = f"send drape.cmd.{command.service}.{command.verb}"
    attributes = {
        "messaging.system": "nats",
        "messaging.operation.name": "send",
        "drape.command": type(command).__name__,
    }
    return telemetry.span(name, SpanKind.CLIENT, "", attributes)


def _cause() -> Cause:
    return Cause(actor="gateway/http", traceparent=telemetry.carrier())


async def _body(request: web.Request, kind: type[Any]) -> Any:
    """The JSON body. Raises `Invalid` saying what is wrong with it."""
    if request.content_type != "application/json":
        raise Refused(
            "unsupported_media_type",
            f"The body is {request.content_type!r}, not JSON.",
            "Set Content-Type: application/json.",
            status=415,
        )
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except msgspec.ValidationError as error:
        raise Invalid("bad_body", f"The body is not what is expected here: {error}.", "See /openapi.json.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Invalid("bad_json", f"The body is not JSON: {error}.") from error


def _command_id(request: web.Request, owner: OwnerId) -> str:
    """From `Idempotency-Key`, so that the same request twice does its work once; else a new one."""
    key = request.headers.get("Idempotency-Key", "")
    if not key:
        return new_id()
    if len(key) > IDEMPOTENCY_KEY_CHARS_MAX:
        raise Invalid("bad_idempotency_key", f"An Idempotency-Key has at most {IDEMPOTENCY_KEY_CHARS_MAX} characters.")
    return derive("", owner, request.method, request.path, key)


def _json(value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(value),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store", **(headers or {})},
    )


def _http_problem(error: web.HTTPException) -> DrapeError:
    """aiohttp's own refusals (no such route, wrong method, body too large) in our shape."""
    codes = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}
    code = codes.get(error.status, f"http_{error.status}")
    return DrapeError(code, error.reason, "See /openapi.json for what there is.", status=error.status)
