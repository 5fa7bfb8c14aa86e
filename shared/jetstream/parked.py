"""The stream `DRAPE_PARKED`: one subject a parked reaction, `drape.parked.<service>.<kind>.<seq>`."""

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.errors import APIError, NotFoundError

from shared.errors import Unavailable
from shared.jetstream.erasing import erase_messages
from shared.jetstream.timers import timer_body, timer_data
from shared.jetstream.topology import PARKED, PARKED_ROOT, TIMER_DUE
from shared.parked import REASON_CHARS_MAX, REPLAY, Parked

LISTED_MAX = 10_000

_parked = msgspec.json.Decoder(Parked)


class NatsParked:
    """Read one after the other: there are few, or something is very wrong."""

    def __init__(self, client: Client) -> None:
        self._js = client.jetstream(timeout=5)

    async def list(self) -> list[Parked]:
        found: list[Parked] = []
        seq = 1
        try:
            while len(found) < LISTED_MAX:
                message = await self._js.get_msg(PARKED, seq=seq, subject=f"{PARKED_ROOT}.>", next=True)
                found += _read(message.data or b"")
                seq = (message.seq or 0) + 1
        except NotFoundError:
            return found
        except (nats.errors.Error, APIError, TimeoutError) as error:
            raise _unavailable(error) from error
        return found

    async def count(self) -> int:
        try:
            return (await self._js.stream_info(PARKED)).state.messages
        except (nats.errors.Error, APIError, TimeoutError) as error:
            raise _unavailable(error) from error

    async def replay(self, parked: Parked) -> None:
        """Stored before what was parked is forgotten: at worst it is heard twice."""
        again = f"{TIMER_DUE}.{parked.service}.{REPLAY}.{parked.seq}"
        subject, data = (again, {"seq": parked.seq}) if parked.kind == "event" else (parked.subject, parked.data)
        name = subject.removeprefix(f"{TIMER_DUE}.{parked.service}.").partition(".")[0]
        try:
            await self._js.publish(subject, timer_body(name, data))
        except (nats.errors.Error, APIError, TimeoutError) as error:
            raise _unavailable(error) from error
        await self.drop(parked)

    async def drop(self, parked: Parked) -> None:
        try:
            await erase_messages(self._js, PARKED, f"{PARKED_ROOT}.{parked.key}")
        except (nats.errors.Error, APIError, TimeoutError) as error:
            raise _unavailable(error) from error


def parked_of(message: Msg, service: str, reason: str, at: str) -> Parked:
    """What is kept of a message that failed too often. An event that was tried again keeps its own name."""
    metadata = message.metadata
    timers = f"{TIMER_DUE}.{service}."
    seq, data = metadata.sequence.stream, {}
    is_timer = message.subject.startswith(timers)
    if is_timer:
        data = timer_data(message.data)
        if message.subject.startswith(f"{timers}{REPLAY}."):
            is_timer, seq = False, int(data["seq"])
    return Parked(
        service=service,
        kind="timer" if is_timer else "event",
        seq=seq,
        subject=message.subject,
        reason=reason[:REASON_CHARS_MAX],
        attempts=metadata.num_delivered,
        at=at,
        data=data,
    )


def _read(body: bytes) -> list[Parked]:
    try:
        return [_parked.decode(body)]
    except msgspec.MsgspecError:
        return []  # of an earlier version, which could not be tried again


def _unavailable(error: Exception) -> Unavailable:
    return Unavailable("parked_unavailable", f"The stream of parked reactions does not answer: {error}")
