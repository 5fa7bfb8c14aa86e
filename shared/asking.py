"""Asks a service until one of its replicas answers: the same request again, by the same id, within a limit.

A replica that hangs keeps what it was given; so after a moment of silence the request goes out once more, to whichever
replica takes it, and the first answer counts. Where nobody is there, that is known after a short bound.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import ClassVar

import msgspec

from shared.causes import headers_of
from shared.commands import Command
from shared.errors import Unavailable
from shared.ports import Cause

REQUEST_TIMEOUT_S = 10.0
"""For a command, all its tries together."""


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of asking again."""

    try_s: float = 1.0
    """Silence after which the request is sent once more; a command usually takes milliseconds."""
    absent_s: float = 2.0
    """How long nobody may be there; a replica that takes over is there at once, one that starts is not."""
    pause_s: float = 0.1
    """Between two tries where nobody was there."""


PATIENCE = Patience()
PASSING = ("state_behind", "stopping")
"""Refusals of one replica that another may not share."""


class Absent(Exception):
    """Nobody listens where the request was sent."""


Attempt = Callable[[bool, float], Awaitable[bytes]]
"""Sends the request; is told whether it is a repetition, and the seconds left. Raises `Absent`, or `TimeoutError`."""


async def ask(
    attempt: Attempt, service: str, timeout_s: float, *, once: bool = False, patience: Patience = PATIENCE
) -> bytes:
    """The first answer. `once`: silence is waited out, for what must not be done twice at the same time.

    Raises the receiver's `DrapeError`, `Unavailable` (`service_unavailable`, `service_silent`).
    """
    asked = _Asked(attempt, timeout_s, timeout_s if once else patience.try_s)
    away_since: float | None = None
    try:
        while True:
            answer = await asked.once_more()
            if isinstance(answer, bytes):
                return answer
            now = asked.now()
            if answer is None:
                away_since = None
                if now >= asked.deadline:
                    raise _silent(service, timeout_s)
                continue
            away_since = now if away_since is None else away_since
            if now - away_since >= patience.absent_s or now >= asked.deadline:
                raise _absent(service) if isinstance(answer, Absent) else answer
            await asyncio.sleep(patience.pause_s)
    finally:
        asked.close()


class _Asked:
    """The tries of one request that are under way."""

    def __init__(self, attempt: Attempt, timeout_s: float, try_s: float) -> None:
        self.now = asyncio.get_running_loop().time
        self.deadline = self.now() + timeout_s
        self._attempt = attempt
        self._try_s = try_s
        self._repeated = False
        self._tries: set[asyncio.Future[bytes]] = set()

    async def once_more(self) -> bytes | Absent | Unavailable | None:
        """Send it; the answer to this try or an earlier one, who was not there, or None after silence."""
        left_s = max(0.0, self.deadline - self.now())
        attempt = asyncio.ensure_future(self._attempt(self._repeated, left_s))
        attempt.add_done_callback(_heard)
        self._tries.add(attempt)
        self._repeated = True
        until = min(self.deadline, self.now() + self._try_s)
        while (left_s := until - self.now()) > 0:
            if not self._tries:
                await asyncio.sleep(left_s)
                return None
            done, self._tries = await asyncio.wait(self._tries, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                error = each.exception()
                if error is None:
                    return each.result()
                if isinstance(error, Absent) or (isinstance(error, Unavailable) and error.code in PASSING):
                    return error
                if not isinstance(error, TimeoutError):
                    raise error
        return None

    def close(self) -> None:
        """What is still under way is of no more interest; the replica that has it finishes it."""
        for each in self._tries:
            each.cancel()


def _heard(attempt: "asyncio.Future[bytes]") -> None:
    """Of tries that end side by side one counts; how the others have failed is nobody's concern."""
    if not attempt.cancelled():
        attempt.exception()


def _absent(service: str) -> Unavailable:
    return Unavailable(
        "service_unavailable", f"The {service} service is not running.", "It may be starting: try again."
    )


def _silent(service: str, timeout_s: float) -> Unavailable:
    return Unavailable("service_silent", f"The {service} service did not answer within {timeout_s:g} s.")


class Asking(ABC):
    """The sending half of `shared.ports.Commands`, the same over every wire; `_request` is one try on it."""

    command_root: ClassVar[str] = "cmd"
    query_root: ClassVar[str] = "query"

    async def send(self, command: Command, cause: Cause) -> bytes:
        subject = f"{self.command_root}.{command.service}.{command.verb}"
        body = msgspec.json.encode(command)

        async def attempt(repeated: bool, left_s: float) -> bytes:
            headers = headers_of(msgspec.structs.replace(cause, repeated=repeated or cause.repeated))
            return await self._request(subject, body, headers, left_s)

        return await ask(attempt, command.service, REQUEST_TIMEOUT_S)

    async def query(
        self,
        service: str,
        name: str,
        body: bytes = b"{}",
        *,
        timeout_s: float = 5.0,
        after_seq: int = 0,
        once: bool = False,
    ) -> bytes:
        subject, headers = f"{self.query_root}.{service}.{name}", headers_of(Cause(after_seq=after_seq))

        async def attempt(_repeated: bool, left_s: float) -> bytes:
            return await self._request(subject, body, headers, left_s)

        return await ask(attempt, service, timeout_s, once=once)

    async def statuses(self, service: str, *, within_s: float = 0.5) -> list[bytes]:
        """Of one replica, where a wire knows no way to ask them all."""
        try:
            return [await self.query(service, "status", timeout_s=within_s)]
        except Unavailable:
            return []

    @abstractmethod
    async def _request(self, subject: str, body: bytes, headers: dict[str, str], left_s: float) -> bytes:
        """The answer. Raises `Absent`, `TimeoutError` after `left_s`, and what the receiver refused with."""
