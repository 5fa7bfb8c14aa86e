"""Which spans the loop makes: their names, kinds and attributes, and what is a parent and what a link.

The live chain of command, event and reaction is one tree: each is the child of what caused it. What comes later than
`STORY_S` after its cause, when a timer fires, or from another's story begins a trace of its own that links to its cause.
Names have no ids in them; ids are attributes, and personal texts are nowhere.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import cache

from opentelemetry.trace import Span, SpanKind

from shared.codec import Recorded
from shared.commands import Command
from shared.definition import STORY_S, Traced
from shared.events import Event
from shared.ports import Cause, TimerFired
from shared.telemetry import carrier, is_traced, span

TRACE = "traceparent"
"""Where a timer keeps the trace that set it."""
_SYSTEM = {"messaging.system": "nats"}


@cache
def _command(operation: str, command: type[Command]) -> tuple[str, Mapping[str, str | int]]:
    template = f"drape.cmd.{command.service}.{command.verb}"
    attributes: dict[str, str | int] = {
        **_SYSTEM,
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.template": template,
        "drape.command": command.__name__,
    }
    return f"{operation} {template}", attributes


def sending(command: Command, cause: Cause, now: float) -> AbstractContextManager[Span]:
    """A command to another service."""
    name, attributes = _command("send", type(command))
    return _below(name, SpanKind.CLIENT, cause, now, attributes)


def deciding(command: Command, cause: Cause, now: float) -> AbstractContextManager[Span]:
    """A command of this service to itself, which something has caused."""
    name, attributes = _command("process", type(command))
    return _below(name, SpanKind.INTERNAL, cause, now, attributes)


def _below(
    name: str, kind: SpanKind, cause: Cause, now: float, attributes: Mapping[str, str | int]
) -> AbstractContextManager[Span]:
    if cause.at and now - cause.at > STORY_S:
        return span(name, kind, "", attributes, (carrier() or cause.traceparent,))
    return span(name, kind, None if is_traced() else cause.traceparent, attributes)


def hearing(command: type[Command], cause: Cause) -> AbstractContextManager[Span]:
    """A command that came over the wire."""
    name, attributes = _command("process", command)
    return span(name, SpanKind.SERVER, cause.traceparent, attributes)


def _event(
    operation: str, kind: str, template: str, event_type: str, event_id: str, story: str
) -> dict[str, str | int]:
    return {
        **_SYSTEM,
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
        "messaging.destination.template": template,
        "messaging.message.id": event_id,
        "messaging.message.conversation_id": story,
        "drape.event": event_type,
    }


def publishing(event: Event, event_id: str, story: str, cause: Cause, below: str) -> AbstractContextManager[Span]:
    """An event's append; whoever reacts to the event is its child. `below`: of whose story it is, where that is another's."""
    template = f"drape.evt.{event.service}.{event.aggregate}"
    name = f"publish {template}"

    def attributes() -> Mapping[str, str | int]:
        return _event("publish", "send", template, type(event).__name__, event_id, story)

    if below:
        return span(name, SpanKind.PRODUCER, below, attributes, (carrier() or cause.traceparent,))
    return span(name, SpanKind.PRODUCER, None if is_traced() else cause.traceparent, attributes)


def reacting(
    service: str, recorded: Recorded, traced: Traced, deliveries: int, now: float
) -> AbstractContextManager[Span]:
    """The reaction to an event; `traced`: as the service knows whose story it is."""
    template = f"drape.evt.{recorded.key.rpartition('.')[0]}"
    meta = recorded.meta

    def attributes() -> Mapping[str, str | int]:
        found = _event("process", "process", template, recorded.type, meta.id, meta.correlation_id)
        found["messaging.consumer.group.name"] = f"{service}-reactor"
        if deliveries > 1:
            found["drape.deliveries"] = deliveries
        return found

    traced = _timely(traced, meta.at, now)
    return span(f"process {template}", SpanKind.CONSUMER, traced.parent, attributes, traced.links)


def firing(service: str, fired: TimerFired, set_in: str) -> AbstractContextManager[Span]:
    """What a timer sets off. `set_in`: the trace that set it."""
    template = f"drape.timer.{service}.{fired.name}"
    attributes: dict[str, str | int] = {
        **_SYSTEM,
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.template": template,
        "messaging.consumer.group.name": f"{service}-timers",
    }
    return span(f"process {template}", SpanKind.CONSUMER, "", attributes, (set_in,))


def _timely(traced: Traced, since: float, now: float) -> Traced:
    """A parent that is long past is only linked to. `since`: 0 where what is caused comes at once."""
    if not since or now - since <= STORY_S:
        return traced
    return Traced("", tuple(each for each in (traced.parent, *traced.links) if each))
