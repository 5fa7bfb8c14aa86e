"""`events`: the log itself, as a whole or what is wanted of it, as it was and as it comes."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import click

from deploy.cli.main import command
from deploy.cli.output import Output
from deploy.cli.past import Way, event_view, known_types, way_to_log
from deploy.travel.selection import Selection
from shared.codec import ALL_EVENTS, Recorded
from shared.errors import Invalid
from shared.jetstream.selecting import selected


@click.command()
@click.option("--preview", "preview_id", help="Only this preview's events, its claim's, and its VM's while it held it.")
@click.option("--project", "project_id", help="Only this project's events, and those of its previews.")
@click.option("--vm", "vm_id", help="Only this VM's events.")
@click.option("--type", "kinds", multiple=True, help="Only this type of event; may be repeated.")
@click.option("--since", metavar="TIME|SEQ", help="Only events after this sequence, or from this time on: `10m ago`.")
@click.option("--until", metavar="TIME|SEQ", help="Only events up to this sequence, or before this time.")
@click.option("--limit", type=click.IntRange(1), help="End after so many.")
@click.option("--follow", "-f", is_flag=True, help="Go on as they come, until Ctrl-C.")
@command
async def events(
    output: Output,
    preview_id: str | None,
    project_id: str | None,
    vm_id: str | None,
    kinds: tuple[str, ...],
    since: str | None,
    until: str | None,
    limit: int | None,
    follow: bool,
) -> int:
    """The event log."""
    if follow and until is not None:
        raise Invalid(
            "follow_until", "--follow has no end, so it can't be given with --until.", "Leave one of them out."
        )
    selection = Selection(preview_id=preview_id, project_id=project_id, vm_id=vm_id, types=known_types(kinds))
    async with way_to_log() as way:
        after = await way.begin_of(since)
        end = None if follow else await way.end_of(until)
        shown = 0
        async with aclosing(wanted(way, selection, after, end)) as found:
            async for recorded in found:
                _print(output, await event_view(way.bus, recorded))
                shown += 1
                if shown == limit:
                    break
    return 0


async def wanted(way: Way, selection: Selection, after: int, until: int | None) -> AsyncGenerator[Recorded]:
    """The events that are selected, in order, after `after` up to `until`; None: and those that come. Raises `Invalid`
    (`nothing_matches`) where no event could be one of them."""
    subjects = selection.subjects()
    if not subjects:
        raise Invalid(
            "nothing_matches", "No event of that type can be of what was asked for.", "Leave one of them out."
        )
    if before := selection.before() if after else []:
        async for recorded in selected(way.client, before, 0, min(after, way.last)):
            selection.takes(recorded)
    everything = subjects == [ALL_EVENTS] and until is not None
    stream = way.bus.log.read(after, until) if everything else selected(way.client, subjects, after, until)
    async for recorded in stream:
        if selection.takes(recorded):
            yield recorded


def _print(output: Output, view: dict[str, Any]) -> None:
    output.emit(view)
    at = datetime.fromtimestamp(view["at"], UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    fields = " ".join(f"{name}={value}" for name, value in view["data"].items() if value not in ("", None, [], {}))
    output.say(f"{view['seq']:>6} {at} {view['type']:<22} {fields[:160]}")


COMMANDS = (events,)
