"""Bodies in and out: what requests hold, and how answers are written. Translates; decides nothing."""

from typing import Any

import msgspec
from aiohttp import web

from shared.errors import DrapeError, Invalid, Refused
from shared.ids import OwnerId, derive
from shared.ulids import new_id

IDEMPOTENCY_KEY_CHARS_MAX = 200
APP_CHARS_MAX = 1024


class NewProject(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /api/projects`."""

    name: str = "project"


class NewPreview(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /api/previews`. `app`: the folder of the app to show, where the project holds several."""

    project_id: str
    app: str = ""


class AppChoice(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /api/previews/{id}/restart` and of `POST /api/projects/{id}/prepare`; may be left out."""

    app: str = ""


async def body(request: web.Request, kind: type[Any]) -> Any:
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
    except msgspec.DecodeError as error:
        raise Invalid("bad_json", f"The body is not JSON: {error}.") from error


def command_id(request: web.Request, owner: OwnerId) -> str:
    """From `Idempotency-Key`, so that the same request twice does its work once; else a new one."""
    key = request.headers.get("Idempotency-Key", "")
    if not key:
        return new_id()
    if len(key) > IDEMPOTENCY_KEY_CHARS_MAX:
        raise Invalid("bad_idempotency_key", f"An Idempotency-Key has at most {IDEMPOTENCY_KEY_CHARS_MAX} characters.")
    return derive("", owner, request.method, request.path, key)


def json_response(value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(value),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store", **(headers or {})},
    )


def http_problem(error: web.HTTPException) -> DrapeError:
    """aiohttp's own refusals (no such route, wrong method, body too large) in our shape."""
    codes = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}
    code = codes.get(error.status, f"http_{error.status}")
    return DrapeError(code, error.reason, "See /openapi.json for what there is.", status=error.status)


async def app_choice(request: web.Request) -> str:
    """The app that the body names; empty where there is no body."""
    if not request.can_read_body:
        return ""
    wanted: AppChoice = await body(request, AppChoice)
    return checked_app(wanted.app)


def checked_app(app: str) -> str:
    """The name of an app, short enough for an event."""
    if len(app) > APP_CHARS_MAX:
        raise Invalid("bad_app", f"An app's folder has at most {APP_CHARS_MAX} characters.")
    return app
