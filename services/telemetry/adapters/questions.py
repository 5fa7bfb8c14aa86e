"""How PostgreSQL is asked: few questions at once, each within a limit, all that answers one from the same snapshot."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec

from services.telemetry.adapters.postgres import OUTAGES
from shared.errors import UNREADABLE, Invalid, Unavailable

Q = TypeVar("Q")


def decoded(decoder: msgspec.json.Decoder[Q], body: bytes, example: str) -> Q:
    """The query of a body; an empty one asks for what is usual. Raises `Invalid` (`bad_query`), with an `example`."""
    try:
        return decoder.decode(body or b"{}")
    except UNREADABLE as error:
        raise Invalid("bad_query", f"The query is not valid: {error}.", f"Ask {example}.") from error


class Questions:
    """Those of one kind. `what`: begins the code of an error; `title`: its sentence."""

    def __init__(self, pool: Any, what: str, title: str, *, timeout_s: float, concurrency_max: int = 1) -> None:
        self._pool = pool
        self._what = what
        self._title = title
        self._timeout_s = timeout_s
        self._free = asyncio.Semaphore(concurrency_max)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Any]:
        """A connection whose statements all see the same rows. Raises `Unavailable` while PostgreSQL is away, or where the
        block takes too long."""
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._free,
                self._pool.acquire() as connection,
                connection.transaction(isolation="repeatable_read", readonly=True),
            ):
                yield connection
        except OUTAGES as error:
            raise Unavailable(
                f"{self._what}_unavailable",
                f"{self._title} cannot be read: PostgreSQL does not answer.",
                "Previews go on without it; ask again when it is back.",
                retry_after_s=2,
            ) from error
