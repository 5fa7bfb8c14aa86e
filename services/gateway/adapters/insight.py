"""Routes of what went wrong and why it took long: errors by cause, and a preview's steps beside the usual. Telemetry answers."""

import re
from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web

from services.gateway.adapters.context import DAYS_MAX, Context, answer, number
from shared.errors import Invalid, NotFound
from shared.ids import is_text

LIMIT_MAX = 200
ERROR_DAYS, TIMING_DAYS, LIMIT = 7, 30, 50
WORD_CHARS_MAX = 100
SEQ_MAX = 2**63 - 1

_FINGERPRINT = re.compile(r"[0-9a-f]{16}")
Json = dict[str, Any]


class InsightRoutes:
    """`/api/errors` and `/api/previews/{id}/timing`. With tokens each owner is told of their own only."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/errors", self._groups),
            web.get("/api/errors/{fingerprint}", self._group),
            web.get("/api/previews/{preview_id}/timing", self._timing),
        ]

    async def _groups(self, request: web.Request) -> web.StreamResponse:
        asked = self._asked(request)
        for name in ("code", "fingerprint", "project"):
            asked[name] = _word(request, name)
        found = await self._errors(asked)
        return answer({"errors": found["groups"], "next": found["next"]})

    async def _group(self, request: web.Request) -> web.StreamResponse:
        asked = self._asked(request, DAYS_MAX)
        fingerprint = request.match_info["fingerprint"]
        known = _FINGERPRINT.fullmatch(fingerprint) is not None
        found: Json = {"groups": []}
        if known:
            found = await self._errors({**asked, "fingerprint": fingerprint, "occurrences": True})
        if not found["groups"]:
            raise NotFound(
                "error_not_found", f"There is no error {fingerprint[:64]}.", "GET /api/errors lists what there is."
            )
        return answer({**found["groups"][0], "occurrences": found["occurrences"], "next": found["next"]})

    async def _timing(self, request: web.Request) -> web.StreamResponse:
        preview = await self._context.preview(request)
        days = number(request, "days", TIMING_DAYS, DAYS_MAX)
        body = msgspec.json.encode({"preview_id": preview.preview_id, "days": days})
        return answer(msgspec.json.decode(await self._context.bus.commands.query("telemetry", "timing", body)))

    def _asked(self, request: web.Request, days: int = ERROR_DAYS) -> Json:
        owner = self._context.access.scope_of(request)
        before = number(request, "before", 0, SEQ_MAX)
        return {
            "owner": owner,
            "days": number(request, "days", days, DAYS_MAX),
            "limit": number(request, "limit", LIMIT, LIMIT_MAX),
            "before": before or None,
        }

    async def _errors(self, asked: Json) -> Json:
        body = await self._context.bus.commands.query("telemetry", "errors", msgspec.json.encode(asked))
        found: Json = msgspec.json.decode(body)
        return found


def _word(request: web.Request, name: str) -> str | None:
    text = request.query.get(name)
    if text is not None and not (0 < len(text) <= WORD_CHARS_MAX and is_text(text) and "\0" not in text):
        raise Invalid(f"bad_{name}", f"`{name}` is a word of at most {WORD_CHARS_MAX} characters.")
    return text


# --- described ----------------------------------------------------------------------------------------------------


def described(operation: Callable[..., Json], problem: Json, path_id: Json) -> Json:
    """These routes in OpenAPI. `operation`: makes one; `path_id`: the parameter `id`."""
    group, occurrence = _group_schema(), _occurrence_schema()
    groups = {"type": "object", "properties": {"errors": {"type": "array", "items": group}, "next": _NEXT}}
    whole = {
        "type": "object",
        "properties": {**group["properties"], "occurrences": {"type": "array", "items": occurrence}, "next": _NEXT},
    }
    fingerprint = {"name": "fingerprint", "in": "path", "required": True, "schema": {"type": "string"}}
    words = [{"name": name, "in": "query", "schema": _TEXT} for name in ("code", "fingerprint", "project")]
    pages = [_parameter("limit", LIMIT, LIMIT_MAX), {"name": "before", "in": "query", "schema": _SEQ}]
    return {
        "/api/errors": {
            "get": operation(
                "What went wrong, by cause, newest first; `next` is the `before` of the next page",
                problem,
                {"200": _ok("Errors", groups)},
                parameters=[_parameter("days", ERROR_DAYS, DAYS_MAX), *words, *pages],
            )
        },
        "/api/errors/{fingerprint}": {
            "parameters": [fingerprint],
            "get": operation(
                "One cause, with its occurrences, newest first",
                problem,
                {"200": _ok("The error", whole)},
                parameters=[_parameter("days", DAYS_MAX, DAYS_MAX), *pages],
            ),
        },
        "/api/previews/{id}/timing": {
            "parameters": [path_id],
            "get": operation(
                "Why it took so long: each step of each attempt, beside those of others with its framework",
                problem,
                {"200": _ok("The times", _timing_schema())},
                parameters=[_parameter("days", TIMING_DAYS, DAYS_MAX)],
            ),
        },
    }


_TEXT: Json = {"type": "string", "minLength": 1, "maxLength": WORD_CHARS_MAX}
_SEQ: Json = {"type": "integer", "minimum": 1}
_NEXT: Json = {"type": ["integer", "null"]}


def _parameter(name: str, default: int, most: int) -> Json:
    schema = {"type": "integer", "minimum": 1, "maximum": most, "default": default}
    return {"name": name, "in": "query", "schema": schema}


def _ok(description: str, schema: Json) -> Json:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _properties(**kinds: str) -> Json:
    return {"type": "object", "properties": {name: {"type": kind.split("|")} for name, kind in kinds.items()}}


def _group_schema() -> Json:
    words = dict.fromkeys(("fingerprint", "type", "code", "step", "framework"), "string")
    counts = dict.fromkeys(("count", "previews", "owners"), "integer")
    return _properties(**words, **counts, first_at="number", last_at="number", last="object")


def _occurrence_schema() -> Json:
    words = (
        "fingerprint",
        "type",
        "code",
        "step",
        "framework",
        "message",
        "project_id",
        "preview_id",
        "owner",
        "vm_id",
    )
    return _properties(
        seq="integer", at="number", attempt="integer", trace_id="string", **dict.fromkeys(words, "string")
    )


def _timing_schema() -> Json:
    return _properties(
        preview_id="string",
        framework="string",
        status="string",
        total_s="number",
        usual="object|null",
        ratio="number|null",
        warm="boolean|null",
        previews="integer",
        attempts="array",
        why="array",
    )
