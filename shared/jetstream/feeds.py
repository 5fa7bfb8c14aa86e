"""What is not a fact: progress and activity over core NATS, and the previews' own output in a bounded stream."""

import logging
from collections.abc import Callable, Sequence

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import api
from nats.js.errors import APIError, NotFoundError

from shared.errors import Unavailable
from shared.ids import PreviewId
from shared.jetstream.answers import typed, untyped
from shared.jetstream.erasing import erase_messages
from shared.jetstream.following import Follower
from shared.jetstream.topology import ACTIVITY_ROOT, LOG_ROOT, LOGS, PROGRESS_ROOT
from shared.output import LogBatch, LogLine
from shared.ports import Progress, Subscription

log = logging.getLogger("drape.feeds")

_progress = msgspec.json.Decoder(Progress)
_decoder = msgspec.json.Decoder(tuple[LogLine, ...])
_BATCH = ("PreviewOutput", "lines")
"""A batch's type, and the member with its lines."""


def _batch(lines: Sequence[LogLine]) -> bytes:
    kind, member = _BATCH
    return typed(kind, msgspec.json.encode(lines), member)


def _lines(body: bytes | None) -> tuple[LogLine, ...]:
    """Of a batch as it is stored; those of before were the lines alone."""
    kind, member = _BATCH
    return _decoder.decode(untyped(kind, body or b"[]", member))


class NatsProgress:
    """`drape.progress.<preview>`: whoever listens hears it, nobody stores it."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def publish(self, progress: Progress) -> None:
        try:
            body = typed("Progress", msgspec.json.encode(progress))
            await self._client.publish(f"{PROGRESS_ROOT}.{progress.preview_id}", body)
        except nats.errors.Error as error:
            log.debug("progress_unsent", extra={"error": str(error)})

    async def subscribe(self, handler: Callable[[Progress], None]) -> Subscription:
        async def on_message(message: Msg) -> None:
            handler(_progress.decode(message.data))

        return _Stoppable(await self._client.subscribe(f"{PROGRESS_ROOT}.*", cb=on_message))


class NatsActivity:
    """`drape.activity.<preview>`: the subject says it all."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def publish(self, preview_id: PreviewId) -> None:
        try:
            await self._client.publish(f"{ACTIVITY_ROOT}.{preview_id}", b'{"type":"Activity"}')
        except nats.errors.Error as error:
            log.debug("activity_unsent", extra={"error": str(error)})

    async def subscribe(self, handler: Callable[[PreviewId], None]) -> Subscription:
        async def on_message(message: Msg) -> None:
            handler(message.subject.removeprefix(f"{ACTIVITY_ROOT}."))

        return _Stoppable(await self._client.subscribe(f"{ACTIVITY_ROOT}.*", cb=on_message))


class NatsPreviewLogs:
    """The stream `DRAPE_LOGS`, one subject a preview."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._js = client.jetstream(timeout=5)

    async def append(self, preview_id: PreviewId, lines: Sequence[LogLine]) -> None:
        try:
            await self._js.publish(f"{LOG_ROOT}.{preview_id}", _batch(lines))
        except (nats.errors.Error, APIError, TimeoutError) as error:
            raise Unavailable("logs_unavailable", f"The log stream did not take a batch: {error}") from error

    async def read(self, preview_id: PreviewId, after: int = 0, limit: int = 1000) -> list[LogBatch]:
        subject = f"{LOG_ROOT}.{preview_id}"
        batches: list[LogBatch] = []
        seq = after + 1
        try:
            while len(batches) < limit:
                message = await self._next(subject, seq)
                batches.append(LogBatch(preview_id=preview_id, seq=message.seq or 0, lines=_lines(message.data)))
                seq = (message.seq or 0) + 1
        except NotFoundError:
            return batches
        except (nats.errors.Error, APIError, TimeoutError) as error:
            raise Unavailable("logs_unavailable", f"The log stream does not answer: {error}") from error
        return batches

    async def _next(self, subject: str, seq: int) -> api.RawStreamMsg:
        """From any replica; one that has no more may be behind, so the leader says where the end is."""
        try:
            return await self._js.get_msg(LOGS, seq=seq, subject=subject, next=True, direct=True)
        except NotFoundError:
            return await self._js.get_msg(LOGS, seq=seq, subject=subject, next=True)

    async def last(self, preview_id: PreviewId) -> LogBatch | None:
        try:
            message = await self._js.get_last_msg(LOGS, f"{LOG_ROOT}.{preview_id}", direct=False)
        except NotFoundError:
            return None
        except (nats.errors.Error, APIError, TimeoutError) as error:
            raise Unavailable("logs_unavailable", f"The log stream does not answer: {error}") from error
        return LogBatch(preview_id=preview_id, seq=message.seq or 0, lines=_lines(message.data))

    async def erase(self, preview_id: PreviewId) -> int:
        try:
            return await erase_messages(self._js, LOGS, f"{LOG_ROOT}.{preview_id}")
        except (nats.errors.Error, APIError, TimeoutError) as error:
            raise Unavailable("logs_unavailable", f"The log stream does not answer: {error}") from error

    async def subscribe(self, handler: Callable[[LogBatch], None]) -> Subscription:
        async def on_message(message: Msg, seq: int) -> bool:
            preview_id = message.subject.removeprefix(f"{LOG_ROOT}.")
            handler(LogBatch(preview_id=preview_id, seq=seq, lines=_lines(message.data)))
            return True

        try:
            last = (await self._js.stream_info(LOGS)).state.last_seq
        except (nats.errors.Error, APIError, TimeoutError) as error:
            raise Unavailable("logs_unavailable", f"The log stream does not answer: {error}") from error
        follower = Follower(self._js, LOGS, f"{LOG_ROOT}.>", last, on_message, contiguous=False)
        await follower.start()
        return follower


class _Stoppable:
    def __init__(self, subscription: object) -> None:
        self._subscription = subscription

    async def stop(self) -> None:
        try:
            await self._subscription.unsubscribe()  # type: ignore[attr-defined]
        except nats.errors.Error as error:
            log.debug("unsubscribe_late", extra={"error": str(error)})
