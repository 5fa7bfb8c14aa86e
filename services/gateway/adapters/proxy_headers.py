"""How headers change on their way through the preview proxy, both ways. Pure: no socket, no request object.

The dev server must believe that it is visited at `localhost:<port>`, since many refuse any other name; the browser must
never be sent there.
"""

import re
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet

import msgspec
from multidict import CIMultiDict, MultiMapping

_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_FORWARDED = frozenset({"forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "x-forwarded-proto"})
_PROBE = frozenset({"x-drape-probe", "x-drape-min-seq"})
_WEBSOCKET = frozenset(
    {"sec-websocket-key", "sec-websocket-version", "sec-websocket-extensions", "sec-websocket-protocol"}
)
PASS_COOKIES = ("drape_pass", "__Host-drape_pass")
"""Cookies that let a browser see a private preview: between it and the gateway, for no dev server."""
_URL = re.compile(r"(?:(https?):)?//([^/?#\\]*)(.*)", re.IGNORECASE | re.DOTALL)
_DEFAULT_PORT = {"http": "80", "https": "443"}
_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]", "0.0.0.0"})  # noqa: S104 - compared with, never bound
_DOMAIN = re.compile(r";\s*domain\s*=[^;]*", re.IGNORECASE)


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One exchange's two ends: where the browser believes to be, and where the dev server believes to be."""

    public_scheme: str
    public_host: str
    """As the browser wrote it: `<id>.preview.localhost:8080`."""
    upstream_host: str
    upstream_port: int
    client_address: str

    @property
    def public_origin(self) -> str:
        return f"{self.public_scheme}://{self.public_host}"

    @property
    def local_host(self) -> str:
        return f"localhost:{self.upstream_port}"

    @property
    def local_origin(self) -> str:
        return f"http://{self.local_host}"


def request_headers(headers: MultiMapping[str], route: Route, *, trust_forwarded: bool) -> CIMultiDict[str]:
    """What the dev server gets: Host, Origin and Referer of its own address, X-Forwarded-*, no hop-by-hop headers.

    Only the preview's own origin is rewritten. A foreign Origin stays, so that the dev server's own guard against other
    sites (Vite's and Next's sockets have one) still works.
    """
    drop = _HOP_BY_HOP | _FORWARDED | _PROBE | _WEBSOCKET | _named_in_connection(headers) | {"host", "expect"}
    passed = CIMultiDict({"Host": route.local_host})
    own_origin = False
    for name, value in headers.items():
        lower = name.lower()
        if lower in drop or _is_disguised(lower, drop):
            continue
        if lower == "cookie":
            if left := _without_passes(value):
                passed.add(name, _sendable(left))
            continue
        own_origin = own_origin or (lower == "origin" and _is_own(value, route))
        passed.add(name, _sendable(_to_local(value, route) if lower in {"origin", "referer"} else value))
    # Frameworks that guard forms (Next, React Router) compare Origin with X-Forwarded-Host first: two different names
    # there would refuse the user's own form.
    if not own_origin:
        passed["X-Forwarded-Host"] = route.public_host
    passed["X-Forwarded-Proto"] = route.public_scheme
    before = headers.get("X-Forwarded-For", "") if trust_forwarded else ""
    passed["X-Forwarded-For"] = _sendable(", ".join(filter(None, (before, route.client_address))))
    return passed


def response_headers(headers: MultiMapping[str], route: Route) -> CIMultiDict[str]:
    """What the browser gets: the dev server's own headers, with its own address replaced by the preview's."""
    drop = _HOP_BY_HOP | _named_in_connection(headers)
    passed: CIMultiDict[str] = CIMultiDict()
    for name, value in headers.items():
        lower = name.lower()
        if lower == "set-cookie" and value.partition("=")[0].strip() in PASS_COOKIES:
            continue
        if lower not in drop:
            passed.add(name, _sendable(_answered(lower, value, route)))
    return passed


def _answered(name: str, value: str, route: Route) -> str:
    if name in {"location", "content-location"}:
        return _to_public(value, route)
    if name == "access-control-allow-origin" and value == route.local_origin:
        return route.public_origin
    if name == "set-cookie":
        # Any Domain that a preview may name is wider than the preview: without it the cookie stays its own.
        return _DOMAIN.sub("", value)
    return value


def _is_disguised(name: str, drop: AbstractSet[str]) -> bool:
    """Servers in the manner of CGI take `Transfer_Encoding` for `Transfer-Encoding`."""
    meant = name.replace("_", "-")
    return meant != name and (meant in drop or meant == "content-length")


def is_plainly_framed(headers: MultiMapping[str]) -> bool:
    """False where two servers could disagree about where the request's body ends: any transfer coding but `chunked` alone."""
    codings = headers.getall("Transfer-Encoding", [])
    return not codings or [each.strip().lower() for each in codings] == ["chunked"]


def cookies_of(headers: MultiMapping[str]) -> list[tuple[str, str]]:
    """The cookies as (name, value), in their order."""
    pairs = (pair.partition("=") for value in headers.getall("Cookie", []) for pair in value.split(";"))
    return [(name.strip(), value.strip()) for name, _, value in pairs]


def _without_passes(value: str) -> str:
    if not any(name in value for name in PASS_COOKIES):
        return value
    return ";".join(pair for pair in value.split(";") if pair.partition("=")[0].strip() not in PASS_COOKIES).strip()


def offered_protocols(headers: MultiMapping[str]) -> tuple[str, ...]:
    """The WebSocket sub-protocols that the browser offers, in its order."""
    return tuple(_tokens(headers.getall("Sec-WebSocket-Protocol", [])))


def wants_websocket(method: str, headers: MultiMapping[str]) -> bool:
    """True for a WebSocket handshake."""
    upgrade = (token.lower() for token in _tokens(headers.getall("Upgrade", [])))
    connection = (token.lower() for token in _tokens(headers.getall("Connection", [])))
    return method == "GET" and "websocket" in upgrade and "upgrade" in connection


def public_scheme(headers: Mapping[str, str], default: str, *, trust_forwarded: bool) -> str:
    """The scheme that the browser used, as far as somebody trusted said so."""
    said = headers.get("X-Forwarded-Proto", "").split(",")[0].strip().lower() if trust_forwarded else ""
    return said if said in _DEFAULT_PORT else default


def _named_in_connection(headers: MultiMapping[str]) -> frozenset[str]:
    values = headers.getall("Connection", [])
    return frozenset(token.lower() for token in _tokens(values)) if values else frozenset()


def _tokens(values: Iterable[str]) -> list[str]:
    return [token for value in values for part in value.split(",") if (token := part.strip())]


def _is_own(url: str, route: Route) -> bool:
    match = _URL.fullmatch(url)
    if match is None or match[1] is None:
        return False
    scheme = match[1].lower()
    return _authority(match[2], scheme) == _authority(route.public_host, scheme)


def _to_local(url: str, route: Route) -> str:
    match = _URL.fullmatch(url)
    return f"{route.local_origin}{match[3]}" if match is not None and _is_own(url, route) else url


def _to_public(url: str, route: Route) -> str:
    match = _URL.fullmatch(url)
    if match is None:
        return url
    host, port = _authority(match[2], (match[1] or "http").lower())
    if host not in _LOCAL_NAMES | {route.upstream_host.lower()} or port != str(route.upstream_port):
        return url
    return f"{route.public_origin}{match[3]}"


def _authority(text: str, scheme: str) -> tuple[str, str]:
    host, colon, port = text.lower().rpartition(":")
    if not colon or port.endswith("]"):
        return text.lower(), _DEFAULT_PORT[scheme]
    return host, port or _DEFAULT_PORT[scheme]


def _sendable(value: str) -> str:
    """The value as valid text: bytes that are not UTF-8 (old servers send Latin-1) arrive as lone surrogates."""
    if value.isascii():
        return value
    raw = value.encode("utf-8", "surrogateescape")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")
