"""What a replica hears over the wire: commands and queries, each in the state that whoever asks has known."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from shared import metrics, tracing
from shared.causes import cause_of
from shared.commands import Command
from shared.errors import UNREADABLE, Invalid
from shared.ports import Handler

if TYPE_CHECKING:
    from shared.runtime import Runtime


def query_handler(runtime: "Runtime[Any]", handler: Handler) -> Handler:
    """A query's handler, asked once the state holds what the asker knew."""

    async def handle(body: bytes, headers: Mapping[str, str]) -> bytes:
        await runtime.hear(cause_of(headers))
        return await handler(body, headers)

    return handle


def command_handler(runtime: "Runtime[Any]", kind: type[Command]) -> Handler:
    """Has commands of this kind carried out. Raises `Invalid` for a body that is none."""
    decoder = msgspec.json.Decoder(kind)

    async def handle(body: bytes, headers: Mapping[str, str]) -> bytes:
        try:
            command = decoder.decode(body or b"{}")
        except msgspec.ValidationError as error:
            raise Invalid("bad_command", f"{kind.__name__}: {error}.") from error
        except UNREADABLE as error:
            raise Invalid("bad_json", f"{kind.__name__}: the body is not JSON: {error}.") from error
        cause = cause_of(headers)
        begun = time.perf_counter()
        metrics.consumed(kind)
        with tracing.hearing(kind, cause):
            reply = await runtime.execute(command, cause)
            metrics.process_duration.record(time.perf_counter() - begun, {"drape.command": kind.__name__})
        return msgspec.json.encode(reply)

    return handle
