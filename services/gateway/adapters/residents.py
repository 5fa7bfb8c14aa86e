"""Routes of a template's residents: how many VMs run its dev server ahead of need, and how they are."""

import msgspec
from aiohttp import web

from services.gateway import views
from services.gateway.adapters.context import Context, answer, json_body
from shared.commands import Reply, SetProjectResidents


class Residents(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `PUT /api/projects/{id}/residents`."""

    count: int


class ResidentRoutes:
    """`/api/projects/{id}/residents`."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def routes(self) -> list[web.RouteDef]:
        path = "/api/projects/{project_id}/residents"
        return [web.get(path, self._show), web.put(path, self._set)]

    async def _show(self, request: web.Request) -> web.StreamResponse:
        return answer(views.residents_view(self._context.state, await self._context.project(request)))

    async def _set(self, request: web.Request) -> web.StreamResponse:
        project = await self._context.project(request)
        wanted = await json_body(request, Residents)
        command = SetProjectResidents(project_id=project.project_id, owner=project.owner, count=wanted.count)
        await self._context.execute(command, Reply)
        return answer(views.residents_view(self._context.state, await self._context.project(request)))
