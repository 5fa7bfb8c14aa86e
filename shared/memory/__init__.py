"""The ports of `shared.ports` in memory: for journeys in virtual time and for simulations. Same promises as JetStream:
an optimistic log, durable consumers that deliver again what was not acknowledged, timers that outlive their service.

Events go through the real codec, so that what cannot be stored cannot pass here either.
"""

from collections.abc import Mapping, Sequence

from shared.events import Event
from shared.memory.broker import Shared
from shared.memory.commands import MemoryCommands
from shared.memory.feeds import MemoryFeed, MemoryObjects, MemoryPreviewLogs, MemoryTimers
from shared.memory.keys import MemoryKeys
from shared.memory.log import MemoryLog
from shared.memory.reactions import ACK_WAIT_S, MemoryReactions
from shared.ports import Bus
from shared.seals import Seals

__all__ = ["ACK_WAIT_S", "SECRET", "MemoryBroker"]

SECRET = "0" * 64
"""The platform's, where there is no platform."""


class MemoryBroker(Shared):
    """Gives each replica its ports; what they share is its own."""

    def bus(self, reacts_to: Mapping[str, Sequence[type[Event]]] | None = None) -> Bus:
        """The ports for one replica. `reacts_to`: the event types of each service's consumer."""

        async def close() -> None:
            return

        for service, kinds in (reacts_to or {}).items():
            self.event_queues[service].types = frozenset(kind.__name__ for kind in kinds)
        return Bus(
            log=MemoryLog(self),
            reactions=MemoryReactions(self),
            commands=MemoryCommands(self),
            timers=MemoryTimers(self),
            progress=MemoryFeed(self.progress_listeners),
            activity=MemoryFeed(self.activity_listeners),
            preview_logs=MemoryPreviewLogs(self),
            objects=MemoryObjects(self),
            parked=self.parked,
            seals=Seals(MemoryKeys(self), SECRET),
            snapshots=self.snapshots,
            connected=lambda: self.connected,
            close=close,
        )
