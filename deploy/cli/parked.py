"""`parked`: reactions that failed too often; look at them, have them tried again, or forget them."""

from collections.abc import Awaitable, Callable

import click
import msgspec

from deploy.cli.main import command
from deploy.cli.output import Output
from deploy.cli.platform import operator_bus
from shared.errors import Invalid
from shared.parked import Parked, ParkedReactions, find

REASON_CHARS = 90


@click.group()
def parked() -> None:
    """Reactions that failed too often: list them, try them again, or drop them."""


@parked.command("ls")
@command
async def list_parked(output: Output) -> int:
    """What is parked, oldest first."""
    async with operator_bus() as bus:
        found = await bus.parked.list()
    for each in found:
        output.emit(_view(each))
        output.say(f"{each.key:<28} {each.at[:19]}  {each.attempts} tries  {each.reason[:REASON_CHARS]}")
    output.emit({"type": "parked", "count": len(found)})
    if not found:
        output.say("Nothing is parked.")
    return 0


@parked.command("show")
@click.argument("key")
@command
async def show_parked(output: Output, key: str) -> int:
    """One of them, with its event."""
    async with operator_bus() as bus:
        each = find(await bus.parked.list(), key)
        view = _view(each)
        if each.kind == "event":
            async for recorded in bus.log.read(each.seq - 1, each.seq):
                view["event"] = {"type": recorded.type, "data": msgspec.to_builtins(recorded.event)}
        view = await bus.seals.opened(view)
    output.result(view, msgspec.json.format(msgspec.json.encode(view)).decode())
    return 0


@parked.command("replay")
@click.argument("keys", nargs=-1, metavar="[KEY]...")
@click.option("--all", "every", is_flag=True, help="All that are parked.")
@command
async def replay_parked(output: Output, keys: tuple[str, ...], every: bool) -> int:
    """Have them tried again, once the cause is mended. What fails as often once more is parked anew."""
    async with operator_bus() as bus:
        return await _each(output, await _chosen(bus.parked, keys, every), bus.parked.replay, "replayed", "tried again")


@parked.command("drop")
@click.argument("keys", nargs=-1, metavar="[KEY]...")
@click.option("--all", "every", is_flag=True, help="All that are parked.")
@command
async def drop_parked(output: Output, keys: tuple[str, ...], every: bool) -> int:
    """Forget them. What their events say stays in the log."""
    async with operator_bus() as bus:
        return await _each(output, await _chosen(bus.parked, keys, every), bus.parked.drop, "dropped", "forgotten")


async def _each(
    output: Output, chosen: list[Parked], act: Callable[[Parked], Awaitable[None]], done: str, words: str
) -> int:
    for each in chosen:
        await act(each)
        output.result({"type": done, "key": each.key}, f"{each.key} is {words}.")
    return 0


async def _chosen(reactions: ParkedReactions, keys: tuple[str, ...], every: bool) -> list[Parked]:
    if every == bool(keys):
        raise Invalid("nothing_chosen", "Name what is parked, or give --all; not both.", "`drape parked ls` lists it.")
    found = await reactions.list()
    return list(found) if every else [find(found, key) for key in keys]


def _view(each: Parked) -> dict[str, object]:
    return {"key": each.key, **msgspec.to_builtins(each)}


COMMANDS = (parked,)
