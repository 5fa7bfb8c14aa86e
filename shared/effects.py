"""Effects that every service may ask for, as data. The runtime performs them; a service's own are its `effects.py`'s.

One whose class says `lasting` may take long and be taken up by another replica: it is handed back when a replica ends.
One that says `endless` has no end in sight: the span of the reaction ends before it.
"""

import msgspec

from shared.commands import Command


class Send(msgspec.Struct, frozen=True):
    """Send a command, to this service or another. Its id is derived from what caused it."""

    command: Command


class SetTimer(msgspec.Struct, frozen=True):
    """Be called `delay_s` from now; the same name and id replaces an earlier timer."""

    name: str
    id: str
    delay_s: float
    data: dict[str, str | int] = {}
