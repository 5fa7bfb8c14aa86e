"""A service's pure parts, as its rooms hold them, and what they alone decide: the state that a log leads to."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import msgspec

from shared.codec import Recorded
from shared.commands import Command, Reply
from shared.events import Event
from shared.measures import Measure
from shared.ports import TimerFired

S = TypeVar("S")
Effect = msgspec.Struct


STORY_S = 600.0
"""Longer than a step of a preview may take: what follows later than that is another story, with a trace of its own."""


class Traced(NamedTuple):
    """Where a reaction belongs: `parent` and `links` are `traceparent`s, the first empty where a trace begins."""

    parent: str
    links: tuple[str, ...] = ()


def trace_id_of(traceparent: str) -> str:
    """The trace that a `traceparent` names, in hex; empty for none."""
    return traceparent[3:35]


@dataclass(frozen=True, slots=True)
class Definition(Generic[S]):
    """The pure parts of a service, as its rooms hold them."""

    name: str
    initial: Callable[[], S]
    evolve: Callable[[S, Recorded], None]
    decide: Callable[[S, Command], Sequence[Event]]
    answer: Callable[[S, Command], Reply]
    react: Callable[[S, Recorded], Sequence[Effect]]
    on_timer: Callable[[S, TimerFired], Sequence[Effect]]
    commands: tuple[type[Command], ...]
    ticks: Mapping[str, float]
    project_of: Callable[[S, Event | Command], str] = lambda _state, message: getattr(message, "project_id", "")
    """The project with whose key a message's personal texts are sealed; empty: it is gone, or never was."""
    trace_of: Callable[[S, Recorded], Traced] = lambda _state, recorded: Traced(recorded.meta.traceparent)
    """The trace that a reaction belongs to: the event's own, unless the service knows whose story it is part of."""
    story_of: Callable[[S, Event], str] = lambda _state, _event: ""
    """The `traceparent` below which an event of this service is published; empty: below the command that asks for it."""
    measures: Callable[[S, Recorded], Sequence[Measure]] = lambda _state, _recorded: ()
    """What an event tells that this service has written, in the state right after it."""
    figures: Callable[[S, float], Sequence[Measure]] = lambda _state, _at: ()
    """What is true now, for gauges; the second argument is the time in seconds, UTC."""


def digest(state: object) -> str:
    """A fingerprint of a whole state: two that are equal have the same one."""
    return hashlib.sha256(msgspec.json.encode(state, order="deterministic")).hexdigest()


class Replayed(Generic[S]):
    """The state that events lead to, one after another, by the same rules as the live fold."""

    def __init__(self, definition: Definition[S]) -> None:
        self.state = definition.initial()
        self._evolve = definition.evolve
        self._revisions: dict[str, int] = {}

    def fold(self, recorded: Recorded) -> None:
        """The next event."""
        if recorded.meta.rev <= self._revisions.get(recorded.key, 0):
            return
        self._revisions[recorded.key] = recorded.meta.rev
        if recorded.event is not None:
            self._evolve(self.state, recorded)


def replay(definition: Definition[S], events: Iterable[Recorded]) -> S:
    """The state that these events lead to."""
    replayed = Replayed(definition)
    for recorded in events:
        replayed.fold(recorded)
    return replayed.state
