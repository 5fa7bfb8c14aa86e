"""Routes of the alerts: what is raised, who was told, and silences. They are the platform's, so operators' alone."""

import msgspec
from aiohttp import web

from services.gateway.adapters.context import Context, answer, command_id, json_body
from shared.commands import EndSilence, SilenceAlert, SilenceReply

BY_CHARS_MAX = 100


class Silence(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /api/alerts/silences`. `alert`: a name, or its beginning and `*`; `for_s`: seconds from now."""

    alert: str
    for_s: float
    reason: str = ""


class AlertRoutes:
    """`/api/alerts`."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/alerts", self._show),
            web.post("/api/alerts/silences", self._silence),
            web.delete("/api/alerts/silences/{silence_id}", self._end),
        ]

    async def _show(self, request: web.Request) -> web.StreamResponse:
        self._context.operator(request)
        return answer(msgspec.json.decode(await self._context.bus.commands.query("telemetry", "alerts")))

    async def _silence(self, request: web.Request) -> web.StreamResponse:
        by = self._context.operator(request)
        wanted = await json_body(request, Silence)
        until = self._context.now() + wanted.for_s
        command = SilenceAlert(
            id=command_id(request, by), pattern=wanted.alert, until=until, reason=wanted.reason, by=by[:BY_CHARS_MAX]
        )
        reply = await self._context.send(command, SilenceReply)
        told = {"silence_id": reply.silence_id, "pattern": wanted.alert, "until": until, "reason": wanted.reason}
        return answer({**told, "by": command.by}, status=201)

    async def _end(self, request: web.Request) -> web.StreamResponse:
        by = self._context.operator(request)
        command = EndSilence(
            id=command_id(request, by), silence_id=request.match_info["silence_id"][:64], by=by[:BY_CHARS_MAX]
        )
        await self._context.send(command, SilenceReply)
        return web.Response(status=204)
