"""`drape projections`: how far the tables in PostgreSQL are, and to have them made anew from the log while they serve."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import click
import msgspec

from deploy.cli.main import command
from deploy.cli.output import Output
from deploy.cli.platform import operator_bus
from shared.errors import Unavailable
from shared.ports import Bus

LOOK_PERIOD_S = 0.5

Json = Mapping[str, Any]


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, the result last.")
@click.pass_context
def projections(context: click.Context, as_json: bool) -> None:
    """The tables that are made from the event log: list them, or make them anew."""
    if context.invoked_subcommand is None:
        context.invoke(list_projections, as_json=as_json)


@projections.command("ls")
@command
async def list_projections(output: Output) -> int:
    """How far each is behind the log, and what is being made anew."""
    async with operator_bus() as bus:
        answer = await _ask(bus, "projections")
    output.say(f"{'name':<14}{'events':>10}{'behind':>8}  {'last event (UTC)':<20}{'rows':<32}rebuild")
    for name, stands in answer["projections"].items():
        output.emit({"type": "projection", "name": name, **stands})
        output.say(_line(name, stands))
    output.emit({"type": "projections", "count": len(answer["projections"]), "last_seq": answer["last_seq"]})
    return 0


@projections.command("rebuild")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@command
async def rebuild(output: Output, names: tuple[str, ...]) -> int:
    """Make them anew from the log's first event; without a name all. What is there serves until the new rows have caught up.

    It goes on by itself if this command is ended.
    """
    async with operator_bus() as bus:
        begun = (await _ask(bus, "rebuild", names=list(names)))["projections"]
        waiting: dict[str, str] = {}
        for name, each in begun.items():
            if not each["log_id"]:
                output.result({"type": "rebuilt", "name": name, "events": 0}, f"{name}: there is nothing yet.")
                continue
            waiting[name] = each["log_id"]
            output.say(f"{name}: {'begun' if each['begun'] else 'is under way already'}.")
        while waiting:
            try:
                answer = await _ask(bus, "projections")
            except Unavailable as error:
                hint = "The rebuild goes on by itself once telemetry is back: `drape projections` shows it."
                raise Unavailable(error.code, error.message, hint) from error
            for name, log_id in list(waiting.items()):
                if _has_ended(output, name, log_id, answer["projections"][name], answer["last_seq"]):
                    del waiting[name]
            await asyncio.sleep(LOOK_PERIOD_S if waiting else 0.0)
    return 0


def _has_ended(output: Output, name: str, log_id: str, stands: Json, last_seq: int) -> bool:
    building, serving = stands["building"], stands["serving"]
    if building is not None and building["log_id"] == log_id:
        output.emit({"type": "rebuilding", "name": name, "seq": building["seq"], "last_seq": last_seq})
        output.say(f"{name}: {building['seq']} of {last_seq} events")
        return False
    if serving is not None and serving["log_id"] == log_id:
        events = serving["seq"]
        output.result({"type": "rebuilt", "name": name, "events": events}, f"{name}: made anew from {events} events.")
        return True
    raise Unavailable(
        "rebuild_lost",
        f"The rebuild of {name} was given up: the log or the database is not the one that it was begun with.",
        "Run the command again.",
    )


def _line(name: str, stands: Json) -> str:
    serving, building = stands["serving"], stands["building"]
    if serving is None:
        return f"{name:<14}{'-':>10}{'-':>8}  nothing has been projected yet"
    at = "-"
    if serving["event_at"] is not None:
        at = datetime.fromtimestamp(serving["event_at"], UTC).strftime("%Y-%m-%d %H:%M:%S")
    state = f"{building['seq']} events" if building else "old rows go" if stands["retired"] else "-"
    return f"{name:<14}{serving['seq']:>10}{serving['lag']:>8}  {at:<20}{serving['log_id']:<32}{state}"


async def _ask(bus: Bus, name: str, **body: object) -> Any:
    return msgspec.json.decode(await bus.commands.query("telemetry", name, msgspec.json.encode(body)))


COMMANDS = (projections,)
