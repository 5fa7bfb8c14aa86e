"""What the commands that look at the log share: the way to it, moments, types, and how far they are."""

import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from difflib import get_close_matches
from typing import Any, NamedTuple

import msgspec
from nats.aio.client import Client

from deploy.cli.output import Output
from deploy.cli.platform import platform_secret, require_running
from deploy.travel.moments import begin_of, moment, state_of
from shared.codec import Recorded
from shared.errors import Invalid
from shared.events import EVENT_TYPES, ProjectDeleted
from shared.jetstream.connection import bus_on, connect
from shared.ports import Bus


class Way(NamedTuple):
    """A connection that reads the log of what runs here. `last`: its newest event at the beginning."""

    client: Client
    bus: Bus
    last: int

    async def state_of(self, text: str) -> int:
        """The last event of the state at that moment; see `deploy.travel.moments`."""
        return await state_of(self.client, moment(text, time.time()), self.last, time.time())

    async def begin_of(self, text: str | None) -> int:
        """The event behind which reading begins; None: all is read."""
        return await begin_of(self.client, moment(text, time.time()), self.last) if text is not None else 0

    async def end_of(self, text: str | None) -> int:
        """The last event that is read: a sequence itself, or the last one before a time; never beyond the log's end."""
        if text is None:
            return self.last
        return min(await begin_of(self.client, moment(text, time.time()), self.last), self.last)


@asynccontextmanager
async def way_to_log() -> AsyncIterator[Way]:
    """Raises `Unavailable` where nothing runs here."""
    client = await connect(require_running().nats, "drape-cli")
    try:
        bus = bus_on(client, "cli", platform_secret())
        yield Way(client, bus, await bus.log.last_seq())
    finally:
        await client.close()


def known_types(kinds: tuple[str, ...]) -> frozenset[str]:
    """The types, each of which there is. Raises `Invalid` (`unknown_event_type`) with the nearest name."""
    for kind in kinds:
        if kind not in EVENT_TYPES:
            raise Invalid(
                "unknown_event_type",
                f"There is no event of type {kind!r}.",
                meant(kind, EVENT_TYPES, "ARCHITECTURE.md lists the events."),
            )
    return frozenset(kinds)


def meant(word: str, known: Any, otherwise: str) -> str:
    """A hint that names the nearest."""
    near = get_close_matches(word, known, n=3, cutoff=0.5)
    return f"Is {' or '.join(near)} meant?" if near else otherwise


async def event_view(bus: Bus, recorded: Recorded, *, open_seals: bool = True) -> dict[str, Any]:
    """An event as commands show it, with what is sealed in it as far as that can be read here."""
    event, meta = recorded.event, recorded.meta
    if isinstance(event, ProjectDeleted):
        bus.seals.forget(event.project_id)
    data = msgspec.to_builtins(event) if event is not None else {}
    return {
        "type": recorded.type,
        "seq": recorded.seq,
        "at": meta.at,
        "key": recorded.key,
        "rev": meta.rev,
        "id": meta.id,
        "correlation_id": meta.correlation_id,
        "causation_id": meta.causation_id,
        "actor": meta.actor,
        "data": await bus.seals.opened(data) if open_seals else data,
    }


def teller(output: Output, verb: str) -> Any:
    """Tells on standard error how far a long piece of work is; to programs nothing."""

    def tell(done: int, total: int) -> None:
        if not output.as_json:
            print(f"{verb} {done:,} of {total:,} ({done / max(total, 1):.0%})", file=sys.stderr)

    return tell
