"""A stream as a whole, out of the server and back, by the server's own snapshots: what `nats stream backup` uses too.

Every message keeps its sequence, time and headers. Consumers are not in it: they begin anew and hear old events again,
for which reactions are made. What they had done at the moment of a backup could be ahead of the events that it holds.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import api

from shared.errors import DrapeError, Unavailable
from shared.jetstream.topology import EVENTS, FILES_BUCKET, KEYS

ARCHIVED = (EVENTS, KEYS, f"OBJ_{FILES_BUCKET}")
"""What can't be recomputed, in the order in which it is copied: keys and files that events name are there when the events
are, so what is copied after the events has them."""
CHUNK_BYTES = 128 * 1024
REQUEST_TIMEOUT_S = 10.0
SILENCE_MAX_S = 60.0
"""The server looks through the whole stream for damage before the first chunk comes."""
LARGEST_ANSWER_S = 300.0
"""At the end of a restore the server builds the stream's index before it answers."""
_NOT_FOUND = 404
_WHOLE = "204"


class ArchiveError(DrapeError):
    """The server did not make a snapshot, or did not take one."""

    status = 502


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """What a stream's snapshot is of, as the server says it: its configuration, and its state at that moment."""

    config: dict[str, Any]
    state: dict[str, Any]


async def stream_state(client: Client, stream: str) -> dict[str, Any] | None:
    """The server's account of a stream (`config`, `created`, `state` …); None where there is none."""
    told = await _ask(client, f"$JS.API.STREAM.INFO.{stream}", b"")
    if told.get("error", {}).get("code") == _NOT_FOUND:
        return None
    _raise_for(told, f"tell about {stream}")
    return told


async def snapshot(client: Client, stream: str, write: Callable[[bytes], object]) -> Stored:
    """Hand the whole stream to `write`, piece by piece, as the server packs it. Raises `ArchiveError`, `Unavailable`."""
    arrived: asyncio.Queue[Msg] = asyncio.Queue()  # the server sends no more than a window that was not acknowledged
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox, cb=arrived.put)
    try:
        request = {"deliver_subject": inbox, "no_consumers": True, "chunk_size": CHUNK_BYTES, "jsck": True}
        told = await _ask(client, f"$JS.API.STREAM.SNAPSHOT.{stream}", msgspec.json.encode(request), SILENCE_MAX_S)
        _raise_for(told, f"make a snapshot of {stream}")
        while True:
            message = await asyncio.wait_for(arrived.get(), SILENCE_MAX_S)
            if not message.data:
                headers = message.headers or {}
                if headers.get(api.Header.STATUS.value, _WHOLE) != _WHOLE:
                    raise ArchiveError(
                        "snapshot_broken_off",
                        f"NATS broke off the snapshot of {stream}: {headers.get(api.Header.DESCRIPTION.value, headers)}.",
                        "What was copied is not whole; run it again.",
                    )
                return Stored(config=told["config"], state=told["state"])
            await asyncio.to_thread(write, message.data)
            if message.reply:
                await client.publish(message.reply)
    except (nats.errors.Error, TimeoutError) as error:
        raise _silent(f"the snapshot of {stream}", error) from error
    finally:
        with contextlib.suppress(nats.errors.Error):  # already closed
            await subscription.unsubscribe()


async def restore(client: Client, stored: Stored, chunks: Iterable[bytes]) -> dict[str, Any]:
    """Make the stream anew from a snapshot; gives the server's account of it. Raises `ArchiveError`, `Unavailable`."""
    stream = stored.config["name"]
    try:
        body = msgspec.json.encode({"config": stored.config, "state": stored.state})
        told = await _ask(client, f"$JS.API.STREAM.RESTORE.{stream}", body, SILENCE_MAX_S)
        _raise_for(told, f"restore {stream}")
        target = told["deliver_subject"]
        for chunk in chunks:
            answer = await client.request(target, chunk, timeout=SILENCE_MAX_S)
            if answer.data:  # an empty one only says that the piece has arrived
                _raise_for(msgspec.json.decode(answer.data), f"restore {stream}")
        made: dict[str, Any] = await _ask(client, target, b"", LARGEST_ANSWER_S)
    except (nats.errors.Error, TimeoutError) as error:
        raise _silent(f"the restore of {stream}", error) from error
    _raise_for(made, f"restore {stream}")
    return made


async def _ask(client: Client, subject: str, body: bytes, timeout_s: float = REQUEST_TIMEOUT_S) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = msgspec.json.decode((await client.request(subject, body, timeout=timeout_s)).data)
    except (nats.errors.Error, TimeoutError) as error:
        raise _silent(subject, error) from error
    return answer


def _raise_for(told: dict[str, Any], what: str) -> None:
    error = told.get("error")
    if error:
        raise ArchiveError(
            "archive_refused",
            f"NATS did not {what}: {error.get('description', error)} ({error.get('err_code', error.get('code'))}).",
            "The server's log says more. One that syncs each write (`sync_interval: always`) may be too slow for a restore: let "
            "it have the default until that is done.",
        )


def _silent(what: str, error: BaseException) -> Unavailable:
    return Unavailable(
        "nats_silent",
        f"NATS fell silent in {what} ({str(error) or type(error).__name__}).",
        "Nothing is half done that counts; run it again once NATS answers.",
    )
