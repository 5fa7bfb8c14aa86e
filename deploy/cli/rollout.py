"""`rollout`: every process of a service is replaced by a new one, while the platform goes on working."""

from typing import Any

import click

from deploy.cli.main import command
from deploy.cli.output import Output
from deploy.local.options import SERVICES
from deploy.local.paths import Home
from deploy.local.rollout import Request, ask, checked_services
from shared.errors import DrapeError
from shared.ulids import new_id

WORDS = {
    "starting": "a new process is starting",
    "draining": "the new one serves, the old one finishes",
    "done": "replaced",
}


@click.command()
@click.option("--service", "services", multiple=True, type=click.Choice(SERVICES), help="Only this; may be repeated.")
@command
async def rollout(output: Output, services: tuple[str, ...]) -> int:
    """Replace the services' processes one at a time; requests and previews go on meanwhile."""
    request = Request(new_id(), checked_services(services))
    async for line in ask(Home.from_env(), request):
        match line["type"]:
            case "rollout_step":
                output.result(line, f"{line['process']:<14} {WORDS[line['state']]}{_pid(line)}")
            case "rollout":
                output.result(line, f"Replaced {len(line['processes'])} processes in {line['total_s']:.1f} s.")
            case _:
                raise DrapeError(line["code"], line["detail"], line["hint"])
    return 0


def _pid(line: dict[str, Any]) -> str:
    return f" (pid {line['pid']})" if line["pid"] else ""


COMMANDS = (rollout,)
