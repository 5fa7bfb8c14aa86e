"""`resident`: VMs that run a template's dev server ahead of need."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import click

from deploy.cli.api import Api
from deploy.cli.folder import LocalFile, read_folder, read_texts
from deploy.cli.main import command
from deploy.cli.output import Output
from deploy.cli.platform import ensure_running
from deploy.cli.projects import project_of_folder, send_folder
from deploy.local.paths import Home
from services.orchestrator.rules.detection import detect
from services.orchestrator.rules.residents import takes_edits_in
from shared.errors import Invalid, Unavailable

READY_TIMEOUT_S = 300.0
POLL_S = 0.5


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--count", type=click.IntRange(min=0), default=1, show_default=True, help="VMs to keep; 0 ends them.")
@click.option("--name", help="The template's name. Default: the folder's.")
@command
async def resident(output: Output, path: Path, count: int, name: str | None) -> int:
    """Keep VMs in which the dev server of the template in PATH runs already.

    A project with the same dependencies and the same dev script starts by bringing its files into one of them. Each VM
    counts against the pool's maximum. Returns once they run.
    """
    files = read_folder(path)
    _check_taken_over(files)
    running = await ensure_running()
    async with aiohttp.ClientSession() as session:
        api = Api(running.gateway, session)
        await _check_room(api, count)
        project_id = await project_of_folder(api, Home.from_env(), path, name or path.resolve().name)
        await send_folder(api, project_id, files)
        await api.call("PUT", f"/api/projects/{project_id}/residents", json={"count": count})
        told = await _until_ready(api, project_id)
    said = f"{told['ready']} of {told['count']} residents of {name or path.resolve().name} run."
    output.result({"type": "residents", **told}, said if count else "No residents are kept any more.")
    return 0


def _check_taken_over(files: dict[str, LocalFile]) -> None:
    """Raises `Invalid` (`never_taken_over`) for a template whose VMs nobody could get, and what detection says of others."""
    found = detect(files, read_texts(files))
    if not (found.deps and found.keeps and takes_edits_in(found)):
        raise Invalid(
            "never_taken_over",
            f"No project could start in a VM that runs this one ({found.framework}).",
            "A template has dependencies without install scripts of its own, and a framework's own dev server.",
        )


async def _check_room(api: Api, count: int) -> None:
    most = (await api.call("GET", "/health/pool"))["pool"]["max"]
    if count >= most:
        raise Invalid(
            "pool_too_small",
            f"The pool has at most {most} VMs: {count} residents would leave none for a preview.",
            "Keep fewer, or raise the pool's maximum (DRAPE_POOL_MAXIMUM).",
        )


async def _until_ready(api: Api, project_id: str) -> dict[str, Any]:
    """Raises `Unavailable` (`residents_not_ready`) with the reason of the last one that failed."""
    path = f"/api/projects/{project_id}/residents"
    deadline = asyncio.get_running_loop().time() + READY_TIMEOUT_S
    told: dict[str, Any] = await api.call("GET", path)
    while told["ready"] < told["count"]:
        if told["error"] is not None or asyncio.get_running_loop().time() > deadline:
            why = told["error"]["message"] if told["error"] is not None else f"Not within {READY_TIMEOUT_S:g} s."
            hint = "Is there room in the pool? Show the folder with `drape preview` to see how it starts."
            raise Unavailable("residents_not_ready", f"{told['ready']} of {told['count']} run. {why}", hint)
        await asyncio.sleep(POLL_S)
        told = await api.call("GET", path)
    return told


COMMANDS = (resident,)
