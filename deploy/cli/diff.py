"""`diff`: what happened between two moments, and what that changed in each service's state."""

from collections import Counter
from itertools import islice
from typing import Any

import click
import msgspec

from deploy.cli.main import command
from deploy.cli.output import Output
from deploy.cli.past import Way, teller, way_to_log
from deploy.cli.replay import forget_deleted, known_services
from deploy.travel.replaying import Past
from deploy.travel.states import Change, differences, plain
from shared.codec import Recorded

VALUE_CHARS = 100
SIGNS = {"added": "+", "removed": "-", "changed": "~"}


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("first", metavar="TIME|SEQ")
@click.argument("second", metavar="TIME|SEQ")
@click.option("--service", metavar="NAME", help="Only this service's state.")
@click.option("--limit", type=click.IntRange(1), default=200, show_default=True, help="Show so many changes at most.")
@command
async def diff(output: Output, first: str, second: str, service: str | None, limit: int) -> int:
    """What changed between two moments: events by type, and each service's state, field by field."""
    services = known_services(service)
    async with way_to_log() as way:
        begin, end = sorted([await way.state_of(first), await way.state_of(second)])
        past = Past(services, way.bus.log, teller(output, "Folded"))
        happened: Counter[str] = Counter()

        def count(recorded: Recorded) -> None:
            forget_deleted(way, recorded)
            if recorded.seq > begin:
                happened[recorded.type] += 1

        await past.to(begin, count)
        before = {name: plain(fold.state) for name, fold in past.folds.items()}
        await past.to(end, count)
        changes = (
            change for name, fold in past.folds.items() for change in differences(name, before[name], plain(fold.state))
        )
        shown = [await _opened(way, change) for change in islice(changes, limit)]
        more = sum(1 for _ in changes)
    output.say(f"{end - begin} events, {begin + 1} to {end}:" if end > begin else "No event lies between them.")
    for kind, number in happened.most_common():
        output.say(f"{number:>6} {kind}")
    for change in shown:
        output.emit({"type": change.kind, **_fields(change)})
        _say(output, change)
    output.result(
        {
            "type": "diff",
            "from": begin,
            "to": end,
            "events": dict(happened.most_common()),
            "changes": len(shown) + more,
            "left_out": more,
        },
        f"{more} more changes are not shown; --limit shows more." if more else "That is all that changed.",
    )
    return 0


async def _opened(way: Way, change: Change) -> Change:
    return msgspec.structs.replace(
        change, value=await way.bus.seals.opened(change.value), fields=await way.bus.seals.opened(change.fields)
    )


def _fields(change: Change) -> dict[str, Any]:
    told = {"service": change.service, "place": change.place, "key": change.key}
    if change.kind == "changed":
        return {**told, "fields": {path: {"from": old, "to": new} for path, (old, new) in change.fields.items()}}
    return {**told, "value": change.value}


def _say(output: Output, change: Change) -> None:
    place = f"{change.service} {change.place}".rstrip()
    shown = f" {_short(change.value)}" if change.kind != "changed" and change.value is not None else ""
    output.say(f"{SIGNS[change.kind]} {place} {change.key}{shown}")
    for path, (old, new) in change.fields.items():
        output.say(f"    {path}: {_short(old)} -> {_short(new)}")


def _short(value: object) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= VALUE_CHARS else f"{text[:VALUE_CHARS]}…"


COMMANDS = (diff,)
