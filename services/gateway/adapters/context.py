"""What every route needs: who asks, what of theirs is meant, and how a wish becomes a command."""

from typing import Any, TypeVar

import msgspec
from aiohttp import web

from services.gateway.adapters.access import Access
from services.gateway.adapters.feed import Feed
from services.gateway.config import GatewayConfig
from services.gateway.decide import owned
from services.gateway.state import Preview, Project, State
from shared import telemetry
from shared.commands import Command, Reply
from shared.errors import UNREADABLE, Invalid, NotFound, Refused, Unavailable
from shared.ids import OwnerId, ProjectId, derive, is_text
from shared.ports import Bus, Cause
from shared.runtime import Runtime
from shared.ulids import new_id

DAYS_MAX = 365
"""So far back figures are asked for."""
DIGITS_MAX = 19
"""Of a number in a query: sequences have no more."""
IDEMPOTENCY_KEY_CHARS_MAX = 200
APP_CHARS_MAX = 1024

R = TypeVar("R", bound=Reply)
B = TypeVar("B", bound=msgspec.Struct)


class Context:
    """The gateway as its routes see it."""

    def __init__(self, runtime: Runtime[State], bus: Bus, feed: Feed, access: Access, config: GatewayConfig) -> None:
        self._runtime = runtime
        self.bus = bus
        self.feed = feed
        self.access = access
        self.config = config

    @property
    def state(self) -> State:
        """What the log says, as far as this replica has read it."""
        return self._runtime.state

    @property
    def seq(self) -> int:
        """The sequence up to which that is."""
        return self._runtime.seq

    @property
    def ready(self) -> bool:
        """True once the log has been read up to where it was at the start."""
        return self._runtime.ready

    def owner(self, request: web.Request) -> OwnerId:
        """Who asks. Raises 401 for nobody known."""
        return self.access.owner_of(request)

    def operator(self, request: web.Request) -> OwnerId:
        """Who asks about the whole platform. Raises 401 for nobody known, 403 for one of its users."""
        return self.access.operator_of(request)

    def now(self) -> float:
        """Seconds, UTC."""
        return self._runtime.clock()

    async def project(self, request: web.Request) -> Project:
        """The owner's project that the path names."""
        return await self.project_of(request, request.match_info["project_id"])

    async def project_of(self, request: web.Request, project_id: ProjectId) -> Project:
        """The owner's project of this id."""
        owner = self.owner(request)
        await self.know(request, known=project_id in self.state.projects)
        return owned(self.state, project_id, owner)

    async def preview(self, request: web.Request) -> Preview:
        """The owner's preview that the path names."""
        owner = self.owner(request)
        preview_id = request.match_info["preview_id"]
        await self.know(request, known=preview_id in self.state.previews)
        preview = self.state.previews.get(preview_id)
        if preview is None or preview.owner != owner:
            raise NotFound("preview_not_found", f"There is no preview {preview_id[:64]}.")
        return preview

    async def know(self, request: web.Request, *, known: bool) -> None:
        """What is not known here may have been made through another gateway a moment ago, and what is changed here
        may have been changed there. Looking at what is known costs no question to the log."""
        if self.bus.connected() and not (known and request.method in ("GET", "HEAD")):
            await self._runtime.catch_up()

    def check_connected(self, hint: str = "Try again in a moment.") -> None:
        """Raises 503 while nothing could be stored."""
        if not self.bus.connected():
            raise Unavailable("log_unavailable", "The event log is out of reach.", hint)

    async def execute(self, command: Command, kind: type[R]) -> R:
        """A command to ourselves; the state holds what it did when this returns."""
        self.check_connected()
        reply = await self._runtime.execute(command, _cause())
        return msgspec.convert(msgspec.to_builtins(reply), kind)

    async def send(self, command: Command, kind: type[R]) -> R:
        """A command to another service; our state holds what it did when this returns."""
        self.check_connected()
        body = await self._runtime.send(command, _cause())
        reply = msgspec.json.decode(body, type=kind)
        await self._runtime.until(reply.seq, timeout_s=self.config.ready_wait_s)
        return reply


def _cause() -> Cause:
    return Cause(actor="gateway/http", traceparent=telemetry.carrier())


async def json_body(request: web.Request, kind: type[B]) -> B:
    """The JSON body. Raises `Invalid` saying what is wrong with it."""
    check_json(request)
    return decode(await request.read(), kind)


async def optional_body(request: web.Request, kind: type[B]) -> B:
    """The JSON body, where there is one; else what it means to say nothing."""
    raw = await request.read()
    if not raw:
        return kind()
    check_json(request)
    return decode(raw, kind)


async def large_body(request: web.Request, bytes_max: int) -> bytes:
    """A JSON body that may be larger than most; undecoded. Raises 413 beyond `bytes_max`."""
    check_json(request)
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > bytes_max:
            raise Refused("body_too_large", f"The body is larger than {bytes_max} bytes.", status=413)
    return bytes(body)


def check_json(request: web.Request) -> None:
    """Raises 415 for a body that does not say that it is JSON."""
    if request.content_type != "application/json":
        raise Refused(
            "unsupported_media_type",
            f"The body is {request.content_type!r}, not JSON.",
            "Set Content-Type: application/json.",
            status=415,
        )


def decode(body: bytes, kind: type[B]) -> B:
    """The body as that type. Raises `Invalid` saying what is wrong with it."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise Invalid("bad_body", f"The body is not what is expected here: {error}.", "See /openapi.json.") from error
    except UNREADABLE as error:
        raise Invalid("bad_json", f"The body is not JSON: {error}.") from error


def command_id(request: web.Request, owner: OwnerId) -> str:
    """From `Idempotency-Key`, so that the same request twice does its work once; else a new one."""
    key = request.headers.get("Idempotency-Key", "")
    if not key:
        return new_id()
    if len(key) > IDEMPOTENCY_KEY_CHARS_MAX or not is_text(key):
        raise Invalid(
            "bad_idempotency_key", f"An Idempotency-Key is text of at most {IDEMPOTENCY_KEY_CHARS_MAX} characters."
        )
    return derive("", owner, request.method, request.path, key)


def checked_app(app: str) -> str:
    """The name of an app, short enough for an event. Raises `Invalid` (`bad_app`)."""
    if len(app) > APP_CHARS_MAX or "\0" in app:
        raise Invalid("bad_app", f"An app is named by its folder: at most {APP_CHARS_MAX} characters.")
    return app


def number(request: web.Request, name: str, default: int, most: int) -> int:
    """A whole number of the query, from 1. Raises `Invalid` (`bad_<name>`)."""
    text = request.query.get(name, str(default))
    if name in request.query and not (
        text.isascii() and text.isdecimal() and len(text) <= DIGITS_MAX and 1 <= int(text) <= most
    ):
        raise Invalid(f"bad_{name}", f"`{name}` is a whole number from 1 to {most}.")
    return int(text)


def answer(value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A JSON answer that nobody keeps."""
    return web.Response(
        body=msgspec.json.encode(value),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store", **(headers or {})},
    )
