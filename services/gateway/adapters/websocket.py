"""`/ws`: the current state first, then every change in order. A client may subscribe to a preview's log."""

import asyncio
from typing import Any

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from services.gateway.adapters.access import socket_protocols
from services.gateway.adapters.feed import Feed, Subscriber
from services.gateway.config import GatewayConfig
from services.gateway.state import State
from shared.errors import UNREADABLE, Invalid
from shared.ids import OwnerId

PROTOCOL = "drape.v1"
BAD_MESSAGES_MAX = 20
"""Messages that are not understood before the connection is closed."""


class Wish(msgspec.Struct, forbid_unknown_fields=False):
    """What a client may ask for over its socket."""

    type: str
    preview_id: str = ""


_wish = msgspec.json.Decoder(Wish)


async def serve(
    request: web.Request, owner: OwnerId, feed: Feed, state: State, config: GatewayConfig
) -> web.WebSocketResponse:
    """One client, until it goes or is too slow."""
    project_id = request.query.get("project") or None
    since = parse_since(request.query.get("since"))
    older = await feed.before(since)
    with feed.subscribe(owner, project_id=project_id, since=since, older=older) as subscriber:
        protocols = (PROTOCOL,) if PROTOCOL in socket_protocols(request) else ()
        socket = web.WebSocketResponse(
            heartbeat=config.heartbeat_s, max_msg_size=config.websocket_message_bytes_max, protocols=protocols
        )
        await socket.prepare(request)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_send(socket, subscriber, feed)),
                group.create_task(_receive(socket, subscriber, owner, state)),
                group.create_task(_drop_when_slow(socket, subscriber)),
            ]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
    if not socket.closed:
        await socket.close()
    return socket


def parse_since(text: str | None) -> int | None:
    """The sequence after which a client wants the changes. Raises `Invalid` for what is none."""
    if text is None or text == "":
        return None
    if not text.isdecimal() or len(text) > 18:
        raise Invalid("bad_since", "`since` is the `seq` of the last message, a whole number.")
    return int(text)


async def _send(socket: web.WebSocketResponse, subscriber: Subscriber, feed: Feed) -> None:
    while True:
        body = await feed.encoded(await subscriber.queue.get())
        try:
            await socket.send_str(body.decode())
        except (ConnectionError, RuntimeError):
            return  # the client has gone


async def _drop_when_slow(socket: web.WebSocketResponse, subscriber: Subscriber) -> None:
    await subscriber.dropped.wait()
    if subscriber.left:
        await socket.close(code=WSCloseCode.SERVICE_RESTART, message=b"restarting: reconnect with since")
        return
    await socket.close(code=WSCloseCode.TRY_AGAIN_LATER, message=b"too slow: reconnect with since")


async def _receive(socket: web.WebSocketResponse, subscriber: Subscriber, owner: OwnerId, state: State) -> None:
    bad = 0
    async for message in socket:
        if message.type is not WSMsgType.TEXT:
            problem: str | None = "Only text messages are understood."
        else:
            problem = _obey(message.data, subscriber, owner, state)
        if problem is None:
            continue
        bad += 1
        subscriber.offer({"type": "error", "code": "bad_message", "message": problem})
        if bad >= BAD_MESSAGES_MAX:
            await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"too many bad messages")
            return


def _obey(text: Any, subscriber: Subscriber, owner: OwnerId, state: State) -> str | None:
    """Do what the message asks for; gives what is wrong with it, else None."""
    try:
        wish = _wish.decode(text)
    except UNREADABLE:
        return "The message is not a JSON object with a `type`."
    match wish.type:
        case "subscribe_logs":
            preview = state.previews.get(wish.preview_id)
            if preview is None or preview.owner != owner:
                return f"There is no preview {wish.preview_id[:64]}."
            subscriber.logs_of.add(wish.preview_id)
        case "unsubscribe_logs":
            subscriber.logs_of.discard(wish.preview_id)
        case _:
            return f"The message type {wish.type[:64]!r} is not known."
    return None
