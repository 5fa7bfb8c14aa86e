"""Many events at once, for the replay at a start: the connection's bytes are cut into events where they arrive.

nats-py parses every message's headers, makes an object of it and hands it through a queue to a task: that takes longer
than folding it. While a replay runs, messages of its inbox are taken out before all that; whatever else comes on the
same connection goes on to nats-py, in its place.
"""

import asyncio
import contextlib
import re
from collections.abc import Callable
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.js import api
from nats.js.errors import APIError
from nats.protocol.parser import AWAITING_CONTROL_LINE, Parser

from shared.codec import ALL_EVENTS, SUBJECT_ROOT, Recorded, decode_as, decode_meta
from shared.errors import Unavailable
from shared.events import EVENT_TYPES
from shared.fingerprint import passed_over
from shared.jetstream.topology import EVENTS

HEARTBEAT_S = 1.0
SILENCE_MAX_S = 5.0
"""Without an event or a heartbeat for so long the rest is left to the ordinary way of following."""
REQUEST_TIMEOUT_S = 5.0
REPLIES_WAITING_MAX = 1_000

_EVENT = rb"HMSG %s\.([^. ]+\.[^. ]+\.[^. ]+)\.(\S+) %d \$JS\.ACK\.[^. ]+\.[^. ]+\.1\.(\d+)\.\S+ (\d+) (\d+)\r\n"
"""An event's line: aggregate, type, subscription, $JS.ACK.<stream>.<consumer>.<deliveries>.<stream sequence>.<more>, and
the bytes of the headers and of all. One expression, for it is what most of the cutting takes."""
_LINE = re.compile(rb"HMSG (\S+) (\d+) (\S+) (\d+) (\d+)\r\n")
_STATUS = b"NATS/1.0 1"
_STALLED = re.compile(rb"Nats-Consumer-Stalled: (\S+)\r\n")
TRACEPARENT = b"\r\ntraceparent: "


class Replay:
    """Delivers the events after `after`, up to `until`, in order and without a gap, as `EventLog.replay` says."""

    def __init__(
        self, client: Client, after: int, until: int, types: frozenset[str] | None, deliver: Callable[[Recorded], None]
    ) -> None:
        self._client = client
        self._last = after
        self._until = until
        # All kinds of which there is a content to read, as they stand in a subject.
        self._contents = {each.encode(): each for each in EVENT_TYPES if types is None or each in types}
        self._passed = frozenset(each.encode() for each in passed_over(types))
        self._deliver = deliver
        self.sid = 0
        self._event = re.compile(_EVENT % (b"", 0))
        self._heard = asyncio.Event()
        self._replies: list[str] = []
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Return once all are delivered. Raises `Unavailable` where the rest has to be read in another way; what was
        delivered until then counts. Raises what `deliver` raises."""
        if self._last >= self._until:
            return
        inbox = self._client.new_inbox()
        subscription = await self._client.subscribe(inbox, cb=_ignore)
        self.sid = subscription._id
        self._event = re.compile(_EVENT % (re.escape(SUBJECT_ROOT.encode()), self.sid))
        try:
            with _diverted(self._client, self):
                await self._consumer(inbox)
                await self._wait()
        except (nats.errors.Error, APIError, TimeoutError) as error:
            raise Unavailable(
                "replay_broken_off", f"The event log fell silent: {error or type(error).__name__}"
            ) from error
        finally:
            with contextlib.suppress(nats.errors.Error):  # already closed
                await subscription.unsubscribe()

    async def _consumer(self, inbox: str) -> None:
        """As an ordered consumer's: nothing to acknowledge, paced by the server's flow control, gone with its inbox."""
        config = api.ConsumerConfig(
            deliver_subject=inbox,
            deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=self._last + 1,
            filter_subject=ALL_EVENTS,
            ack_policy=api.AckPolicy.NONE,
            max_deliver=1,
            flow_control=True,
            idle_heartbeat=HEARTBEAT_S,
            inactive_threshold=SILENCE_MAX_S,
            mem_storage=True,
            num_replicas=1,
        )
        await self._client.jetstream(timeout=REQUEST_TIMEOUT_S).add_consumer(EVENTS, config)

    async def _wait(self) -> None:
        while not self._ended.done():
            before = self._last
            try:
                await asyncio.wait_for(self._heard.wait(), SILENCE_MAX_S)
            except TimeoutError:
                if self._last == before:
                    raise
            self._heard.clear()
            replies, self._replies = self._replies, []
            for reply in replies:
                await self._client.publish(reply)
        self._ended.result()

    def events(self, whole: bytes, position: int) -> int:
        """Deliver the events that stand whole at `position` and right behind one another. Gives where they end."""
        match, read, deliver = self._event.match, self.read, self._deliver
        last, until, passed, size = self._last, self._until, self._passed, len(whole)
        if self._ended.done():
            return position
        try:
            while (line := match(whole, position)) is not None:
                key, kind, number, headers, total = line.groups()
                begin = line.end()
                end = begin + int(total)
                if end + 2 > size:
                    break
                position = end + 2
                seq = int(number)
                if seq == last + 1:
                    if kind not in passed or seq == until:
                        deliver(read(seq, key, kind, whole, begin, begin + int(headers), end))
                    self._last = last = seq
                elif seq > last:
                    raise Unavailable("replay_gap", f"After event {last} came {seq}.")
                if last >= until:
                    self._end(None)
                    break
        except Exception as error:
            self._end(error)
        return position

    def read(self, seq: int, key: bytes, kind: bytes, whole: bytes, begin: int, body: int, end: int) -> Recorded:
        """The event whose headers begin at `begin`, and whose content stands between `body` and `end`."""
        name = self._contents.get(kind)
        if name is None:
            return decode_meta(kind.decode(), whole[body:end], seq, key.decode())
        trace = whole.rfind(TRACEPARENT, begin, body)
        if trace < 0:
            return decode_as(name, whole[body:end], seq, key.decode(), "")
        trace += len(TRACEPARENT)
        return decode_as(name, whole[body:end], seq, key.decode(), whole[trace : whole.index(b"\r", trace)].decode())

    def take(self, subject: bytes, reply: bytes, headers: bytes, body: bytes) -> None:
        """Any message, on its own: what the server asks between the events, or what came by way of nats-py."""
        if self._ended.done():
            return
        if headers.startswith(_STATUS):
            self._control(reply, headers)
            return
        line = b"HMSG %s %d %s %d %d\r\n" % (subject, self.sid, reply, len(headers), len(headers) + len(body))
        whole = line + headers + body + b"\r\n"
        if self.events(whole, 0) != len(whole):
            self._end(Unavailable("replay_foreign", f"{subject.decode()} is not what was asked for."))

    def _end(self, error: Exception | None) -> None:
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)
        self._heard.set()

    def _control(self, reply: bytes, headers: bytes) -> None:
        """A heartbeat, or the question whether we keep up, which has to be answered for more to come."""
        stalled = _STALLED.search(headers)
        if stalled is not None:
            reply = stalled[1]
        if reply and len(self._replies) < REPLIES_WAITING_MAX:
            self._replies.append(reply.decode())
        self._heard.set()


async def _ignore(_message: object) -> None:
    """What still arrives after the last event that was asked for."""


@contextlib.contextmanager
def _diverted(client: Client, replay: Replay):  # type: ignore[no-untyped-def]
    """Within the block, messages to its subscription go to `replay` instead."""
    parser: Parser = client._ps
    if "parse" in vars(parser):
        raise Unavailable("replay_busy", "Another replay reads on this connection.")
    parser.nc = _Divert(client, replay)
    vars(parser)["parse"] = _cutting(parser, replay)
    try:
        yield
    finally:
        del vars(parser)["parse"]
        parser.nc = client


class _Divert:
    """Stands between the parser and its client, for messages that come by way of the parser."""

    def __init__(self, client: Client, replay: Replay) -> None:
        self._client = client
        self._replay = replay

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        if sid == self._replay.sid:
            self._replay.take(bytes(subject), bytes(reply), headers or b"", data)
        else:
            await self._client._process_msg(sid, subject, reply, data, headers or b"")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def _cutting(parser: Parser, replay: Replay):  # type: ignore[no-untyped-def]
    """Cuts whole messages of ours off the front of what has arrived; from the first that is not, nats-py goes on."""
    match, sid = _LINE.match, str(replay.sid).encode()
    needed = 0

    async def parse(data: bytes = b"") -> None:
        nonlocal needed
        buffer = parser.buf
        if parser.state != AWAITING_CONTROL_LINE:
            await Parser.parse(parser, data)
            return
        if len(buffer) + len(data) < needed:
            buffer += data
            return
        whole = bytes(buffer) + data if buffer else data
        needed, size = 0, len(whole)
        position = replay.events(whole, 0)
        while (line := match(whole, position)) is not None and line[2] == sid:
            body = line.end() + int(line[4])
            end = line.end() + int(line[5])
            if end + 2 > size:
                needed = end + 2 - position
                break
            replay.take(line[1], line[3], whole[line.end() : body], whole[body:end])
            position = replay.events(whole, end + 2)
        buffer[:] = whole[position:]
        if buffer and not needed:
            await Parser.parse(parser)

    return parse
