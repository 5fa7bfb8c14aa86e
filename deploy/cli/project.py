"""`project`: the projects as such. `delete` leaves nothing of one that can be read."""

import asyncio
import sys
from typing import Any

import aiohttp
import click

from deploy.cli.api import Api
from deploy.cli.main import command
from deploy.cli.output import Output
from deploy.cli.platform import require_running
from deploy.cli.projects import find_project, forget
from deploy.local.paths import Home
from shared.errors import NotFound, Refused, Unavailable

ERASURE_WAIT_S = 150.0
"""Longer than its previews take to end; what lasts longer goes on without us."""
LOOK_S = 0.5

Json = dict[str, Any]


@click.group()
def project() -> None:
    """Projects: delete one, with everything of it."""


@project.command("delete")
@click.argument("name", metavar="PROJECT")
@click.option("--yes", is_flag=True, help="Do not ask. Nothing is asked where no terminal could answer either.")
@command
async def delete_project(output: Output, name: str, yes: bool) -> int:
    """Delete PROJECT: its id, its name, or the folder that was shown. There is no way back.

    Its previews are stopped, their VMs given back, their output, files and variables removed, and the key is dropped that
    its names, paths, commands and messages in the event log are read with. The folder itself stays as it is.
    """
    home = Home.from_env()
    async with aiohttp.ClientSession() as session:
        api = Api(require_running().gateway, session)
        if not yes and sys.stdin.isatty() and not output.as_json:
            await _confirm(api, home, name)
        project_id = await _delete(api, home, name)
        forget(home, project_id)
        told = await _erased(api, project_id)
    words = (
        f"{project_id} is deleted: {told['previews']} previews, {told['output_batches']} batches of their output, "
        f"{told['objects']} stored objects and {told['reactions']} parked reactions; what the event log says of it by name "
        "can't be read any more."
    )
    output.result({"type": "project_deleted", **told}, words)
    return 0


async def _confirm(api: Api, home: Home, name: str) -> None:
    """Asks the one at the terminal. Raises `Refused` where the answer is not yes."""
    try:
        project = await find_project(api, home, name)
    except NotFound:
        return  # deleted before, or never there: which of them, is said next
    question = f"Delete {project['name']} ({project['project_id']}) and everything of it? There is no way back."
    if not await asyncio.to_thread(click.confirm, question):
        raise Refused("not_deleted", "Nothing was deleted.")


async def _delete(api: Api, home: Home, name: str) -> str:
    """Gives the project's id. One that was deleted before, named by its id, is deleted."""
    try:
        project_id = str((await find_project(api, home, name))["project_id"])
    except NotFound as error:
        try:
            told: Json = await api.call("GET", f"/api/projects/{name}/erasure")
        except NotFound:
            raise error from None
        return str(told["project_id"])
    await api.call("DELETE", f"/api/projects/{project_id}")
    return project_id


async def _erased(api: Api, project_id: str) -> Json:
    try:
        async with asyncio.timeout(ERASURE_WAIT_S):
            while not (told := await api.call("GET", f"/api/projects/{project_id}/erasure"))["erased"]:
                await asyncio.sleep(LOOK_S)
    except TimeoutError as error:
        raise Unavailable(
            "erasure_pending",
            f"The project is deleted, but not everything of it was removed within {ERASURE_WAIT_S:g} s.",
            "That goes on by itself: the same command says when it is done; `drape parked ls` shows what failed.",
        ) from error
    done: Json = told
    return done


COMMANDS = (project,)
