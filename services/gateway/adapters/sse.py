"""Server-sent events: a preview's changes and its output, each with an id to go on from."""

import asyncio
from typing import Any

import msgspec
from aiohttp import web

from services.gateway import views
from services.gateway.adapters.feed import Feed, Subscriber
from services.gateway.adapters.websocket import parse_since
from services.gateway.config import GatewayConfig
from shared.ids import OwnerId, PreviewId
from shared.ports import LogBatch, PreviewLogs

READ_MAX = 500


async def events(
    request: web.Request, owner: OwnerId, preview_id: PreviewId, feed: Feed, config: GatewayConfig
) -> web.StreamResponse:
    """`GET /api/previews/{id}/events`: the current state, then every change."""
    since = parse_since(request.headers.get("Last-Event-ID") or request.query.get("since"))
    with feed.subscribe(owner, preview_id=preview_id, since=since) as subscriber:
        response = await _open(request)
        while (message := await _next(subscriber, config.heartbeat_s)) is not _DROPPED:
            if not await _write(response, message, message.get("seq") if message else None):
                break
        return response


async def logs(
    request: web.Request,
    owner: OwnerId,
    preview_id: PreviewId,
    feed: Feed,
    preview_logs: PreviewLogs,
    config: GatewayConfig,
) -> web.StreamResponse:
    """`GET /api/previews/{id}/logs`: from the start, or after `Last-Event-ID`, and on as it comes."""
    after = parse_since(request.headers.get("Last-Event-ID") or request.query.get("since")) or 0
    with feed.subscribe(owner, preview_id=preview_id) as subscriber:
        subscriber.logs_of.add(preview_id)
        response = await _open(request)
        while batches := await preview_logs.read(preview_id, after, READ_MAX):
            for batch in batches:
                after = batch.seq
                if not await _write(response, _log_message(batch), batch.seq):
                    return response
        while (message := await _next(subscriber, config.heartbeat_s)) is not _DROPPED:
            if message is not None:
                if message["type"] != "log" or message["log_seq"] <= after:
                    continue
                after = message["log_seq"]
            if not await _write(response, message, after if message is not None else None):
                break
        return response


_DROPPED: dict[str, Any] = {"type": "dropped"}


async def _next(subscriber: Subscriber, heartbeat_s: float) -> dict[str, Any] | None:
    """The next message; None when it is time for a heartbeat; `_DROPPED` when the client was too slow."""
    if subscriber.dropped.is_set():
        return _DROPPED
    try:
        return await asyncio.wait_for(subscriber.queue.get(), heartbeat_s)
    except TimeoutError:
        return None


async def _open(request: web.Request) -> web.StreamResponse:
    headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    return response


async def _write(response: web.StreamResponse, message: dict[str, Any] | None, event_id: int | None) -> bool:
    """Send a message, or a heartbeat; False once the client has gone."""
    if message is None:
        text = b": alive\n\n"
    else:
        # A warning's type is its code.
        kind = "warning" if "recommendation" in message else message["type"]
        head = f"event: {kind}\n" + (f"id: {event_id}\n" if event_id is not None else "")
        text = head.encode() + b"data: " + msgspec.json.encode(message) + b"\n\n"
    try:
        await response.write(text)
    except ConnectionError:
        return False
    return True


def _log_message(batch: LogBatch) -> dict[str, Any]:
    lines = [views.log_view(line) for line in batch.lines]
    return {"type": "log", "preview_id": batch.preview_id, "log_seq": batch.seq, "lines": lines}
