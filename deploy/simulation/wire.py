"""What lies between a replica and the bus: a wire that delays, loses and is cut, and the ports at its end.

The server's side is `shared.memory`; what arrives there is done at once, in one piece, whether or not the sender lives to
hear of it.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from random import Random
from typing import Any, TypeVar

import msgspec

from shared.codec import Meta, Recorded
from shared.errors import Unavailable
from shared.events import Event
from shared.memory.broker import Shared
from shared.memory.log import MemoryLog, Removable
from shared.ports import Head, Subscription

T = TypeVar("T")
APPEND_TIMEOUT_S = 5.0
BUFFERED_MAX = 1_000
"""Messages that a client holds while it is cut off; what is more is lost."""


class Weather(msgspec.Struct, kw_only=True):
    """How bad it is. Chances are 0..1; times in seconds. It can be made fair while a simulation runs."""

    delay_s: float = 0.0
    """The longest way in one direction; half of all messages take a tenth of it."""
    lost: float = 0.0
    """That an answer does not come though the thing was done."""
    refused: float = 0.0
    """That the server says no, and did nothing."""
    lag_s: float = 0.0
    """The longest that a follower of the log is behind."""
    again: float = 0.0
    """That a message which was acknowledged comes again all the same: the acknowledgement was lost."""
    late_s: float = 0.0
    """The longest that a timer is late."""
    twice: float = 0.0
    """That a timer fires twice."""

    def fair(self) -> None:
        """Nothing goes wrong from here on."""
        for name in self.__struct_fields__:
            setattr(self, name, 0.001 if name == "delay_s" else 0.0)


class Wire:
    """One replica's connection. `up`: whether anything passes. Who made it ends it with `close`."""

    def __init__(self, broker: Shared, weather: Weather, random: Random) -> None:
        self.broker = broker
        self.weather = weather
        self.random = random
        self.up = True
        self.open = True
        self.on_heal: list[Callable[[], None]] = []
        self._outgoing: deque[Callable[[], None]] = deque(maxlen=BUFFERED_MAX)

    def cut(self) -> None:
        """Nothing passes any more, in either direction; what is sent waits here."""
        self.up = False

    def heal(self) -> None:
        """What waited goes out, late."""
        self.up = True
        while self._outgoing and self.open:
            self._later(self._outgoing.popleft())
        for listener in list(self.on_heal):
            listener()

    def close(self) -> None:
        """The process is dead: what is on its way arrives, what waited here does not."""
        self.open = False
        self._outgoing.clear()

    def delay(self) -> float:
        """How long the next message takes."""
        longest = self.weather.delay_s
        return longest * self.random.random() * (1.0 if self.random.random() < 0.5 else 0.1)

    def send(self, arrive: Callable[[], None]) -> None:
        """Do this at the server, once it is there."""
        if not self.open:
            return
        if self.up:
            self._later(arrive)
        else:
            self._outgoing.append(arrive)

    def _later(self, act: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_later(self.delay(), act)

    def receive(self, act: Callable[[], None]) -> None:
        """Do this here, once the server's message has come; lost where the wire is cut by then."""

        def arrived() -> None:
            if self.up and self.open:
                act()

        self._later(arrived)

    async def ask(self, act: Callable[[], T], timeout_s: float = APPEND_TIMEOUT_S) -> T:
        """Have the server do this. Raises what that raises, `Unavailable` where no answer came in time."""
        answer: asyncio.Future[Callable[[], T]] = asyncio.get_running_loop().create_future()

        def resolve(outcome: Callable[[], T]) -> None:
            if not answer.done():
                answer.set_result(outcome)

        def arrive() -> None:
            chance = self.random.random()
            if chance < self.weather.refused:
                outcome = _raising(Unavailable("log_unavailable", "The simulated server refuses."))
            else:
                outcome = _done(act)
            if not self.weather.refused <= chance < self.weather.refused + self.weather.lost:
                self.receive(lambda: resolve(outcome))

        self.send(arrive)
        await asyncio.wait({answer}, timeout=timeout_s)
        if not answer.done():
            raise Unavailable("log_unavailable", f"The simulated server did not answer within {timeout_s:g} s.")
        return answer.result()()


def _done(act: Callable[[], T]) -> Callable[[], T]:
    try:
        result = act()
    except Exception as error:
        return _raising(error)
    return lambda: result


def _raising(error: Exception) -> Callable[[], Any]:
    def outcome() -> Any:
        raise error

    return outcome


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits for nothing: the server's side of a port in memory."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    work.close()
    raise AssertionError(f"{work} waits: it can't be done in one piece")


class Remote:
    """A port of `shared.memory` at the other end of a wire: for those whose verbs are requests and nothing more."""

    def __init__(self, wire: Wire, port: Any) -> None:
        self._wire = wire
        self._port = port

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        verb = getattr(self._port, name)

        async def ask(*args: Any, **kwargs: Any) -> Any:
            return await self._wire.ask(lambda: at_once(verb(*args, **kwargs)))

        return ask


class RemoteLog:
    """The log: appends that may be stored unheard of, followers of which each has its own lag."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._log = MemoryLog(wire.broker)

    async def append(self, event: Event, meta: Meta, *, after: int) -> int:
        return await self._wire.ask(lambda: self.store(event, meta, after))

    def store(self, event: Event, meta: Meta, after: int) -> int:
        """The server's side."""
        return self._wire.broker.store(event, meta, after)

    async def head(self, key: str) -> Head:
        return await self._wire.ask(lambda: at_once(self._log.head(key)))

    async def last_seq(self) -> int:
        return await self._wire.ask(lambda: at_once(self._log.last_seq()))

    async def follow(
        self, after: int, deliver: Callable[[Recorded], None], failed: Callable[[BaseException], None]
    ) -> Subscription:
        follower = _Follower(self._wire, after, deliver, failed)
        follower.news()
        return follower

    async def replay(
        self, after: int, until: int, types: frozenset[str] | None, deliver: Callable[[Recorded], None]
    ) -> None:
        await self._wire.ask(lambda: at_once(self._log.replay(after, until, types, deliver)))

    async def read(self, after: int = 0, until: int | None = None) -> AsyncIterator[Recorded]:
        last = await self.last_seq()
        for recorded in self._wire.broker.records[after : last if until is None else min(until, last)]:
            yield recorded


class _Follower:
    """Delivers in order and without a gap, some time behind; while the wire is cut, nothing."""

    def __init__(
        self, wire: Wire, after: int, deliver: Callable[[Recorded], None], failed: Callable[[BaseException], None]
    ) -> None:
        self._wire = wire
        self._next = after
        self._deliver = deliver
        self._failed = failed
        self._stopped = False
        self._coming = False
        self._note = lambda _: self.news()
        wire.broker.followers.append(self._note)
        wire.on_heal.append(self.news)

    def news(self) -> None:
        """There may be more in the log."""
        if self._coming or self._stopped or not self._wire.up or self._next >= len(self._wire.broker.records):
            return
        self._coming = True
        until = len(self._wire.broker.records)
        lag_s = self._wire.weather.lag_s * self._wire.random.random() ** 4
        asyncio.get_running_loop().call_later(self._wire.delay() + lag_s, self._arrive, until)

    def _arrive(self, until: int) -> None:
        self._coming = False
        if self._stopped or not self._wire.up or not self._wire.open:
            return
        for recorded in self._wire.broker.records[self._next : until]:
            try:
                self._deliver(recorded)
            except Exception as error:
                self._stopped = True
                self._failed(error)
                return
        self._next = until
        self.news()

    async def stop(self) -> None:
        self._stopped = True
        await Removable(self._wire.broker.followers, self._note).stop()
        await Removable(self._wire.on_heal, self.news).stop()


class RemoteFeed:
    """What is only said: heard by who listens at that moment and can be reached, else lost."""

    def __init__(self, wire: Wire, listeners: list[Callable[[Any], None]]) -> None:
        self._wire = wire
        self._listeners = listeners

    async def publish(self, item: Any) -> None:
        if self._wire.up and self._wire.random.random() >= self._wire.weather.lost:
            for listener in list(self._listeners):
                listener(item)

    async def subscribe(self, handler: Callable[[Any], None]) -> Subscription:
        def hear(item: Any) -> None:
            if self._wire.up and self._wire.open:
                asyncio.get_running_loop().call_later(self._wire.weather.delay_s, handler, item)

        self._listeners.append(hear)
        return Removable(self._listeners, hear)


class RemotePreviewLogs(Remote):
    """Output: stored by request, heard as it comes."""

    async def subscribe(self, handler: Callable[[Any], None]) -> Subscription:
        return await RemoteFeed(self._wire, self._wire.broker.log_listeners).subscribe(handler)
