"""What the server does not permit, as errors: nats-py only lets the request run into its time-out."""

import asyncio
import logging
import re
import time
from collections import OrderedDict, defaultdict
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg

from shared.errors import DrapeError
from shared.jetstream.naming import fresh_name, named

log = logging.getLogger("drape.nats")

CODE = "nats_denied"
FLUSH_TIMEOUT_S = 10
TOLD_AGAIN_AFTER_S = 60.0
TOLD_MAX = 1_000
"""Subjects whose denial was logged lately: one line a minute for each is enough."""

_VIOLATION = re.compile(r'permissions violation for (publish|subscription) to "([^"]+)"', re.IGNORECASE)


class Denied(DrapeError):
    """This identity may not do that. Asking again does not help: permissions are the deployment's."""

    status = 500

    def __init__(self, identity: str, what: str, subject: str) -> None:
        super().__init__(
            CODE,
            f"NATS does not let {identity or 'this connection'} {what} {subject}.",
            "The server's permissions are older than this program, or the wrong key is used: `drape provision` writes both.",
        )
        self.subject = subject


class WatchfulClient(Client):
    """A connection whose requests fail at once where they are not permitted. `identity` is for the errors' words."""

    def __init__(self, identity: str = "") -> None:
        super().__init__()
        self._identity = identity
        self._asking: defaultdict[str, set[_Asked]] = defaultdict(set)
        self._told: OrderedDict[str, float] = OrderedDict()
        self._deaf = ""
        """Our own inbox, where it was denied: no answer can come then, to nothing."""

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        timeout: float = 0.5,
        old_style: bool = False,
        headers: dict[str, Any] | None = None,
    ) -> Msg:
        """As nats-py's. Raises `Denied` too."""
        subject, payload = named(
            subject, payload, fresh_name(str(self.options.get("name") or ""), self._nuid.next().decode())
        )
        key = subject.lower()  # the server's words are lower-cased on their way here
        if self._deaf:
            raise Denied(self._identity, "subscribe to", self._deaf)
        asked = _Asked()
        self._asking[key].add(asked)
        try:
            async with asyncio.timeout(None) as asked.scope:
                return await super().request(subject, payload, timeout=timeout, old_style=old_style, headers=headers)
        except TimeoutError:
            if asked.denied and self._deaf:
                raise Denied(self._identity, "subscribe to", self._deaf) from None
            if asked.denied:
                raise Denied(self._identity, "publish to", subject) from None
            raise
        finally:
            self._asking[key].discard(asked)
            if not self._asking[key]:
                del self._asking[key]

    async def flush(self, timeout: int = FLUSH_TIMEOUT_S) -> None:
        """As nats-py's, whose ping overtakes what is still pending: its answer would say nothing of that."""
        await self._flush_pending(force_flush=True)
        await super().flush(timeout)

    def denied(self, error: Exception) -> bool:
        """Whether the server's error was a violation: it is told then, and whoever waits on that subject has failed."""
        found = _VIOLATION.search(str(error))
        if found is None:
            return False
        kind, subject = found[1].lower(), found[2]
        if kind == "publish":
            for asked in self._asking.get(subject.lower(), ()):
                asked.deny()
        elif subject.lower().startswith(self._inbox_prefix.decode().lower()):
            self._deaf = subject
            for everyone in self._asking.values():
                for asked in everyone:
                    asked.deny()
        self._tell(f"{kind} {subject}")
        return True

    def _tell(self, what: str) -> None:
        now = time.monotonic()
        if now - self._told.get(what, -TOLD_AGAIN_AFTER_S) < TOLD_AGAIN_AFTER_S:
            return
        log.error(CODE, extra={"identity": self._identity, "denied": what})
        self._told[what] = now
        self._told.move_to_end(what)
        if len(self._told) > TOLD_MAX:
            self._told.popitem(last=False)


class _Asked:
    """A request under way. Its scope is ended where the server denies its subject: no task of its own is needed."""

    __slots__ = ("denied", "scope")

    def __init__(self) -> None:
        self.denied = False
        self.scope: asyncio.Timeout | None = None

    def deny(self) -> None:
        self.denied = True
        if self.scope is not None and not self.scope.expired():
            self.scope.reschedule(asyncio.get_running_loop().time())
