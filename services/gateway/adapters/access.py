"""Who asks: tokens and owners, Host and Origin. Every request to the API passes here first."""

import ipaddress
from collections.abc import Mapping

import msgspec
from aiohttp import hdrs, web

from shared.errors import DrapeError, Invalid, Refused, problem_dict
from shared.ids import OwnerId
from shared.secrets import matches

LOCAL_OWNER = "local"
TOKEN_CHARS_MIN = 16
BEARER_PROTOCOL = "bearer."


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """`tokens`: token -> owner; empty on loopback, where everybody is `local`. `hosts`: names that the API answers to."""

    tokens: Mapping[str, OwnerId]
    hosts: frozenset[str]
    operators: frozenset[OwnerId] = frozenset()
    """Owners who may also see and change what is the whole platform's."""

    def known_token(self, request: web.Request) -> str:
        """The token that the request carries, where it is one of ours; else empty."""
        given = _token(request) if self.tokens else ""
        return next((token for token in self.tokens if given and matches(given, token)), "")

    def owner_of(self, request: web.Request) -> OwnerId:
        """The owner whose token the request carries. Raises 401 without a known one."""
        if not self.tokens:
            return LOCAL_OWNER
        token = self.known_token(request)
        if token:
            return self.tokens[token]
        raise Refused(
            "token_required",
            "This gateway asks for an API token.",
            "Send it as `Authorization: Bearer <token>`.",
            status=401,
        )

    def scope_of(self, request: web.Request) -> OwnerId | None:
        """Whose figures the request may see: its owner's; None: everybody's, for operators and where there are no tokens.
        Raises 401 without a known token."""
        owner = self.owner_of(request)
        return owner if self.tokens and owner not in self.operators else None

    def operator_of(self, request: web.Request) -> OwnerId:
        """The owner, where they may act for the whole platform. Raises 401 without a known token, 403 without that right."""
        owner = self.owner_of(request)
        if self.tokens and owner not in self.operators:
            raise Refused(
                "operators_only",
                "This is about the whole platform, and your token is a user's.",
                "DRAPE_GATEWAY_OPERATORS names the owners who may; on the platform's machine `drape alerts` needs no token.",
                status=403,
            )
        return owner

    def check_origin(self, request: web.Request) -> None:
        """A browser page of another origin, a preview's frame among them, may not use the API."""
        host = _host(request)
        if host not in self.hosts:
            raise Refused(
                "unknown_host",
                f"This gateway does not answer to the host name {host[:100]!r}.",
                "DRAPE_GATEWAY_PUBLIC_HOSTS names those that it answers to.",
                status=421,
            )
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is not None and origin.split("://", 1)[-1].lower() != request.host.lower():
            raise Refused("origin_not_allowed", "Pages of another origin may not use this API.", status=403)
        if request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site") and request.path.startswith("/api"):
            raise Refused("origin_not_allowed", "Pages of another origin may not use this API.", status=403)


def access_from(tokens: str, host: str, public_hosts: str, operators: str = "") -> Access:
    """Parse `DRAPE_API_TOKENS` (`token:owner,…`). Raises `Invalid` where the gateway must not start like this."""
    parsed: dict[str, OwnerId] = {}
    for part in filter(None, (each.strip() for each in tokens.split(","))):
        token, _, owner = part.partition(":")
        if len(token) < TOKEN_CHARS_MIN or not owner or not owner.replace("-", "").replace("_", "").isalnum():
            raise Invalid(
                "bad_api_tokens",
                f"DRAPE_API_TOKENS must be `token:owner,…`, tokens of at least {TOKEN_CHARS_MIN} characters, "
                "owners of letters, digits, '-' and '_'.",
                "For example DRAPE_API_TOKENS=$(openssl rand -hex 24):alice",
            )
        parsed[token] = owner
    addresses = [each.strip() for each in host.split(",")]
    if not parsed and not all(is_loopback(each) for each in addresses):
        raise Invalid(
            "tokens_required",
            f"The gateway will not listen on {host} without DRAPE_API_TOKENS: anybody could run code here.",
            "Set DRAPE_API_TOKENS=token:owner, or listen on 127.0.0.1.",
        )
    names = {name.strip().strip("[]").lower() for name in public_hosts.split(",") if name.strip()}
    return Access(
        tokens=parsed,
        hosts=frozenset({*names, *(each.strip("[]") for each in addresses)}),
        operators=frozenset(each.strip() for each in operators.split(",") if each.strip()),
    )


def is_loopback(host: str) -> bool:
    """True for addresses that only this machine reaches."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _host(request: web.Request) -> str:
    """The name that is asked for; empty for what is none, such as one with a port of letters."""
    try:
        return request.url.host or ""
    except ValueError:
        return ""


def socket_protocols(request: web.Request) -> list[str]:
    """The WebSocket sub-protocols that the client offers."""
    offered = request.headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL, "")
    return [each.strip() for each in offered.split(",") if each.strip()]


def _token(request: web.Request) -> str:
    header = request.headers.get(hdrs.AUTHORIZATION, "")
    if header.lower().startswith("bearer "):
        return header[7:].strip()
    # Browsers can't set headers on a WebSocket; a query would end up in logs.
    for protocol in socket_protocols(request):
        if protocol.startswith(BEARER_PROTOCOL):
            return protocol.removeprefix(BEARER_PROTOCOL)
    return ""


def problem_response(error: DrapeError) -> web.Response:
    """The error as problem JSON (RFC 9457)."""
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return web.Response(
        body=msgspec.json.encode(problem_dict(error.problem())),
        status=error.status,
        content_type="application/problem+json",
        headers=headers,
    )
