"""The services' states at a place of the log, by their own folds; nothing but the log is read."""

import time
from collections.abc import Callable, Iterable
from typing import Any

from deploy.doctor.replaying import DEFINITIONS
from shared.codec import Recorded
from shared.definition import Replayed
from shared.errors import Unavailable
from shared.ports import EventLog

TELL_AFTER_S = 1.0
TELL_EVERY_EVENTS = 2_000

Tell = Callable[[int, int], None]
"""How far it is: event, of how many. Called about once a second, from the second second on."""


class Past:
    """Folds the log for some services at once, forward only."""

    def __init__(self, services: Iterable[str], log: EventLog, tell: Tell = lambda _seq, _until: None) -> None:
        self.folds: dict[str, Replayed[Any]] = {name: Replayed(DEFINITIONS[name]()) for name in services}
        self.seq = 0
        self.last: Recorded | None = None
        """The newest event that was folded."""
        self._log = log
        self._tell = tell
        self._told_at = time.monotonic()

    async def to(self, until: int, each: Callable[[Recorded], None] = lambda _recorded: None) -> None:
        """Fold up to `until`; `each` sees every event on the way. Raises `Unavailable`."""

        def fold(recorded: Recorded) -> None:
            for replayed in self.folds.values():
                replayed.fold(recorded)
            each(recorded)
            self.seq, self.last = recorded.seq, recorded
            if recorded.seq % TELL_EVERY_EVENTS == 0:
                self._maybe_tell(until)

        try:
            await self._log.replay(self.seq, until, None, fold)
        except Unavailable:
            # The ordinary way of reading is slower, and waits for an election's end.
            async for recorded in self._log.read(self.seq, until):
                fold(recorded)

    def _maybe_tell(self, until: int) -> None:
        if time.monotonic() - self._told_at >= TELL_AFTER_S:
            self._told_at = time.monotonic()
            self._tell(self.seq, until)
