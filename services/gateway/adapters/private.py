"""Private previews: a signed link is exchanged for a cookie of that one host, and nothing passes without one of the two.

Both are HMACs of the platform's secret, so every replica can make and check them and none has to store them. Neither
reaches the dev server, and neither is logged.
"""

import time
from collections.abc import Callable
from typing import Protocol
from urllib.parse import urlencode

from aiohttp import hdrs, web

from services.gateway.adapters.proxy_headers import PASS_COOKIES, cookies_of
from services.gateway.adapters.resolver import PROBE_HEADER
from services.gateway.state import State
from shared.errors import DrapeError
from shared.ids import PreviewId
from shared.secrets import link_mac, matches, pass_mac, probe_token

OPEN_PATH = "/__drape/open"
ASSETS_PATH = "/__drape/assets/"
"""The style of the page that refuses: the same for everybody."""
PASSES_MAX = 64
"""Cookies of our name that are looked at: pages beside it can set some that are not ours."""
PATH_CHARS_MAX = 1024
_EXPIRY_CHARS_MAX = 12
_PLAIN, _HOST_ONLY = PASS_COOKIES


class Guard(Protocol):
    """Looks at a request for a preview before anything else does."""

    def __call__(self, preview_id: PreviewId, request: web.Request, scheme: str, /) -> web.Response | None:
        """An answer instead of the preview's; None lets it pass. Raises the refusal (403)."""


class Passes:
    """Makes and checks links and cookies."""

    def __init__(self, secret: str, pass_s: float, clock: Callable[[], float] = time.time) -> None:
        self._secret = secret
        self._pass_s = int(pass_s)
        self._clock = clock

    def link(self, origin: str, preview_id: PreviewId, path: str, ttl_s: float) -> tuple[str, int]:
        """(the address that opens the preview at `path`, when it expires: seconds, UTC)."""
        expires_at = int(self._clock() + ttl_s)
        query = {"token": f"{expires_at}.{link_mac(self._secret, preview_id, expires_at)}"}
        if path != "/":
            query["to"] = path
        return f"{origin}{OPEN_PATH}?{urlencode(query)}", expires_at

    def check_link(self, preview_id: PreviewId, token: str) -> None:
        """Raises 403 for a link that is not of this preview, or too old."""
        expires_at, mac = _parts(token)
        if not matches(mac, link_mac(self._secret, preview_id, expires_at)):
            raise DrapeError(
                "link_invalid",
                "This link does not open this preview.",
                "Ask whoever sent it for another one; was it copied whole?",
                status=403,
            )
        if expires_at <= self._clock():
            raise DrapeError(
                "link_expired", "This link has expired.", "Ask whoever sent it for another one.", status=403
            )

    def is_admitted(self, preview_id: PreviewId, request: web.Request) -> bool:
        """Whether the request carries this preview's cookie."""
        given = [value for name, value in cookies_of(request.headers) if name in PASS_COOKIES]
        return any(self._is_pass(preview_id, value) for value in given[:PASSES_MAX])

    def admit(self, preview_id: PreviewId, response: web.Response, *, scheme: str, framed_elsewhere: bool) -> None:
        """Set the cookie: of this host alone, out of scripts' reach. `framed_elsewhere`: in a frame of a page of another
        site, where browsers keep only cookies that say so, and there only of that page."""
        expires_at = int(self._clock()) + self._pass_s
        name = _HOST_ONLY if scheme == "https" else _PLAIN
        site = "SameSite=Lax" + ("; Secure" if scheme == "https" else "")
        if framed_elsewhere:
            site = "SameSite=None; Secure; Partitioned"
        value = f"{expires_at}.{pass_mac(self._secret, preview_id, expires_at)}"
        response.headers.add(hdrs.SET_COOKIE, f"{name}={value}; Path=/; Max-Age={self._pass_s}; HttpOnly; {site}")

    def is_probe(self, preview_id: PreviewId, request: web.Request) -> bool:
        """Whether the platform itself asks, with a key of this preview."""
        given = request.headers.get(PROBE_HEADER, "")
        return bool(given) and matches(given, probe_token(self._secret, preview_id))

    def _is_pass(self, preview_id: PreviewId, value: str) -> bool:
        expires_at, mac = _parts(value)
        return matches(mac, pass_mac(self._secret, preview_id, expires_at)) and expires_at > self._clock()


class PrivateGuard:
    """The `Guard` of the gateway's state."""

    def __init__(self, state: Callable[[], State], passes: Passes) -> None:
        self._state = state
        self._passes = passes

    def __call__(self, preview_id: PreviewId, request: web.Request, scheme: str, /) -> web.Response | None:
        preview = self._state().previews.get(preview_id)
        if preview is None:
            return None  # nothing is served of what is not known
        if request.path == OPEN_PATH and request.method in ("GET", "HEAD"):
            return self._open(preview_id, request, scheme)
        if not preview.private or request.path.startswith(ASSETS_PATH):
            return None
        if self._passes.is_admitted(preview_id, request) or self._passes.is_probe(preview_id, request):
            return None
        raise DrapeError(
            "preview_private",
            "This preview is private.",
            "Open it by a link from the gateway's page, `drape preview --private` or POST /api/previews/{id}/links.",
            status=403,
        )

    def _open(self, preview_id: PreviewId, request: web.Request, scheme: str) -> web.Response:
        """The link's token goes, a cookie comes, and the browser is sent to the clean address."""
        self._passes.check_link(preview_id, request.query.get("token", ""))
        headers = {"Location": checked_path(request.query.get("to", "/")), "Cache-Control": "no-store"}
        response = web.Response(status=303, headers={**headers, "Referrer-Policy": "no-referrer"})
        elsewhere = request.headers.get("Sec-Fetch-Site") == "cross-site"
        framed = request.headers.get("Sec-Fetch-Dest") in ("iframe", "frame")
        self._passes.admit(preview_id, response, scheme=scheme, framed_elsewhere=elsewhere and framed)
        return response


def checked_path(path: str) -> str:
    """A path with its query on the preview's own host; anything that could lead elsewhere is its root."""
    plain = path.isascii() and path.isprintable() and " " not in path and "\\" not in path
    return path if plain and path.startswith("/") and not path.startswith("//") and len(path) <= PATH_CHARS_MAX else "/"


def _parts(token: str) -> tuple[int, str]:
    expiry, _, mac = token.partition(".")
    if not (expiry.isascii() and expiry.isdecimal()) or len(expiry) > _EXPIRY_CHARS_MAX:
        return 0, ""
    return int(expiry), mac
