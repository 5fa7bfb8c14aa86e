"""`export`: the log as a table for DuckDB and the like."""

from contextlib import aclosing
from pathlib import Path

import click
import msgspec

from deploy.cli.events import wanted
from deploy.cli.main import command
from deploy.cli.output import Output
from deploy.cli.past import known_types, teller, way_to_log
from deploy.cli.replay import forget_deleted
from deploy.travel.exporting import FORMATS, row_of, table_at
from deploy.travel.selection import Selection

TELL_EVERY_EVENTS = 20_000


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE")
@click.option("--format", "kind", type=click.Choice(sorted(FORMATS)), help="Default: by FILE's ending, else ndjson.")
@click.option("--type", "kinds", multiple=True, help="Only this type of event; may be repeated.")
@click.option("--since", metavar="TIME|SEQ", help="Only events after this sequence, or from this time on.")
@click.option("--until", metavar="TIME|SEQ", help="Only events up to this sequence, or before this time.")
@click.option(
    "--open", "opened", is_flag=True, help="Open what is sealed: names, messages and the like, readable then."
)
@command
async def export(
    output: Output,
    file: Path,
    kind: str | None,
    kinds: tuple[str, ...],
    since: str | None,
    until: str | None,
    opened: bool,
) -> int:
    """Write the log to FILE as a table, a row an event, NDJSON or Parquet."""
    kind = kind or (suffix if (suffix := file.suffix[1:]) in FORMATS else "ndjson")
    selection = Selection(types=known_types(kinds))
    tell = teller(output, "Read")
    count = 0
    async with way_to_log() as way:
        after, end = await way.begin_of(since), await way.end_of(until)
        with table_at(file.absolute(), kind) as table:
            async with aclosing(wanted(way, selection, after, end)) as found:
                async for recorded in found:
                    forget_deleted(way, recorded)
                    data = msgspec.to_builtins(recorded.event) if recorded.event is not None else None
                    table.add(row_of(recorded, await way.bus.seals.opened(data) if opened else data))
                    count += 1
                    if count % TELL_EVERY_EVENTS == 0:
                        tell(recorded.seq - after, end - after)
    output.result(
        {"type": "exported", "file": str(file), "format": kind, "events": count, "from": after + 1, "to": end},
        f"{count} events are in {file}.",
    )
    return 0


COMMANDS = (export,)
