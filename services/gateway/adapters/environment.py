"""Routes of a project's variables. They go in and are never shown again: answers hold names only."""

from typing import Any

import msgspec
from aiohttp import web

from services.gateway import views
from services.gateway.adapters.context import Context, answer, check_json
from services.gateway.adapters.variables import Variables
from services.gateway.state import Project
from shared.commands import Reply, SetProjectEnv
from shared.errors import UNREADABLE, Invalid, Refused

CONFLICTS_MAX = 5
"""Changes that lose to another one before the caller is told."""


class EnvironmentRoutes:
    """`/api/projects/{id}/env`."""

    def __init__(self, context: Context, variables: Variables) -> None:
        self._context = context
        self._variables = variables

    def routes(self) -> list[web.RouteDef]:
        path = "/api/projects/{project_id}/env"
        return [web.get(path, self._show), web.put(path, self._replace), web.patch(path, self._change)]

    async def _show(self, request: web.Request) -> web.StreamResponse:
        return answer(views.env_view(await self._context.project(request)))

    async def _replace(self, request: web.Request) -> web.StreamResponse:
        project = await self._context.project(request)
        values = await _body(request, dict[str, str])
        self._context.check_connected()
        await self._record(await self._variables.replace(project, values))
        return self._told(project)

    async def _change(self, request: web.Request) -> web.StreamResponse:
        """Made from what there is: one that loses to another change is made anew."""
        changes = await _body(request, dict[str, str | None])
        for left in reversed(range(CONFLICTS_MAX)):
            project = await self._context.project(request)
            self._context.check_connected()
            command = await self._variables.change(project, changes)
            try:
                await self._record(command)
            except Refused as error:
                if error.code != "env_conflict" or not left:
                    raise
            else:
                return self._told(project)
        raise AssertionError("the last try ends the loop")

    async def _record(self, command: SetProjectEnv) -> None:
        try:
            await self._context.execute(command, Reply)
        except Refused:  # of any other error it is not known whether the command was stored
            await self._variables.drop(command.env)
            raise

    def _told(self, project: Project) -> web.Response:
        return answer(views.env_view(self._context.state.projects.get(project.project_id, project)))


async def _body(request: web.Request, kind: Any) -> Any:
    """The variables of the body. An error of the decoder names a place, never a value."""
    check_json(request)
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except UNREADABLE:
        # Without the decoder's words: they may quote what they could not read.
        nulls = " or null, which removes it" if request.method == "PATCH" else ""
        raise Invalid(
            "bad_body",
            f"The body is not a JSON object of variables: each value is a string{nulls}.",
            "See /openapi.json.",
        ) from None
