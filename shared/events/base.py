"""What all events have in common."""

from typing import ClassVar

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """A past fact of one aggregate. `schema_version` counts up when its shape changes."""

    service: ClassVar[str] = ""
    aggregate: ClassVar[str] = ""
    schema_version: ClassVar[int] = 1

    @property
    def aggregate_id(self) -> str:
        """The id of the aggregate that the event belongs to."""
        raise NotImplementedError


def aggregate_key(event: Event) -> str:
    """`<service>.<aggregate>.<id>`: the unit of optimistic concurrency."""
    return f"{event.service}.{event.aggregate}.{event.aggregate_id}"
