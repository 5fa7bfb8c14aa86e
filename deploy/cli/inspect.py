"""`ps`, `logs`, `stop`, `restart`: look at what runs, and act on one preview."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import aiohttp
import click

from deploy.cli.api import Api
from deploy.cli.following import READY, conclude, follow, link_of
from deploy.cli.main import command
from deploy.cli.output import Output
from deploy.cli.platform import require_running
from deploy.cli.preview import ask_which
from services.gateway.adapters.terminal import plain
from services.gateway.views import LOG_STEPS


@asynccontextmanager
async def _api() -> AsyncIterator[Api]:
    running = require_running()
    async with aiohttp.ClientSession() as session:
        yield Api(running.gateway, session)


@click.command()
@command
async def ps(output: Output) -> int:
    """The previews, newest last."""
    async with _api() as api:
        previews = (await api.call("GET", "/api/previews"))["previews"]
    rows: list[tuple[str, ...]] = [("PREVIEW", "PROJECT", "STATUS", "FRAMEWORK", "SECONDS", "")]
    for each in previews:
        output.emit({"type": "preview", **each})
        rows.append(_row(each))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        output.say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _row(view: dict[str, Any]) -> tuple[str, ...]:
    seconds = view["total_s"] if view["total_s"] is not None else view["elapsed_s"]
    shown = (
        view["error"]["code"]
        if view["error"]
        else view["url"]
        if view["status"] in (*READY, "suspended")
        else view["message"]
    )
    framework = f"{view['framework']} {view['version']}".strip()
    return (view["preview_id"], view["project_name"], view["status"], framework, f"{seconds:.1f}", shown)


@click.command()
@click.argument("preview_id")
@click.option("--follow", "-f", is_flag=True, help="Go on as it comes, until Ctrl-C.")
@click.option("--timestamps", "-t", is_flag=True, help="Show when each line was printed, and by which step.")
@click.option("--step", multiple=True, type=click.Choice(LOG_STEPS), help="Only this step's output; may be repeated.")
@click.option("--attempt", type=click.IntRange(1), help="Only this attempt's output.")
@click.option("--since", type=click.IntRange(0), default=0, help="Begin after this offset, the `next` of an answer.")
@command
async def logs(
    output: Output,
    preview_id: str,
    follow: bool,
    timestamps: bool,
    step: tuple[str, ...],
    attempt: int | None,
    since: int,
) -> int:
    """What a preview's install and dev server printed."""
    wanted = {"step": ",".join(step), "attempt": attempt or ""}
    only = urlencode({name: value for name, value in wanted.items() if value})
    path = f"/api/previews/{preview_id}/logs?{only}"
    async with _api() as api:
        if follow:
            async for _, _, message in api.stream(path, str(since or "")):
                _print_log(output, message, timestamps)
            return 0
        after = since
        while True:
            page = await api.call("GET", f"{path}&since={after}")
            for message in (*([page["cut"]] if "cut" in page and after == since else []), {"type": "log", **page}):
                _print_log(output, message, timestamps)
            if page["next"] == after:
                return 0
            after = page["next"]


def _print_log(output: Output, message: dict[str, Any], timestamps: bool) -> None:
    if message["type"] == "cut":
        output.emit(message)
        lines = f"{message['lines']} lines of it. " if message["lines"] else ""
        output.say(f"[{message['reason']} {lines}".rstrip() + "]")
        return
    for line in message.get("lines", []):
        output.emit({"type": "log", **line})
        at = datetime.fromtimestamp(line["at"], UTC).strftime("%H:%M:%S")
        mark = "!" if line["stream"] == "stderr" else " "
        # Colours are for terminals.
        text = line["text"] if output.console.is_terminal else plain(line["text"])
        output.say(f"{at} {line['step']:<13}{mark} {text}" if timestamps else text)


@click.command()
@click.argument("preview_id")
@command
async def stop(output: Output, preview_id: str) -> int:
    """End a preview."""
    async with _api() as api:
        view = await api.call("DELETE", f"/api/previews/{preview_id}")
    output.result({"type": "stopped", "preview_id": preview_id, "status": view["status"]}, f"It is {view['status']}.")
    return 0


@click.command()
@click.argument("preview_id")
@click.option("--app", default="", metavar="PATH", help="Show this app of the project from now on.")
@command
async def restart(output: Output, preview_id: str, app: str) -> int:
    """Begin a preview anew with the newest files; a failed one from the step that failed, where that is possible."""
    running = require_running()
    async with _api() as api:
        again = await api.call("POST", f"/api/previews/{preview_id}/restart", json={"app": app})
        view = await ask_which(output, api, await follow(output, api, preview_id, attempt=again["attempt"]))
        return 0 if await conclude(output, api, view, running.gateway, await link_of(api, view)) else 1


COMMANDS = (ps, logs, stop, restart)
