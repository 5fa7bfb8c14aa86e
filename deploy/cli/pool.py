"""`pool`: the warm VMs in numbers, all together and by pool; and how many there are to be."""

from typing import Any

import aiohttp
import click

from deploy.cli.api import Api
from deploy.cli.main import command
from deploy.cli.output import Output
from deploy.cli.platform import operator_bus, require_running
from shared.commands import ResizePool
from shared.errors import Invalid
from shared.ports import Cause
from shared.ulids import new_id

Json = dict[str, Any]


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, the result last.")
@click.pass_context
def pool(ctx: click.Context, as_json: bool) -> None:
    """The pool in numbers; of several pools each one's too."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(show, as_json=as_json)


@click.command()
@command
async def show(output: Output) -> int:
    """The pool in numbers."""
    numbers = await _numbers()
    text = (
        f"{numbers['available']} warm, {numbers['booting']} booting, {numbers['inUse']} in use, "
        f"{numbers['suspended']} of them asleep, {numbers['kept']} kept, {numbers['waiting']} waiting "
        f"(target {numbers['target']}, at least {numbers['min']}, at most {numbers['max']})"
    )
    if len(numbers["pools"]) > 1:
        text = "\n".join((text, *map(_line, numbers["pools"])))
    output.result({"type": "pool", **numbers}, text)
    return 0


@pool.command()
@click.argument("name", default="default")
@click.option("--target", type=click.IntRange(min=0), help="VMs that are kept warm. Default: as it is.")
@click.option(
    "--minimum", type=click.IntRange(min=0), help="VMs that stay warm for those who need this pool. Default: as it is."
)
@click.option("--maximum", type=click.IntRange(min=1), help="VMs in all. Default: as it is.")
@command
async def resize(output: Output, name: str, target: int | None, minimum: int | None, maximum: int | None) -> int:
    """Change how many VMs the pool NAME keeps, until the pool service starts again with settings that say otherwise."""
    pools = {each["name"]: each for each in (await _numbers())["pools"]}
    if name not in pools:
        raise Invalid("no_such_pool", f"There is no pool {name!r}.", f"The pools that there are: {', '.join(pools)}.")
    now = pools[name]
    wanted = ResizePool(
        id=new_id(),
        pool=name,
        target=now["target"] if target is None else target,
        minimum=now["min"] if minimum is None else minimum,
        maximum=now["max"] if maximum is None else maximum,
    )
    async with operator_bus() as bus:
        await bus.commands.send(wanted, Cause(actor="operator"))
    told = {"pool": name, "target": wanted.target, "min": wanted.minimum, "max": wanted.maximum}
    text = f"The pool {name} keeps {wanted.target} warm, at least {wanted.minimum}, at most {wanted.maximum}."
    output.result({"type": "pool_resized", **told}, text)
    return 0


async def _numbers() -> Json:
    running = require_running()
    async with aiohttp.ClientSession() as session:
        numbers: Json = (await Api(running.gateway, session).call("GET", "/health/pool"))["pool"]
    return numbers


def _line(each: Json) -> str:
    where = " ".join(filter(None, (f"{each['memoryMb']} MB", each["region"], each["image"])))
    failing = f", {each['bootFailures']} boots in a row failed" if each["bootFailures"] else ""
    return (
        f"  {each['name']} ({where}): {each['available']} warm, {each['booting']} booting, {each['inUse']} in use, "
        f"{each['waiting']} waiting (target {each['target']}, at most {each['max']}){failing}"
    )


COMMANDS = (pool,)
