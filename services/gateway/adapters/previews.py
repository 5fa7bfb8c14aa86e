"""Routes of previews: ask, look, restart, stop, read their output, follow them."""

import time
from typing import Annotated

import msgspec
from aiohttp import web

from services.gateway import views
from services.gateway.adapters import output, sse, websocket
from services.gateway.adapters.context import Context, answer, checked_app, command_id, json_body, optional_body
from services.gateway.state import ENDED
from shared.commands import PreviewReply, RequestPreview, RestartPreview, StopPreview

MEMORY_MB_MAX = 1_048_576
NAME_CHARS_MAX = 200


class NewPreview(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /api/previews`. `app`: the folder of the app to show, where the project holds several;
    `private`: only who has a signed link may see it. `memory_mb`, `region`, `image`: of its VM; 0 and empty: as the project
    needs, and any."""

    project_id: str
    app: str = ""
    private: bool = False
    memory_mb: Annotated[int, msgspec.Meta(ge=0, le=MEMORY_MB_MAX)] = 0
    region: Annotated[str, msgspec.Meta(max_length=NAME_CHARS_MAX)] = ""
    image: Annotated[str, msgspec.Meta(max_length=NAME_CHARS_MAX)] = ""


class Restart(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /api/previews/{id}/restart`; may be left out."""

    app: str = ""


class PreviewRoutes:
    """`/api/previews`."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def routes(self) -> list[web.RouteDef]:
        one = "/api/previews/{preview_id}"
        return [
            web.get("/api/previews", self._list),
            web.post("/api/previews", self._request),
            web.get(one, self._get),
            web.delete(one, self._stop),
            web.post(f"{one}/restart", self._restart),
            web.get(f"{one}/logs", self._logs),
            web.get(f"{one}/events", self._events),
        ]

    async def _list(self, request: web.Request) -> web.StreamResponse:
        previews = views.owned_previews(self._context.state, self._context.owner(request))
        return answer({"previews": [self._context.feed.view(preview) for preview in previews]})

    async def _request(self, request: web.Request) -> web.StreamResponse:
        owner = self._context.owner(request)
        wanted = await json_body(request, NewPreview)
        project = await self._context.project_of(request, wanted.project_id)
        command = RequestPreview(
            id=command_id(request, owner),
            project_id=project.project_id,
            owner=owner,
            app=checked_app(wanted.app),
            private=wanted.private,
            memory_mb=wanted.memory_mb,
            region=wanted.region,
            image=wanted.image,
        )
        reply = await self._context.send(command, PreviewReply)
        headers = {"Location": f"/api/previews/{reply.preview_id}"}
        view = self._context.feed.view(self._context.state.previews[reply.preview_id])
        return answer(view, status=202 if reply.created else 200, headers=headers)

    async def _get(self, request: web.Request) -> web.StreamResponse:
        """The preview, with the end of its log and the lines that its error names."""
        preview = await self._context.preview(request)
        config, feed = self._context.config, self._context.feed
        tail, evidence = await output.tail_of(self._context.bus.preview_logs, preview, config.log_tail_lines)
        progress = feed.progress.get(preview.preview_id)
        return answer(views.preview_view(self._context.state, preview, progress, time.time(), tail, evidence))

    async def _stop(self, request: web.Request) -> web.StreamResponse:
        preview = await self._context.preview(request)
        if preview.status not in ENDED:
            await self._context.send(StopPreview(preview_id=preview.preview_id), PreviewReply)
        return answer(self._context.feed.view(self._context.state.previews[preview.preview_id]))

    async def _restart(self, request: web.Request) -> web.StreamResponse:
        preview = await self._context.preview(request)
        wanted = await optional_body(request, Restart)
        command = RestartPreview(
            id=command_id(request, preview.owner), preview_id=preview.preview_id, app=checked_app(wanted.app)
        )
        await self._context.send(command, PreviewReply)
        return answer(self._context.feed.view(self._context.state.previews[preview.preview_id]), status=202)

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        preview = await self._context.preview(request)
        wanted = output.filter_of(request)
        logs = self._context.bus.preview_logs
        if "text/event-stream" in request.headers.get("Accept", ""):
            return await sse.logs(request, preview, wanted, self._context.feed, logs, self._context.config)
        after = websocket.parse_since(request.query.get("since")) or 0
        return answer(await output.page(logs, preview, after, wanted))

    async def _events(self, request: web.Request) -> web.StreamResponse:
        preview = await self._context.preview(request)
        return await sse.events(request, preview.owner, preview.preview_id, self._context.feed, self._context.config)
