"""Routes of what VMs use and cost, which telemetry knows."""

import msgspec
from aiohttp import web

from services.gateway.adapters.context import DAYS_MAX, Context, answer, number
from shared.errors import Invalid

BY = ("hour", "day", "month", "preview", "owner", "pool")
HOURS_MAX = 168


class CostRoutes:
    """`/api/costs` and `/api/resources`. Where owners have tokens each sees its own costs; the pool's overhead is then told
    by `drape costs` alone."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/api/costs", self._costs), web.get("/api/resources", self._resources)]

    async def _costs(self, request: web.Request) -> web.StreamResponse:
        scope = self._context.access.scope_of(request)
        by = request.query.get("by", "day")
        if by not in BY:
            raise Invalid("bad_by", f"`by` is one of {', '.join(BY)}.")
        days = number(request, "days", 7, DAYS_MAX)
        query = msgspec.json.encode({"by": by, "days": days, "owner": scope})
        return answer(msgspec.json.decode(await self._context.bus.commands.query("telemetry", "costs", query)))

    async def _resources(self, request: web.Request) -> web.StreamResponse:
        self._context.owner(request)  # it names nobody's, but is for those who may be here
        query = msgspec.json.encode({"hours": number(request, "hours", 24, HOURS_MAX)})
        return answer(msgspec.json.decode(await self._context.bus.commands.query("telemetry", "resources", query)))
