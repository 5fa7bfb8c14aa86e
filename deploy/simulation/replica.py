"""One replica of one service in a process that holds them all: it can be started, and killed as `kill -9` would.

Every task that a replica makes is its own (told by a context variable), and every port that it holds is cut with it:
nothing of a dead replica acts, answers or hears.
"""

import asyncio
import contextvars
import dataclasses
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from inspect import isasyncgenfunction
from typing import Any, cast

from shared.ports import Bus, Subscription

_replica: contextvars.ContextVar["Replica | None"] = contextvars.ContextVar("replica", default=None)
KILL_ROUNDS_MAX = 20


class Replica:
    """`name`: `pool`, or `pool/2` for a second one. `alive` until it is killed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.service = name.partition("/")[0]
        self.alive = True
        self.tasks: set[asyncio.Task[Any]] = set()
        self.subscriptions: list[Subscription] = []
        self.gone = asyncio.Event()
        self.lag_s = 0.0
        self.runtime: Any = None
        self.feed: Any = None
        self.activity: Any = None
        self.waker: Any = None
        self.keeping: asyncio.Task[None] | None = None
        self.steps_left = 0
        self.on_last_step: Callable[[], None] = self.kill

    def step(self) -> None:
        """One of its tasks is about to go on: `on_last_step` is called where no step is left."""
        if self.steps_left:
            self.steps_left -= 1
            if not self.steps_left:
                self.on_last_step()

    async def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Do this as the replica: what it starts belongs to it."""
        context = contextvars.copy_context()
        context.run(_replica.set, self)
        await asyncio.create_task(work, context=context)

    def line(self, bus: Bus) -> Bus:
        """The bus, as long as the replica lives."""
        whole = ("seals", "connected", "close")
        names = [field.name for field in dataclasses.fields(bus) if field.name not in whole]
        ports: dict[str, Any] = {name: _Line(self, getattr(bus, name)) for name in names}
        return Bus(**ports, seals=bus.seals, connected=bus.connected, close=bus.close)

    def kill(self) -> None:
        """Cut it off at this very point. `buried` says when its last task has gone."""
        self.alive = False
        for task in list(self.tasks):
            task.cancel()
        self.gone.set()

    async def buried(self) -> None:
        for subscription in self.subscriptions:
            await subscription.stop()
        for _ in range(KILL_ROUNDS_MAX):
            waiting = {task for task in self.tasks if task is not asyncio.current_task()}
            if not waiting:
                return
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting, timeout=0.01)
        raise AssertionError(f"{self.name} does not die: {self.tasks}")


class _Line:
    """A port that dies with its replica."""

    def __init__(self, replica: Replica, port: Any) -> None:
        self._replica = replica
        self._port = port

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._port, name)
        if isasyncgenfunction(method):
            self._check()
            return cast(Callable[..., Any], method)

        async def call(*args: Any, **kwargs: Any) -> Any:
            self._check()
            if name == "follow":
                args = (args[0], self._late(args[1]), *args[2:])
            result = await method(*args, **kwargs)
            self._check()
            if hasattr(result, "stop"):
                self._replica.subscriptions.append(result)
            return result

        return call

    def _late(self, deliver: Callable[[Any], None]) -> Callable[[Any], None]:
        """Events come in the log's order, each when the replica is to hear of it."""
        waiting: deque[Any] = deque()
        loop = asyncio.get_running_loop()

        def come() -> None:
            if self._replica.alive:
                deliver(waiting.popleft())

        def heard(recorded: Any) -> None:
            if not waiting and not self._replica.lag_s:
                deliver(recorded)
                return
            waiting.append(recorded)
            loop.call_later(self._replica.lag_s, come)

        return heard

    def _check(self) -> None:
        if not self._replica.alive:
            raise asyncio.CancelledError(f"{self._replica.name} was killed")


def own_tasks(
    loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any] | Generator[Any, None, Any], **kwargs: Any
) -> "asyncio.Task[Any]":
    """A task factory that notes which replica a task belongs to."""
    task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **kwargs)
    note_owner(task, kwargs.get("context"))
    return task


def note_owner(task: "asyncio.Task[Any]", context: contextvars.Context | None) -> "Replica | None":
    """The replica that this new task belongs to, which dies with it from now on."""
    replica = context.get(_replica) if context is not None else _replica.get()
    if replica is not None:
        replica.tasks.add(task)
        task.add_done_callback(replica.tasks.discard)
    return replica


def current() -> "Replica | None":
    """The replica that is at work here."""
    return _replica.get()
