"""`preview`: a folder becomes a live preview, and stays one while it is edited."""

import asyncio
import sys
import webbrowser
from pathlib import Path
from typing import Any

import aiohttp
import click
import watchfiles

from deploy.cli.api import Api
from deploy.cli.folder import LocalFile, pack_changes, pack_folder, pack_new, read_folder
from deploy.cli.following import conclude, follow
from deploy.cli.main import command
from deploy.cli.output import Output
from deploy.cli.platform import ensure_running
from deploy.cli.projects import project_of
from deploy.cli.variables import parse_variables
from shared.errors import DrapeError

WATCH_DEBOUNCE_MS = 50

Json = dict[str, Any]


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--watch", is_flag=True, help="Send changes as they are saved, until Ctrl-C.")
@click.option("--open", "open_page", is_flag=True, help="Open the preview in the browser.")
@click.option("--name", help="The project's name. Default: the folder's.")
@click.option("--app", default="", help="Which app to show, where the project holds several: its folder or its name.")
@click.option("--env", "variables", multiple=True, metavar="KEY=VALUE", help="Set a variable of the project first.")
@command
async def preview(
    output: Output,
    path: Path,
    watch: bool,
    open_page: bool,
    name: str | None,
    app: str,
    variables: tuple[str, ...],
) -> int:
    """Show the project in PATH live. Starts what `drape up --detach` would, if nothing is running."""
    try:
        return await _show_folder(output, path, watch, open_page, name, app, parse_variables(variables))
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


async def _show_folder(
    output: Output,
    path: Path,
    watch: bool,
    open_page: bool,
    name: str | None,
    app: str,
    variables: dict[str, str],
) -> int:
    files = read_folder(path)
    running = await ensure_running()
    async with aiohttp.ClientSession() as session:
        api = Api(running.gateway, session)
        project = await project_of(api, path, name or path.resolve().name)
        project_id = project["project_id"]
        version = await send_folder(api, project_id, files)
        if variables:
            await api.call("PATCH", f"/api/projects/{project_id}/env", json=variables)
        wanted = await api.call("POST", "/api/previews", json={"project_id": project_id, "app": app})
        ended = await follow(output, api, wanted["preview_id"])
        ended = await _let_choose(output, api, ended)
        if not await conclude(output, api, ended, running.gateway):
            return 1
        if open_page:
            webbrowser.open(ended["url"])
        if watch:
            await _watch(output, api, path, project_id, files, version)
    return 0


async def send_folder(api: Api, project_id: str, files: dict[str, LocalFile]) -> int:
    """Make the project's files those of the folder; only contents that it does not hold are sent. Gives the version."""
    stored = await api.call("GET", f"/api/projects/{project_id}/files")
    held = {entry["sha256"] for entry in stored["files"].values()}
    if not held:
        answer = await api.upload("PUT", f"/api/projects/{project_id}/files", pack_folder(files))
        return int(answer["version"])
    listing, tar = await asyncio.to_thread(pack_new, files, held)
    now = {path: {"sha256": each["sha256"], "mode": each["mode"]} for path, each in stored["files"].items()}
    if listing == now:
        return int(stored["version"])
    try:
        answer = await api.upload("PUT", f"/api/projects/{project_id}/files", tar)
    except DrapeError as error:
        if error.code not in ("content_missing", "files_version_conflict"):
            raise
        answer = await api.upload("PUT", f"/api/projects/{project_id}/files", pack_folder(files))
    return int(answer["version"])


async def _let_choose(output: Output, api: Api, view: Json) -> Json:
    """A person who is there says which of several apps is meant; a program gets the choices as the failure says them."""
    error = view.get("error") or {}
    if error.get("code") != "app_choice_needed" or output.as_json or not sys.stdin.isatty():
        return view
    choices = error["choices"]
    for number, choice in enumerate(choices, 1):
        output.say(f"  {number}  {choice['path']}  ({choice['framework']})")
    number = await asyncio.to_thread(click.prompt, "Which app", type=click.IntRange(1, len(choices)))
    app = choices[number - 1]["path"]
    again = await api.call("POST", f"/api/previews/{view['preview_id']}/restart", json={"app": app})
    return await follow(output, api, view["preview_id"], attempt=again["attempt"])


async def _watch(
    output: Output, api: Api, root: Path, project_id: str, files: dict[str, LocalFile], version: int
) -> None:
    """Send what changes, as it changes."""
    output.say("Watching for changes; Ctrl-C ends it.")
    async for _ in watchfiles.awatch(root, debounce=WATCH_DEBOUNCE_MS, step=10, recursive=True):
        try:
            now = await asyncio.to_thread(read_folder, root)
        except DrapeError as error:
            output.say(f"Not sent: {error.message} {error.hint}")
            continue
        changed = {name: file for name, file in now.items() if files.get(name) != file}
        deleted = [name for name in files if name not in now]
        if not changed and not deleted:
            continue
        try:
            stored = await api.upload(
                "PATCH", f"/api/projects/{project_id}/files", pack_changes(changed, version, deleted)
            )
        except DrapeError as error:
            if error.code != "files_version_conflict":
                output.say(f"Not sent: {error.message}")
                continue
            stored = {"version": await send_folder(api, project_id, now)}
        files, version = now, stored["version"]
        output.result(
            {"type": "files_changed", "version": version, "changed": sorted(changed), "deleted": deleted},
            f"Sent version {version}: {len(changed)} changed, {len(deleted)} deleted",
        )


COMMANDS = (preview,)
