"""An event loop on virtual time: nothing waits for real, no thread runs, and of the tasks that are ready at once a seed
chooses which goes first. Sets of its tasks and futures have the same order in every process."""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from random import Random
from typing import Any, TypeVar

T = TypeVar("T")
SAME_TIME_ROUNDS_MAX = 200_000
"""Rounds of the loop in which no time passes: more are a loop that never ends."""


class Stalled(Exception):
    """Nothing will ever happen any more, or without end at one moment."""


class NumberedFuture(asyncio.Future[Any]):
    """A future that hashes the same in every process."""

    number: int

    def __new__(cls, *, loop: "VirtualLoop") -> "NumberedFuture":
        self = super().__new__(cls)
        self.number = next(loop.numbers)
        return self

    def __hash__(self) -> int:
        return self.number


class NumberedTask(asyncio.Task[Any]):
    """A task that hashes the same in every process. `on_step` is called whenever it is about to go on."""

    number: int
    on_step: Callable[[], None] | None

    def __new__(cls, coro: Any, *, loop: "VirtualLoop", **_kwargs: Any) -> "NumberedTask":
        self = super().__new__(cls)
        self.number = next(loop.numbers)
        self.on_step = None
        return self

    def __hash__(self) -> int:
        return self.number


class VirtualLoop(asyncio.BaseEventLoop):
    """Starts at 0 s."""

    _ready: deque[asyncio.Handle]

    def __init__(self, seed: str) -> None:
        super().__init__()
        self.numbers = itertools.count(1)
        self.rounds = 0
        self._random = Random(seed)
        self._now = 0.0
        self._still = 0
        self._selector = self
        self._clock_resolution = 1e-9
        self.set_task_factory(_numbered)

    def time(self) -> float:
        return self._now

    def select(self, timeout: float | None) -> list[Any]:
        """Called once a round, where a real loop waits for its sockets."""
        self.rounds += 1
        if timeout:
            self._now += timeout
            self._still = 0
            return []
        self._still += 1
        if timeout is None or self._still > SAME_TIME_ROUNDS_MAX:
            raise Stalled(f"at {self._now:.3f} s " + ("nothing is left to do" if timeout is None else "it never ends"))
        if len(self._ready) > 1:
            self._mix()
        return []

    def _mix(self) -> None:
        """Tasks that are ready at once may go in any order: each has one step here, so its own order stays."""
        ready = self._ready
        slots = [index for index, handle in enumerate(ready) if _task_of(handle) is not None]
        if len(slots) > 1:
            handles = sorted((ready[index] for index in slots), key=_number_of)
            self._random.shuffle(handles)
            for index, handle in zip(slots, handles, strict=True):
                ready[index] = handle

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = super().call_soon(callback, *args, context=context)
        task = getattr(callback, "__self__", None)
        if type(task) is NumberedTask and task.on_step is not None:
            task.on_step()
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_first(self, callback: Callable[[], None]) -> None:
        """Before everything else that is ready."""
        self._ready.appendleft(asyncio.Handle(callback, (), self, None))

    def create_future(self) -> asyncio.Future[Any]:
        return NumberedFuture(loop=self)

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        """At once: there are no threads."""
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:
            done.set_exception(error)
        return done

    def _process_events(self, event_list: list[Any]) -> None:
        """There are no sockets."""

    def _write_to_self(self) -> None:
        """Nobody else could wake it."""


def _task_of(handle: asyncio.Handle) -> NumberedTask | None:
    task = getattr(handle._callback, "__self__", None)  # type: ignore[attr-defined]
    return task if type(task) is NumberedTask else None


def _number_of(handle: asyncio.Handle) -> int:
    task = _task_of(handle)
    assert task is not None
    return task.number


def _numbered(
    loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any] | Generator[Any, None, Any], **kwargs: Any
) -> NumberedTask:
    assert isinstance(loop, VirtualLoop)
    return NumberedTask(coro, loop=loop, **kwargs)
