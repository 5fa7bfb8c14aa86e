"""Given these events, when this command comes, then these events follow: the pure rooms, driven as the runtime drives
them (real codec, one event at a time, no event of a command twice), without its clock, ids or I/O."""

from typing import Generic, TypeVar

import msgspec

from shared.codec import Meta, Recorded, decode, encode, event_id, subject_of
from shared.commands import Command, Reply
from shared.definition import Definition, digest, replay
from shared.errors import DrapeError
from shared.events import Event, aggregate_key
from shared.runtime import Limits

S = TypeVar("S")
AT, COMMAND_ID = 1_000.0, "01jd0000000000000000000cmd"
Past = Event | tuple[float, Event]
"""An event at `AT`, or (seconds, event)."""


def record(log: list[Recorded], event: Event, command_id: str = "given", at: float = AT) -> Recorded:
    """Append the event as the log would hold it: encoded, decoded, with its aggregate's next revision."""
    rev = 1 + sum(each.key == aggregate_key(event) for each in log)
    own_id = event_id(f"{command_id}-{len(log)}" if command_id == "given" else command_id, event)
    meta = Meta(id=own_id, at=at, rev=rev, correlation_id=event.aggregate_id, causation_id=command_id, actor="spec")
    log.append(decode(encode(event, meta), seq=len(log) + 1, subject=subject_of(event)))
    return log[-1]


def execute(definition: Definition[S], log: list[Recorded], state: S, command: Command) -> list[Event]:
    """Decide, append, fold, until nothing is new: as `Runtime.execute` does. Gives the events."""
    fresh, known = list[Event](), {each.meta.id for each in log}
    while wanted := [each for each in definition.decide(state, command) if event_id(command.id, each) not in known]:
        assert len(fresh) < Limits().events_per_command_max, f"{type(command).__name__} never has enough events"
        definition.evolve(state, record(log, wanted[0], command.id, command.at))
        fresh.append(wanted[0])
        known.add(log[-1].meta.id)
    return fresh


class Given(Generic[S]):
    """A past, and what the state is after it."""

    def __init__(self, definition: Definition[S], *past: Past) -> None:
        self.definition, self.command, self.log = definition, Command(), list[Recorded]()
        for at, event in (each if isinstance(each, tuple) else (AT, each) for each in past):
            record(self.log, event, at=at)
        self.state = replay(definition, self.log)
        self.outcome: list[Event] | DrapeError = []

    def when(self, *commands: Command) -> "Given[S]":
        """One command after the other; `then`, `refuses` and `stays_quiet` speak of the last."""
        for each in commands:
            self.command = msgspec.structs.replace(each, id=each.id or COMMAND_ID, at=each.at or AT)
            try:
                self.outcome = execute(self.definition, self.log, self.state, self.command)
            except DrapeError as error:
                self.outcome = error
            assert digest(replay(self.definition, self.log)) == digest(self.state)
        return self

    def then(self, *events: Event) -> "Given[S]":
        """The command led to these events, in this order, and to no other."""
        assert self.outcome == list(events), self.outcome
        return self

    def stays_quiet(self) -> "Given[S]":
        """The command was granted and changed nothing."""
        return self.then()

    def refuses(self, code: str) -> "Given[S]":
        """The command was refused for this reason, in words, and with an HTTP status below 500."""
        assert isinstance(self.outcome, DrapeError), self.outcome
        assert (self.outcome.code, bool(self.outcome.message), self.outcome.status < 500) == (code, True, True)
        return self

    def answer(self) -> Reply:
        return self.definition.answer(self.state, self.command)


given = Given
