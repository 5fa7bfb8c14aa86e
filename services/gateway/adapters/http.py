"""The HTTP surface: the door that every request passes, the page, health, and where the other routes are."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import msgspec
from aiohttp import hdrs, web
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, Status, StatusCode

from services.gateway.adapters import describe, pages, websocket
from services.gateway.adapters.access import problem_response
from services.gateway.adapters.alerts import AlertRoutes
from services.gateway.adapters.context import DAYS_MAX, Context, answer, number
from services.gateway.adapters.costs import CostRoutes
from services.gateway.adapters.environment import EnvironmentRoutes
from services.gateway.adapters.insight import InsightRoutes
from services.gateway.adapters.load import Load
from services.gateway.adapters.previews import PreviewRoutes
from services.gateway.adapters.private import Passes
from services.gateway.adapters.projects import ProjectRoutes
from services.gateway.adapters.proxy import PreviewProxy
from services.gateway.adapters.residents import ResidentRoutes
from services.gateway.adapters.sharing import SharingRoutes
from services.gateway.adapters.uploads import Uploads
from services.gateway.adapters.variables import Variables
from shared import metrics, telemetry, tracing
from shared.errors import DrapeError, Invalid, internal
from shared.sealed import MARK

log = logging.getLogger("drape.gateway")

_MARK = MARK.encode()

WEB = Path(__file__).parent.parent / "web"
FILTER_CHARS_MAX = 100
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Api:
    """Everything that this gateway answers, on the API's hosts and on the previews'."""

    def __init__(
        self, context: Context, uploads: Uploads, variables: Variables, proxy: PreviewProxy, load: Load, passes: Passes
    ) -> None:
        self._context = context
        self._proxy = proxy
        self._load = load
        self._rooms = (
            ProjectRoutes(context, uploads),
            EnvironmentRoutes(context, variables),
            ResidentRoutes(context),
            PreviewRoutes(context),
            SharingRoutes(context, passes),
            InsightRoutes(context),
            CostRoutes(context),
            AlertRoutes(context),
        )

    def application(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(middlewares=[self._door], client_max_size=self._context.config.json_bytes_max)
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
            ]
        )
        for room in self._rooms:
            app.add_routes(room.routes())
        return app

    # --- the door ---------------------------------------------------------------------------------------------

    @web.middleware
    async def _door(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Previews by host name go to the proxy; for the rest, origin first, and every error leaves as problem JSON."""
        if self._proxy.preview_id(request.headers.get("Host", "")) is not None:
            return await self._proxy.handle(request)
        with _traced(request) as span:
            response = await self._answered(request, handler)
            span.set_attribute("http.response.status_code", response.status)
            if response.status >= 500:
                span.set_status(Status(StatusCode.ERROR))
        return response

    async def _answered(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        begun = time.perf_counter()
        try:
            with self._load.admitted(request):
                self._context.access.check_origin(request)
                response = await self._opened(request, await handler(request))
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

    async def _opened(self, request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
        """A JSON answer as its reader gets it: what the state holds sealed is opened here, for every route but that of a
        project's output, where nothing is a seal of ours, whatever it looks like."""
        if not isinstance(response, web.Response) or request.path.endswith("/logs"):
            return response
        body = response.body
        if isinstance(body, bytes) and _MARK in body:
            response.body = msgspec.json.encode(await self._context.bus.seals.opened(msgspec.json.decode(body)))
        return response

    # --- page and health --------------------------------------------------------------------------------------

    async def _page(self, _request: web.Request) -> web.StreamResponse:
        policy = pages.app_policy(self._context.config.preview_domain)
        headers = {"Content-Security-Policy": policy, "Cache-Control": "no-cache"}
        return web.FileResponse(WEB / "index.html", headers=headers)

    async def _health(self, _request: web.Request) -> web.StreamResponse:
        """503 while the log is out of reach: a load balancer should ask another gateway."""
        connected, ready = self._context.bus.connected(), self._context.ready
        body = {
            "status": "ok" if connected and ready else "unavailable",
            "nats": connected,
            "ready": ready,
            "seq": self._context.seq,
        }
        return answer(body, status=200 if body["status"] == "ok" else 503)

    async def _pool(self, _request: web.Request) -> web.StreamResponse:
        pool = msgspec.json.decode(await self._context.bus.commands.query("pool", "summary"))
        return answer({"pool": pool})

    async def _stats(self, request: web.Request) -> web.StreamResponse:
        scope = self._context.access.scope_of(request)
        days = number(request, "days", 7, DAYS_MAX)
        of = {name: text for name in ("framework", "provider") if (text := request.query.get(name))}
        if not all(text.isprintable() and len(text) <= FILTER_CHARS_MAX for text in of.values()):
            raise Invalid(
                "bad_filter", f"`framework` and `provider` are names of at most {FILTER_CHARS_MAX} characters."
            )
        body = msgspec.json.encode({"days": days, "owner": scope, **of})
        return answer(msgspec.json.decode(await self._context.bus.commands.query("telemetry", "stats", body)))

    async def _openapi(self, _request: web.Request) -> web.StreamResponse:
        return answer(describe.openapi())

    async def _asyncapi(self, _request: web.Request) -> web.StreamResponse:
        return answer(describe.asyncapi())

    async def _websocket(self, request: web.Request) -> web.StreamResponse:
        owner = self._context.owner(request)
        return await websocket.serve(request, owner, self._context.feed, self._context.state, self._context.config)


def _route(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "none"


def _method(request: web.Request) -> str:
    """One of those that there are: a client may send any word."""
    return request.method if request.method in hdrs.METH_ALL else "_OTHER"


def _traced(request: web.Request) -> AbstractContextManager[Span]:
    """Where a preview's trace begins; or goes on, where the caller says of which trace its request is. Requests that only
    look at something have none: streams last, and a page asks often."""
    method, route = _method(request), _route(request)
    if method in ("GET", "HEAD"):
        return nullcontext(INVALID_SPAN)
    attributes = {"http.request.method": method, "http.route": route, "url.scheme": request.scheme}
    parent = request.headers.get(tracing.TRACE, "")
    return telemetry.span(f"{method} {route}", SpanKind.SERVER, parent, attributes)


def _measure(request: web.Request, status: int, begun: float) -> None:
    attributes: dict[str, str | int] = {"http.request.method": _method(request), "http.route": _route(request)}
    attributes["http.response.status_code"] = status
    metrics.http_request_duration.record(time.perf_counter() - begun, attributes)


def _http_problem(error: web.HTTPException) -> DrapeError:
    """aiohttp's own refusals (no such route, wrong method, body too large) in our shape."""
    codes = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}
    code = codes.get(error.status, f"http_{error.status}")
    return DrapeError(code, error.reason, "See /openapi.json for what there is.", status=error.status)
