"""Routes of links: signed addresses that open a private preview for whoever has one, until they expire."""

import msgspec
from aiohttp import web

from services.gateway.adapters.context import Context, answer, optional_body
from services.gateway.adapters.private import Passes, checked_path
from services.gateway.state import Preview
from shared.errors import Invalid

TTL_MIN_S = 10.0


class Link(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /api/previews/{id}/links`; may be left out. `ttl_s`: how long the link opens the preview."""

    ttl_s: float = 3600.0
    path: str = "/"


class SharingRoutes:
    """`/api/previews/{id}/links`."""

    def __init__(self, context: Context, passes: Passes) -> None:
        self._context = context
        self._passes = passes

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/api/previews/{preview_id}/links", self._link)]

    async def _link(self, request: web.Request) -> web.StreamResponse:
        """Of a public preview too: the link only saves asking which kind it is."""
        preview = await self._context.preview(request)
        wanted = await optional_body(request, Link)
        ttl_max_s = self._context.config.link_ttl_max_s
        if not TTL_MIN_S <= wanted.ttl_s <= ttl_max_s:
            raise Invalid("bad_ttl", f"`ttl_s` is a number of seconds from {TTL_MIN_S:g} to {ttl_max_s:g}.")
        if checked_path(wanted.path) != wanted.path:
            raise Invalid("bad_path", "`path` begins with one slash and is a path on the preview's own host.")
        url, expires_at = self._passes.link(
            self._origin(request, preview), preview.preview_id, wanted.path, wanted.ttl_s
        )
        body = {"preview_id": preview.preview_id, "url": url, "expires_at": expires_at, "private": preview.private}
        return answer(body, status=201)

    def _origin(self, request: web.Request, preview: Preview) -> str:
        """Of the preview's address; before that is known, as this gateway was asked."""
        if preview.url:
            return preview.url.rstrip("/")
        port = f":{request.url.explicit_port}" if request.url.explicit_port else ""
        return f"{request.scheme}://{preview.preview_id}.{self._context.config.preview_domain}{port}"
