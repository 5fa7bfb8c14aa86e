"""Server-sent events: a preview's changes and its output, each with an id to go on from."""

import asyncio
from typing import Any

from aiohttp import web

from services.gateway import views
from services.gateway.adapters.feed import Feed, Subscriber
from services.gateway.adapters.output import LogFilter, cut_before
from services.gateway.adapters.websocket import parse_since
from services.gateway.config import GatewayConfig
from services.gateway.state import Preview
from shared.ids import OwnerId, PreviewId
from shared.output import LogBatch
from shared.ports import PreviewLogs

PLAIN = frozenset({"state", "preview", "project", "pool", "preview_progress", "log", "cut", "error", "dropped"})
"""Messages whose type is their `event:` field; the others are warnings, whose type is their code."""
READ_MAX = 500


async def events(
    request: web.Request, owner: OwnerId, preview_id: PreviewId, feed: Feed, config: GatewayConfig
) -> web.StreamResponse:
    """`GET /api/previews/{id}/events`: the current state, then every change."""
    since = parse_since(request.headers.get("Last-Event-ID") or request.query.get("since"))
    older = await feed.before(since)
    with feed.subscribe(owner, preview_id=preview_id, since=since, older=older) as subscriber:
        response = await _open(request)
        while (message := await _next(subscriber, config.heartbeat_s)) is not _DROPPED:
            if not await _write(response, feed, message, message.get("seq") if message else None):
                break
        return response


async def logs(
    request: web.Request,
    preview: Preview,
    wanted: LogFilter,
    feed: Feed,
    preview_logs: PreviewLogs,
    config: GatewayConfig,
) -> web.StreamResponse:
    """`GET /api/previews/{id}/logs`: from the start, or after `Last-Event-ID`, and on as it comes, until the preview is
    stopped. First of all an event `cut`, where some of that is no longer kept."""
    after = parse_since(request.headers.get("Last-Event-ID") or request.query.get("since")) or 0
    with feed.subscribe(preview.owner, preview_id=preview.preview_id) as subscriber:
        subscriber.logs_of.add(preview.preview_id)
        response = await _open(request)
        batches = await preview_logs.read(preview.preview_id, after, READ_MAX)
        cut = await cut_before(preview_logs, preview, after, batches)
        if cut is not None and not await _write(response, feed, cut, None):
            return response
        while batches:
            for batch in batches:
                after = batch.seq
                if not await _write_lines(response, feed, _log_message(batch, wanted), after):
                    return response
            batches = await preview_logs.read(preview.preview_id, after, READ_MAX)
        stopped = preview.status == "stopped"
        while not stopped and (message := await _next(subscriber, config.heartbeat_s)) is not _DROPPED:
            if message is None:
                if not await _write(response, feed, None, None):
                    break
            elif message["type"] == "preview":
                stopped = message["preview"]["status"] == "stopped"
            elif message["type"] == "log" and message["log_seq"] > after:
                after = message["log_seq"]
                if not await _write_lines(response, feed, _only(message, wanted), after):
                    break
        return response


_DROPPED: dict[str, Any] = {"type": "dropped"}


async def _next(subscriber: Subscriber, heartbeat_s: float) -> dict[str, Any] | None:
    """The next message; None when it is time for a heartbeat; `_DROPPED` when the client was too slow, or this
    gateway is leaving."""
    if subscriber.dropped.is_set():
        return _DROPPED
    if not subscriber.queue.empty():
        return subscriber.queue.get_nowait()
    coming = asyncio.ensure_future(subscriber.queue.get())
    dropped = asyncio.ensure_future(subscriber.dropped.wait())
    try:
        await asyncio.wait({coming, dropped}, timeout=heartbeat_s, return_when=asyncio.FIRST_COMPLETED)
        if coming.done():
            return coming.result()
        return _DROPPED if dropped.done() else None
    finally:
        coming.cancel()
        dropped.cancel()


async def _open(request: web.Request) -> web.StreamResponse:
    headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    return response


async def _write(
    response: web.StreamResponse, feed: Feed, message: dict[str, Any] | None, event_id: int | None
) -> bool:
    """Send a message, or a heartbeat; False once the client has gone."""
    if message is None:
        text = b": alive\n\n"
    else:
        kind = message["type"] if message["type"] in PLAIN else "warning"
        head = f"event: {kind}\n" + (f"id: {event_id}\n" if event_id is not None else "")
        text = head.encode() + b"data: " + await feed.encoded(message) + b"\n\n"
    try:
        await response.write(text)
    except ConnectionError:
        return False
    return True


async def _write_lines(response: web.StreamResponse, feed: Feed, message: dict[str, Any], event_id: int) -> bool:
    """Send a batch, if anything of it is wanted; False once the client has gone."""
    return not message["lines"] or await _write(response, feed, message, event_id)


def _log_message(batch: LogBatch, wanted: LogFilter) -> dict[str, Any]:
    lines = [views.log_view(line) for line in batch.lines if wanted(line)]
    return {"type": "log", "preview_id": batch.preview_id, "log_seq": batch.seq, "lines": lines}


def _only(message: dict[str, Any], wanted: LogFilter) -> dict[str, Any]:
    """The message of all readers, with what this one wants."""
    lines = [line for line in message["lines"] if wanted.takes(line["step"], line["attempt"])]
    return {**message, "lines": lines}
