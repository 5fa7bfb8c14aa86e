"""`preview`: a folder becomes a live preview."""

import asyncio
import webbrowser
from pathlib import Path
from typing import Any

import aiohttp
import click
import watchfiles
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from deploy.cli.api import Api
from deploy.cli.folder import LocalFile, pack_changes, pack_folder, read_folder
from deploy.cli.main import command
from deploy.cli.output import Output
from deploy.cli.platform import ensure_running
from shared.errors import DrapeError, Unavailable

WATCH_DEBOUNCE_MS = 50
STREAM_RETRIES_MAX = 20
STREAM_RETRY_S = 0.5

Json = dict[str, Any]


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--watch", is_flag=True, help="Send changes as they are saved, until Ctrl-C.")
@click.option("--open", "open_page", is_flag=True, help="Open the preview in the browser.")
@click.option("--name", help="The project's name. Default: the folder's.")
@command
async def preview(output: Output, path: Path, watch: bool, open_page: bool, name: str | None) -> int:
    """Show the project in PATH live. Starts what `drape up --detach` would, if nothing is running."""
    try:
        return await _show_folder(output, path, watch, open_page, name)
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


async def _show_folder(output: Output, path: Path, watch: bool, open_page: bool, name: str | None) -> int:
    files = read_folder(path)
    running = await ensure_running()
    async with aiohttp.ClientSession() as session:
        api = Api(running.gateway, session)
        project = await api.call("POST", "/api/projects", json={"name": name or path.resolve().name})
        stored = await api.upload("PUT", f"/api/projects/{project['project_id']}/files", pack_folder(files))
        wanted = await api.call("POST", "/api/previews", json={"project_id": project["project_id"]})
        ended = await follow(output, api, wanted["preview_id"])
        if not await conclude(output, api, ended, running.gateway):
            return 1
        if open_page:
            webbrowser.open(ended["url"])
        if watch:
            await _watch(output, api, path, project["project_id"], files, stored["version"])
    return 0


async def follow(output: Output, api: Api, preview_id: str) -> Json:
    """Draw progress until the preview is ready or has ended; gives its last view."""
    last_id = ""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=output.errors, disable=output.as_json, transient=True) as bar:
        task = bar.add_task("Starting", total=100.0)
        for _ in range(STREAM_RETRIES_MAX):
            try:
                async for _, event_id, message in api.stream(f"/api/previews/{preview_id}/events", last_id):
                    last_id = event_id or last_id
                    view = _show(output, bar, task, message, preview_id)
                    if view is not None and view["status"] in ("ready", "failed", "stopped"):
                        return view
            except Unavailable:
                output.emit({"type": "reconnecting"})
            await asyncio.sleep(STREAM_RETRY_S)
    raise Unavailable("stream_broken", "The gateway could not be followed.", "`drape ps` tells how the preview is.")


def _show(output: Output, bar: Progress, task: Any, message: Json, preview_id: str) -> Json | None:
    """Pass a message on; gives the preview's view where the message holds one."""
    match message["type"]:
        case "preview_progress":
            bar.update(task, completed=message["percent"], description=message["message"])
            output.emit(message)
        case "preview":
            view: Json = message["preview"]
            bar.update(task, completed=max(view["percent"], 0), description=view["message"])
            output.emit(
                {"type": message["event"], "preview_id": preview_id, "seq": message["seq"], "step": view["step"]}
            )
            return view
        case "state":
            return next((each for each in message["previews"] if each["preview_id"] == preview_id), None)
        case "nextjs_version":
            output.emit(message)
            text = f"Warning: {message['message']} Recommended: {message['recommendation']}. {message['link']}"
            bar.console.print(text, style="yellow", markup=False)
        case _:
            output.emit(message)
    return None


async def conclude(output: Output, api: Api, view: Json, gateway: str) -> bool:
    """Say how it ended; True when it is ready."""
    if view["status"] == "ready":
        keys = ("preview_id", "url", "total_s", "from_pool", "install", "steps")
        output.emit({"type": "preview_ready", **{key: view[key] for key in keys}})
        output.say(f"Ready after {view['total_s']:.1f} s: {view['url']}")
        output.say(f"The page:            {gateway}/")
        return True
    view = await api.call("GET", f"/api/previews/{view['preview_id']}")
    error = view["error"] or {"code": "preview_stopped", "message": "The preview was stopped.", "hint": ""}
    output.emit(
        {
            "type": "preview_failed",
            "preview_id": view["preview_id"],
            "code": error["code"],
            "message": error["message"],
            "hint": error["hint"],
            "log_tail": view["log_tail"],
        }
    )
    if not output.as_json:
        for line in view["log_tail"]:
            output.errors.print(f"  | {line}", markup=False, style="dim")
        output.errors.print(f"drape: {error['message']}", style="red", markup=False)
        output.errors.print(f"       {error['hint']}", markup=False)
    return False


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
            stored = await api.upload("PUT", f"/api/projects/{project_id}/files", pack_folder(now))
        files, version = now, stored["version"]
        output.result(
            {"type": "files_changed", "version": version, "changed": sorted(changed), "deleted": deleted},
            f"Sent version {version}: {len(changed)} changed, {len(deleted)} deleted",
        )


COMMANDS = (preview,)
