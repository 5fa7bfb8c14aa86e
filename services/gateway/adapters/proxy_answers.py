"""What the preview proxy says itself when no dev server speaks: pages for people, problem JSON for programs."""

from typing import Any

import aiohttp
import msgspec
from aiohttp import web
from multidict import CIMultiDict

from services.gateway.adapters import pages
from services.gateway.adapters.preview_target import Holding, Upstream, problem_of
from services.gateway.adapters.proxy_headers import Route, response_headers, wants_websocket
from shared.errors import DrapeError, Problem, problem_dict


def status_of(target: Upstream | Holding) -> dict[str, Any]:
    """The body of `/__drape/status`: the holding with its words filled in, or `ready`."""
    if isinstance(target, Holding):
        words = problem_of(target)
        shown = msgspec.to_builtins(target)
        return {**shown, "code": words.code, "message": words.detail, "hint": words.hint}
    return {"status": "ready", "preview_id": target.preview_id}


def held(request: web.Request, holding: Holding) -> web.Response:
    """The answer for a preview that cannot be shown now. A WebSocket gets 503 whatever the reason."""
    problem = problem_of(holding)
    if wants_websocket(request.method, request.headers):
        return _problem(msgspec.structs.replace(problem, status=503))
    if not _is_navigation(request):
        return _problem(problem)
    return _html(problem, pages.holding(holding, problem))


def refused(request: web.Request, problem: Problem) -> web.Response:
    """An error, as a page for a navigation and as problem JSON for everything else."""
    return _html(problem, pages.error(problem)) if _is_navigation(request) else _problem(problem)


def refusal_of(error: aiohttp.WSServerHandshakeError, route: Route) -> web.Response:
    """The dev server's own answer to an upgrade that it does not want; a 101 that is no WebSocket is a bad gateway."""
    if error.status < 300:
        raise DrapeError(
            "dev_server_unreachable",
            "The dev server did not answer as a WebSocket server does.",
            "Check the address that the page's script connects to.",
            status=502,
        ) from error
    headers = response_headers(error.headers or CIMultiDict(), route)
    for name in ("Content-Length", "Content-Encoding", "Content-Type"):
        headers.popall(name, None)
    return web.Response(status=error.status, headers=headers)


def _is_navigation(request: web.Request) -> bool:
    return "text/html" in request.headers.get("Accept", "") and not wants_websocket(request.method, request.headers)


def _html(problem: Problem, page: str) -> web.Response:
    headers = {**pages.PAGE_HEADERS, **_retry_after(problem)}
    return web.Response(status=problem.status, text=page, content_type="text/html", headers=headers)


def _problem(problem: Problem) -> web.Response:
    return web.json_response(
        problem_dict(problem),
        status=problem.status,
        content_type="application/problem+json",
        headers={"Cache-Control": "no-store", **_retry_after(problem)},
    )


def plain_json(body: dict[str, Any]) -> web.Response:
    """A JSON answer that nobody keeps."""
    return web.json_response(body, headers={"Cache-Control": "no-store"})


def _retry_after(problem: Problem) -> dict[str, str]:
    return {} if problem.retry_after_s is None else {"Retry-After": str(max(1, round(problem.retry_after_s)))}
