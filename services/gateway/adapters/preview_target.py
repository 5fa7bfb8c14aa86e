"""What the preview proxy is told: its limits, and where a preview's requests go (or why they can't go anywhere yet).

Data only: it knows neither sockets nor how a preview's state is found.
"""

from typing import Literal, Protocol

import msgspec
from aiohttp import web

from shared.errors import Problem
from shared.reach import Reach

HoldingStatus = Literal["starting", "failed", "stopped", "suspended", "unknown"]


class Through(msgspec.Struct, frozen=True):
    """The agent through which a dev server is reached, and for which hold on the VM."""

    vm_id: str
    host: str
    port: int
    lease: int
    reach: Reach


class Upstream(msgspec.Struct, frozen=True):
    """The dev server to dial: the only address that the proxy connects to for this request. With `through`, `host` and
    `port` are inside the VM."""

    preview_id: str
    host: str
    port: int
    generation: str = ""
    """Which of the preview's dev servers: no connection of an earlier one is used for it."""
    through: Through | None = None


class Holding(msgspec.Struct, frozen=True):
    """Why a preview cannot be shown now. Texts may come from a user's program: they are escaped when shown."""

    status: HoldingStatus
    preview_id: str
    code: str = ""
    message: str = ""
    hint: str = ""
    log_tail: tuple[str, ...] = ()
    percent: float = 0
    step: str = ""
    evidence: tuple[str, ...] = ()
    """The log's lines that show the reason."""


class Resolver(Protocol):
    """Says where a request for `preview_id` goes; may raise a DrapeError, which the browser gets as such."""

    async def __call__(self, preview_id: str, request: web.Request, /) -> Upstream | Holding: ...


class ProxyConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The knobs of the preview proxy."""

    base_domain: str = "preview.localhost"
    """Previews live at `<id>.<base_domain>`; browsers resolve `*.localhost` to loopback by themselves."""
    public_scheme: Literal["http", "https"] = "http"
    """How browsers reach the gateway when nothing trusted says otherwise."""
    connect_timeout_s: float = 5.0
    """A dev server on the same network accepts in milliseconds or not at all."""
    agent_wait_s: float = 8.0
    """How long an agent that can't be reached is dialled again before a request is given up: its VM may be on its way awake."""
    first_byte_timeout_s: float = 120.0
    """From the last byte of the request to the answer's headers: a first compile may take a minute on a small VM."""
    idle_timeout_s: float = 3600.0
    """An answer that has begun and moves no byte for this long is broken off; event streams are quiet for long."""
    client_check_interval_s: float = 1.0
    """How often a waiting exchange looks whether its browser is still there and its time is up."""
    ws_handshake_timeout_s: float = 10.0
    """Some dev servers leave an upgrade on a wrong path unanswered for ever."""
    ws_heartbeat_s: float = 30.0
    """A browser that answers no ping for half of this after a quiet spell is gone."""
    ws_close_timeout_s: float = 2.0
    """How long the other side gets to answer a close frame."""
    ws_message_bytes_max: int = 64 * 1024 * 1024
    header_bytes_max: int = 64 * 1024
    """One header line, in either direction. Cookies on localhost add up."""
    header_count_max: int = 256
    answer_headers_bytes_max: int = 128 * 1024
    """All header lines of an answer together."""
    request_body_bytes_max: int = 4 * 1024**3
    read_buffer_bytes: int = 256 * 1024
    """What one direction of one exchange may hold in memory before its sender is paused."""
    connections_max: int = 4096
    connections_per_preview_max: int = 256
    """So that one preview cannot use up what all share."""
    upstream_keepalive_s: float = 4.0
    """Below Node's own 5 s, so that a request rarely meets a connection that the dev server is closing."""
    upstreams_max: int = 1024
    """Previews to which connections are kept open; more only while they are in use."""
    lingering_s: float = 3.0
    """How long the rest of a body that was refused is read and forgotten, so that its sender sees the answer."""


_STATUS: dict[HoldingStatus, int] = {"starting": 503, "suspended": 503, "failed": 502, "stopped": 410, "unknown": 404}
_TITLE: dict[HoldingStatus, str] = {
    "starting": "The preview is starting",
    "suspended": "The preview is waking up",
    "failed": "The preview failed",
    "stopped": "The preview was stopped",
    "unknown": "No such preview",
}
_DETAIL: dict[HoldingStatus, str] = {
    "starting": "The dev server does not answer yet.",
    "suspended": "The preview was asleep; this request woke it.",
    "failed": "The dev server could not be started.",
    "stopped": "This preview has ended.",
    "unknown": "There is no preview at this address.",
}
_HINT: dict[HoldingStatus, str] = {
    "starting": "Try again in a moment.",
    "suspended": "Try again in a moment.",
    "failed": "Mend what the log names, then start the preview again.",
    "stopped": "Start the preview again to see it here.",
    "unknown": "Check the address, or list the previews on the gateway's page.",
}
_RETRY_AFTER_S = 1.0


def problem_of(holding: Holding) -> Problem:
    """The holding preview as an RFC 9457 problem; its own words where it has some."""
    return Problem(
        code=holding.code or f"preview_{holding.status}",
        title=_TITLE[holding.status],
        detail=holding.message or _DETAIL[holding.status],
        hint=holding.hint or _HINT[holding.status],
        status=_STATUS[holding.status],
        retry_after_s=_RETRY_AFTER_S if _STATUS[holding.status] == 503 else None,
    )
