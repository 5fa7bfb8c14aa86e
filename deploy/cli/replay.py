"""`replay`: any service's state as it was at a moment, by folding the log up to there."""

from typing import Any

import click
import msgspec

from deploy.cli.main import command
from deploy.cli.output import Output
from deploy.cli.past import Way, meant, teller, way_to_log
from deploy.local.options import SERVICES
from deploy.travel.moments import written
from deploy.travel.replaying import Past
from deploy.travel.states import Plain, around, counts, ids_around, plain, previews_in, statuses
from shared.codec import Recorded
from shared.definition import digest
from shared.errors import Invalid
from shared.events import ProjectDeleted
from shared.jetstream.moments import stored_at

DIGEST_CHARS = 12


@click.command()
@click.option(
    "--at", "when", required=True, metavar="TIME|SEQ", help="`10m ago`, an ISO 8601 time, unix seconds, or a sequence."
)
@click.option("--service", metavar="NAME", help="Only this service's state, whole.")
@click.option("--preview", "preview_id", metavar="ID", help="Only this preview, its VM, claim and project.")
@command
async def replay(output: Output, when: str, service: str | None, preview_id: str | None) -> int:
    """What the services knew at a moment: their states, from the log alone."""
    services = known_services(service)
    async with way_to_log() as way:
        seq = await way.state_of(when)
        past = Past(services if preview_id is None else SERVICES, way.bus.log, teller(output, "Folded"))
        await past.to(seq, lambda recorded: forget_deleted(way, recorded))
        states = {name: plain(fold.state) for name, fold in past.folds.items()}
        digests = {name: digest(past.folds[name].state) for name in services}
        if preview_id is not None:
            states = await _only(way, states, preview_id, seq)
        states = await way.bus.seals.opened({name: states[name] for name in services})
        stored = await stored_at(way.client, seq)
    assert past.last is not None
    at = stored.at if stored is not None else past.last.meta.at
    output.emit(
        {
            "type": "replay",
            "seq": seq,
            "at": at,
            "last_seq": way.last,
            "event": past.last.type,
            "services": {name: {"digest": digests[name], "state": states[name]} for name in services},
        }
    )
    output.say(f"After event {seq} of {way.last}, {past.last.type}, stored {written(at)}:")
    for name in services:
        output.say(f"{name:<13}{_summary(states[name])}   digest {digests[name][:DIGEST_CHARS]}")
        if service is not None or preview_id is not None:
            output.say(msgspec.json.format(msgspec.json.encode(states[name])).decode())
    return 0


def known_services(service: str | None) -> tuple[str, ...]:
    """All of them, or that one. Raises `Invalid` (`unknown_service`)."""
    if service is None:
        return tuple(SERVICES)
    if service not in SERVICES:
        known = ", ".join(SERVICES)
        raise Invalid(
            "unknown_service",
            f"There is no service {service[:100]!r}.",
            meant(service, SERVICES, f"They are: {known}."),
        )
    return (service,)


def forget_deleted(way: Way, recorded: Recorded) -> None:
    """What was a deleted project's is told no more, though its key may still be there for a moment."""
    if isinstance(recorded.event, ProjectDeleted):
        way.bus.seals.forget(recorded.event.project_id)


async def _only(way: Way, states: dict[str, Plain], preview_id: str, seq: int) -> dict[str, Plain]:
    """Raises `Invalid` (`unknown_preview`), saying whether it was there at another time."""
    known = previews_in(states)
    if preview_id not in known:
        head = await way.bus.log.head(f"orchestrator.preview.{preview_id}")
        if not head.seq:
            otherwise = "`drape ps` lists previews." if not known else f"Known then: {', '.join(known[-3:])}."
            raise Invalid(
                "unknown_preview",
                f"There never was a preview {preview_id[:100]!r}.",
                meant(preview_id, known, otherwise),
            )
        raise Invalid(
            "unknown_preview",
            f"No service knew preview {preview_id} after event {seq}: it was not asked for yet, or forgotten already.",
            f"Its newest event is {head.seq}; `drape events --preview {preview_id}` tells its story.",
        )
    ids = ids_around(states, preview_id)
    return {name: around(state, ids, preview_id) for name, state in states.items()}


def _summary(state: Plain) -> str:
    told: list[str] = []
    for name, number in counts(state).items():
        each: Any = statuses(state[name])
        inside = f" ({', '.join(f'{count} {status}' for status, count in each.items())})" if each else ""
        if number:
            told.append(f"{number} {name.replace('_', ' ')}{inside}")
    return ", ".join(told) or "nothing"


COMMANDS = (replay,)
