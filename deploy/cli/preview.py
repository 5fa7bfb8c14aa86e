"""`preview`: a folder becomes a live preview, and stays one while it is edited."""

import asyncio
import sys
import webbrowser
from pathlib import Path
from typing import Any

import aiohttp
import click
import msgspec

from deploy.cli.api import Api
from deploy.cli.env import parse_pairs
from deploy.cli.folder import read_folder
from deploy.cli.following import conclude, follow, link_of
from deploy.cli.main import command
from deploy.cli.output import Output
from deploy.cli.platform import ensure_running
from deploy.cli.projects import project_of_folder, send_folder
from deploy.cli.watch import Watched, watch
from deploy.local.paths import Home
from shared.errors import DrapeError
from shared.project_env import check_variables

ASKS_MAX = 3
"""Apps that are asked for in one run: a choice that leads to another question is one too many."""

Json = dict[str, Any]


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line asks for."""

    path: Path
    name: str
    app: str
    variables: dict[str, str]
    watching: bool
    opening: bool
    private: bool
    vm: Json
    """`memory_mb`, `region`, `image`: what of it is asked for."""


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--watch", "watching", is_flag=True, help="Send changes as they are saved, until Ctrl-C.")
@click.option("--open", "opening", is_flag=True, help="Open the preview in the browser.")
@click.option("--private", is_flag=True, help="Only who has a signed link may see it; one is printed.")
@click.option("--memory-mb", type=click.IntRange(min=0), default=0, help="Memory of the VM. Default: what it needs.")
@click.option("--region", default="", help="Where the VM is to be. Default: anywhere.")
@click.option("--image", default="", help="Of which image the VM is to be. Default: any.")
@click.option("--name", help="The project's name. Default: the folder's.")
@click.option("--app", default="", metavar="PATH", help="The folder of the app to show, where PATH holds several.")
@click.option(
    "--env", "pairs", multiple=True, metavar="KEY=VALUE", help="Set a variable of the project; may be repeated."
)
@command
async def preview(
    output: Output,
    path: Path,
    watching: bool,
    opening: bool,
    private: bool,
    name: str | None,
    app: str,
    pairs: tuple[str, ...],
    memory_mb: int,
    region: str,
    image: str,
) -> int:
    """Show the project in PATH live. Starts what `drape up --detach` would, if nothing is running.

    A folder that was shown before stays the same project: only what has changed is sent.
    """
    try:
        wish = Wish(
            path=path,
            name=name or path.resolve().name,
            app=app,
            variables=parse_pairs(pairs),
            watching=watching,
            opening=opening,
            private=private,
            vm={
                name: value for name, value in (("memory_mb", memory_mb), ("region", region), ("image", image)) if value
            },
        )
        return await _show_folder(output, wish)
    except DrapeError as error:
        if not output.as_json:
            raise
        # Programs find every reason in the same place, whether the preview failed or never began.
        output.emit(
            {
                "type": "preview_failed",
                "code": error.code,
                "message": error.message,
                "hint": error.hint,
                "log_tail": [],
            }
        )
        return 1


async def _show_folder(output: Output, wish: Wish) -> int:
    files = read_folder(wish.path)
    check_variables(wish.variables)
    running = await ensure_running()
    async with aiohttp.ClientSession() as session:
        api = Api(running.gateway, session)
        project_id = await project_of_folder(api, Home.from_env(), wish.path, wish.name)
        if wish.variables:
            await api.call("PATCH", f"/api/projects/{project_id}/env", json=wish.variables)
        stored = await send_folder(api, project_id, files)
        wanted = await api.call(
            "POST",
            "/api/previews",
            json={"project_id": project_id, "app": wish.app, "private": wish.private, **wish.vm},
        )
        ended = await follow(output, api, wanted["preview_id"], attempt=wanted["attempt"], files_version=stored.version)
        ended = await ask_which(output, api, ended)
        link = await link_of(api, ended)
        if not await conclude(output, api, ended, running.gateway, link):
            return 1
        if wish.opening:
            webbrowser.open(link or ended["url"])
        if wish.watching:
            await watch(output, api, project_id, Watched(wish.path, files, stored))
    return 0


async def ask_which(output: Output, api: Api, view: Json) -> Json:
    """Where the project holds several apps and somebody is there to answer: which one, and on with that."""
    for _ in range(ASKS_MAX):
        error = view["error"]
        if error is None or error["code"] != "app_choice_needed" or output.as_json or not sys.stdin.isatty():
            break
        choices: list[Json] = error["choices"]
        for number, choice in enumerate(choices, 1):
            output.say(f"  {number}  {choice['path']}  ({choice['framework']})")
        picked = await asyncio.to_thread(click.prompt, "Which one", type=click.IntRange(1, len(choices)), default=1)
        app = choices[picked - 1]["path"]
        again = await api.call("POST", f"/api/previews/{view['preview_id']}/restart", json={"app": app})
        view = await follow(output, api, view["preview_id"], attempt=again["attempt"])
    return view


COMMANDS = (preview,)
