"""Snapshots in the bucket `drape_snap`, a key for each service and fingerprint: `<service>.<fingerprint>`.

The value is JSON that says what it is of, for whoever looks with `nats kv get`. The body lies beside it in pieces,
`<service>.<fingerprint>.<place>.<number>`, written before the value that names their place. A replica uses two places in
turn, so that what the present value names is never written over by it. Publishing and reading by subject needs no
consumer, and no right beyond the service's own keys.
"""

import asyncio
import zlib

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.js.errors import APIError, NotFoundError

from shared.errors import Unavailable
from shared.jetstream.log import WRONG_LAST_SEQUENCE
from shared.jetstream.topology import EVENTS, SNAPSHOTS_STREAM, SNAPSHOTS_SUBJECT
from shared.snapshot import BODY_BYTES_MAX, Snapshot, SnapshotHead, SnapshotUnfit

TIMEOUT_S = 10.0
VALUE_BYTES_MAX = 512 * 1024
"""Of a value in the bucket; servers take messages of 1 MiB where nothing else is set."""
STORED_BYTES_MAX = 64 * 1024 * 1024
"""A compressed body; more would push the other services' out of the bucket."""
READS_AT_ONCE = 8
COMPRESSION = 1
"""The fastest: a start waits for reading, and what is stored lives for minutes."""


class _Entry(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="Snapshot"):
    """The value of a key. The body is compressed, in `parts` pieces at `place`."""

    head: SnapshotHead
    place: str
    parts: int


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Entry)


class NatsSnapshots:
    """`instance` names this replica: it keeps the places of its pieces apart from other replicas'."""

    def __init__(self, client: Client, instance: str) -> None:
        self._client = client
        self._js = client.jetstream(timeout=TIMEOUT_S)
        self._instance = "".join(c if c.isalnum() else "-" for c in instance) or "0"

    async def log_id(self) -> str:
        try:
            created = (await self._js.stream_info(EVENTS)).created
        except (nats.errors.Error, APIError, TimeoutError) as error:
            raise _unavailable(error) from error
        return created.isoformat() if created is not None else ""

    async def head(self, service: str, fingerprint: str) -> SnapshotHead | None:
        found = await self._entry(f"{service}.{fingerprint}")
        return found.head if found is not None else None

    async def load(self, service: str, fingerprint: str) -> Snapshot | None:
        key = f"{service}.{fingerprint}"
        entry = await self._entry(key)
        if entry is None:
            return None
        gate = asyncio.Semaphore(READS_AT_ONCE)

        async def read(number: int) -> bytes:
            async with gate:
                part = await self._get(f"{key}.{entry.place}.{number}")
            if part is None:
                raise SnapshotUnfit(f"piece {number} of {entry.parts} is missing")
            return part[0]

        body = b"".join(await asyncio.gather(*map(read, range(min(entry.parts, _parts_max())))))
        return Snapshot(entry.head, await asyncio.to_thread(_decompress, body))

    async def store(self, snapshot: Snapshot, *, over_any: bool = False) -> bool:
        key = f"{snapshot.head.service}.{snapshot.head.fingerprint}"
        body = await asyncio.to_thread(zlib.compress, snapshot.body, COMPRESSION)
        if len(body) > STORED_BYTES_MAX:
            raise SnapshotUnfit(f"{len(body)} bytes compressed are more than {STORED_BYTES_MAX}")
        stored = await self._get(key)
        found = _read(stored[0]) if stored is not None else None
        if found is not None and not over_any:
            head = found.head
            if head.log == snapshot.head.log and head.seq >= snapshot.head.seq:
                return False
        place = f"{self._instance}-{1 if found is not None and found.place.endswith('-0') else 0}"
        parts = [body[start : start + VALUE_BYTES_MAX] for start in range(0, len(body), VALUE_BYTES_MAX)]
        for number, part in enumerate(parts):
            await self._put(f"{key}.{place}.{number}", part)
        entry = _Entry(head=snapshot.head, place=place, parts=len(parts))
        return await self._put(key, _encoder.encode(entry), after=stored[1] if stored is not None else 0)

    async def _entry(self, key: str) -> _Entry | None:
        stored = await self._get(key)
        if stored is None:
            return None
        entry = _read(stored[0])
        if entry is None:
            raise SnapshotUnfit("its entry can't be read")
        return entry

    async def _get(self, key: str) -> tuple[bytes, int] | None:
        try:
            message = await self._js.get_last_msg(SNAPSHOTS_STREAM, f"{SNAPSHOTS_SUBJECT}.{key}", direct=True)
        except NotFoundError:
            return None
        except (nats.errors.Error, APIError, TimeoutError) as error:
            raise _unavailable(error) from error
        return message.data or b"", message.seq or 0

    async def _put(self, key: str, value: bytes, *, after: int | None = None) -> bool:
        """False: somebody else has written the key since `after`."""
        headers = None if after is None else {"Nats-Expected-Last-Subject-Sequence": str(after)}
        try:
            await self._js.publish(f"{SNAPSHOTS_SUBJECT}.{key}", value, headers=headers)
        except APIError as error:
            if error.err_code in WRONG_LAST_SEQUENCE:
                return False
            raise _unavailable(error) from error
        except (nats.errors.Error, TimeoutError) as error:
            raise _unavailable(error) from error
        return True


def _read(value: bytes) -> _Entry | None:
    """None: whatever it is, it is no snapshot."""
    try:
        return _decoder.decode(value)
    except msgspec.MsgspecError:
        return None


def _parts_max() -> int:
    return -(-STORED_BYTES_MAX // VALUE_BYTES_MAX)


def _decompress(body: bytes) -> bytes:
    stream = zlib.decompressobj()
    try:
        whole = stream.decompress(body, BODY_BYTES_MAX)
    except zlib.error as error:
        raise SnapshotUnfit(f"it can't be decompressed: {error}") from error
    if not stream.eof:
        raise SnapshotUnfit("it is cut, or too large")
    return whole


def _unavailable(error: BaseException) -> Unavailable:
    return Unavailable(
        "snapshots_unavailable", f"The snapshots' bucket does not answer: {error or type(error).__name__}"
    )
