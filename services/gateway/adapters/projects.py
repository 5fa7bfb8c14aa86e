"""Routes of projects and their files."""

import msgspec
from aiohttp import web

from services.gateway import views
from services.gateway.adapters.archive import MANIFEST_BYTES_MAX
from services.gateway.adapters.context import (
    Context,
    answer,
    checked_app,
    command_id,
    json_body,
    large_body,
    optional_body,
)
from services.gateway.adapters.uploads import Uploads
from services.gateway.state import Removed
from shared.commands import CreateProject, DeleteProject, PreviewReply, ProjectReply, Reply, RequestPreview
from shared.errors import NotFound


class NewProject(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /api/projects`."""

    name: str = "project"


class Preparation(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /api/projects/{id}/prepare`; may be left out."""

    app: str = ""
    private: bool = False


class ProjectRoutes:
    """`/api/projects`."""

    def __init__(self, context: Context, uploads: Uploads) -> None:
        self._context = context
        self._uploads = uploads

    def routes(self) -> list[web.RouteDef]:
        one = "/api/projects/{project_id}"
        return [
            web.get("/api/projects", self._list),
            web.post("/api/projects", self._create),
            web.get(one, self._get),
            web.delete(one, self._delete),
            web.get(f"{one}/erasure", self._erasure),
            web.get(f"{one}/files", self._list_files),
            web.put(f"{one}/files", self._put_files),
            web.patch(f"{one}/files", self._patch_files),
            web.post(f"{one}/files/missing", self._missing_files),
            web.post(f"{one}/prepare", self._prepare),
        ]

    async def _list(self, request: web.Request) -> web.StreamResponse:
        projects = views.owned_projects(self._context.state, self._context.owner(request))
        return answer({"projects": [views.project_view(project) for project in projects]})

    async def _create(self, request: web.Request) -> web.StreamResponse:
        owner = self._context.owner(request)
        wanted = await json_body(request, NewProject)
        command = CreateProject(id=command_id(request, owner), owner=owner, name=wanted.name)
        reply = await self._context.execute(command, ProjectReply)
        return answer(views.project_view(self._context.state.projects[reply.project_id]), status=201)

    async def _get(self, request: web.Request) -> web.StreamResponse:
        return answer(views.project_view(await self._context.project(request)))

    async def _delete(self, request: web.Request) -> web.StreamResponse:
        """Again: nothing more. What it takes goes on behind the answer, which `erasure` tells."""
        owner, project_id = self._context.owner(request), request.match_info["project_id"]
        await self._context.know(request, known=False)
        if project_id in self._context.state.projects:
            await self._context.execute(DeleteProject(project_id=project_id, owner=owner), Reply)
        self._removed(request)
        return web.Response(status=204)

    async def _erasure(self, request: web.Request) -> web.StreamResponse:
        removed = self._removed(request)
        return answer(views.erasure_view(request.match_info["project_id"], removed))

    def _removed(self, request: web.Request) -> Removed:
        """The owner's deleted project. Raises `NotFound`."""
        project_id = request.match_info["project_id"]
        removed = self._context.state.removed.get(project_id)
        if removed is None or removed.owner != self._context.owner(request):
            raise NotFound("project_not_found", f"There is no project {project_id[:64]}, and none was deleted lately.")
        return removed

    async def _list_files(self, request: web.Request) -> web.StreamResponse:
        """What the present version holds, for clients that compare by themselves."""
        project = await self._context.project(request)
        files = await self._uploads.listing(project)
        listed = {path: {"sha256": e.sha256, "size": e.size, "mode": e.mode} for path, e in files.items()}
        return answer({"version": project.files_version, "files": listed})

    async def _put_files(self, request: web.Request) -> web.StreamResponse:
        return await self._receive(request, patch=False)

    async def _patch_files(self, request: web.Request) -> web.StreamResponse:
        return await self._receive(request, patch=True)

    async def _receive(self, request: web.Request, *, patch: bool) -> web.StreamResponse:
        project = await self._context.project(request)
        self._context.check_connected("Send the files again in a moment.")
        command = await self._uploads.receive(request, project, patch=patch)
        await self._context.execute(command, ProjectReply)
        return answer(
            {
                "version": command.base_version + 1,
                "files": command.files,
                "bytes": command.size_bytes,
                "changed": command.changed,
                "deleted": command.deleted,
            }
        )

    async def _missing_files(self, request: web.Request) -> web.StreamResponse:
        """What of these files has to be sent, before it is."""
        project = await self._context.project(request)
        body = await large_body(request, MANIFEST_BYTES_MAX)
        return answer(await self._uploads.missing(body, project))

    async def _prepare(self, request: web.Request) -> web.StreamResponse:
        """All but the dev server, ahead of the wish to see it."""
        project = await self._context.project(request)
        wanted = await optional_body(request, Preparation)
        command = RequestPreview(
            id=command_id(request, project.owner),
            project_id=project.project_id,
            owner=project.owner,
            app=checked_app(wanted.app),
            prepare=True,
            private=wanted.private,
        )
        reply = await self._context.send(command, PreviewReply)
        preview = self._context.state.previews[reply.preview_id]
        headers = {"Location": f"/api/previews/{preview.preview_id}"}
        return answer(self._context.feed.view(preview), status=202 if reply.created else 200, headers=headers)
