"""Draws how far a preview is, until it is ready or has ended, and says how it ended."""

import asyncio
from typing import Any

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from deploy.cli.api import Api
from deploy.cli.output import Output
from services.gateway.adapters.terminal import plain
from shared.errors import Unavailable

STREAM_RETRIES_MAX = 20
STREAM_RETRY_S = 0.5
READY = ("ready", "ready_with_errors")
ENDED = (*READY, "failed", "stopped")
QUIET_S = 5.0
"""From here on it is said that nothing was printed: slow and dead should not look the same."""
LINE_CHARS_MAX = 100
PLAIN = frozenset({"state", "preview", "preview_progress", "project", "pool", "log", "error"})

Json = dict[str, Any]


async def follow(output: Output, api: Api, preview_id: str, *, attempt: int = 1, files_version: int = 0) -> Json:
    """Draw progress until this attempt of the preview is ready with these files, or has ended; gives its last view."""
    last_id = ""
    columns = (
        # What a dev server prints is no markup.
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[eta]}", markup=False),
    )
    with Progress(*columns, console=output.errors, disable=output.as_json, transient=True) as bar:
        task = bar.add_task("Starting", total=100.0, eta="")
        for _ in range(STREAM_RETRIES_MAX):
            try:
                async for _, event_id, message in api.stream(f"/api/previews/{preview_id}/events", last_id):
                    last_id = event_id or last_id
                    view = _show(output, bar, task, message, preview_id)
                    if view is not None and _is_over(view, attempt, files_version):
                        return view
            except Unavailable:
                output.emit({"type": "reconnecting"})
            await asyncio.sleep(STREAM_RETRY_S)
    raise Unavailable("stream_broken", "The gateway could not be followed.", "`drape ps` tells how the preview is.")


def _is_over(view: Json, attempt: int, files_version: int) -> bool:
    """Where it was live already, an edit is on its way to it: it is ready once it has that."""
    if view["status"] not in ENDED or view["attempt"] < attempt:
        return False
    return view["status"] not in READY or view["files_version"] >= files_version


def _show(output: Output, bar: Progress, task: TaskID, message: Json, preview_id: str) -> Json | None:
    """Pass a message on; gives the preview's view where the message holds one."""
    match message["type"]:
        case "preview_progress":
            details = message["details"]
            text = describe(message["message"], details.get("phase"), details.get("quiet_s"), details.get("last_line"))
            bar.update(task, completed=message["percent"], description=text, eta=left(message.get("eta_s")))
            output.emit(message)
        case "preview":
            view: Json = message["preview"]
            text = describe(view["message"], view["phase"], view["quiet_s"], view["last_line"])
            bar.update(task, completed=max(view["percent"], 0), description=text, eta=left(view["eta_s"]))
            output.emit(
                {"type": message["event"], "preview_id": preview_id, "seq": message["seq"], "step": view["step"]}
            )
            return view
        case "state":
            return next((each for each in message["previews"] if each["preview_id"] == preview_id), None)
        case kind if kind not in PLAIN:
            output.emit(message)
            bar.console.print(f"Warning: {warning_text(message)}", style="yellow", markup=False)
        case _:
            output.emit(message)
    return None


def describe(message: str, phase: Any, quiet_s: Any, last_line: Any) -> str:
    """The step; while the first page compiles, what is printed too; where nothing is, for how long."""
    text = message
    if isinstance(quiet_s, int | float) and quiet_s >= QUIET_S and "no output" not in message:
        text = f"{message}; no output for {quiet_s:.0f} s"
    if phase == "compiling" and last_line:
        text = f"{text}\n  | {str(last_line)[:LINE_CHARS_MAX]}"
    return text


def left(eta_s: Any) -> str:
    """ "about 12 s left"; nothing where that can't be told."""
    if not isinstance(eta_s, int | float) or eta_s < 1:
        return ""
    return f"about {eta_s:.0f} s left" if eta_s < 90 else f"about {eta_s / 60:.0f} min left"


def warning_text(warning: Json) -> str:
    """A warning in one line."""
    recommendation = f" Recommended: {warning['recommendation']}." if warning.get("recommendation") else ""
    return f"{warning['message']}{recommendation} {warning.get('link') or ''}".rstrip()


async def link_of(api: Api, view: Json) -> str:
    """A signed link to a private preview that is to be seen; empty for others."""
    if not view["private"] or view["status"] not in READY:
        return ""
    return str((await api.call("POST", f"/api/previews/{view['preview_id']}/links"))["url"])


async def conclude(output: Output, api: Api, view: Json, gateway: str, link: str = "") -> bool:
    """Say how it ended; True when there is something to see. `link`: by which a private preview opens."""
    if view["status"] in READY:
        _say_ready(output, view, gateway, link)
        return True
    view = await api.call("GET", f"/api/previews/{view['preview_id']}")
    stopped = {"code": "preview_stopped", "message": "The preview was stopped.", "hint": ""}
    error = {"evidence": [], "choices": [], **(view["error"] or stopped)}
    keys = ("code", "message", "hint", "evidence", "choices")
    output.emit(
        {
            "type": "preview_failed",
            "preview_id": view["preview_id"],
            **{key: error[key] for key in keys},
            "log_tail": view["log_tail"],
        }
    )
    if not output.as_json:
        _say_failed(output, error, view["log_tail"])
    return False


def _say_ready(output: Output, view: Json, gateway: str, link: str) -> None:
    keys = ("preview_id", "url", "total_s", "from_pool", "install", "steps")
    result = {
        "type": "preview_ready",
        **{key: view[key] for key in keys},
        "status": view["status"],
        "private": view["private"],
    }
    if link:
        result["link"] = link
    if view["status"] == "ready":
        output.emit(result)
        output.say(f"Ready after {view['total_s']:.1f} s: {view['url']}")
    else:
        output.emit({**result, "detail": view["message"]})
        output.say(f"The dev server runs, and shows an error in the project: {view['url']}")
        output.say(f"  {view['message']}")
        output.say("Mend it and save: the preview shows the change.")
    if link:
        output.say(f"It is private. A link that opens it, for an hour: {link}")
    output.say(f"The page:            {gateway}/")


def _say_failed(output: Output, error: Json, log_tail: list[str]) -> None:
    """The log's end, with the lines that show the cause marked; those that are further up come first."""
    evidence = [line for line in error["evidence"] if line not in log_tail]
    for line in evidence:
        output.errors.print(f"  > {plain(line)}", markup=False, style="bold")
    if evidence and log_tail:
        output.errors.print("  ...", markup=False, style="dim")
    for line in log_tail:
        shown = line in error["evidence"]
        output.errors.print(f"  {'>' if shown else '|'} {plain(line)}", markup=False, style="bold" if shown else "dim")
    output.errors.print(f"drape: {error['message']}", style="red", markup=False)
    if error["hint"]:
        output.errors.print(f"       {error['hint']}", markup=False)
    for choice in error["choices"]:
        output.errors.print(f"       --app {choice['path']}  ({choice['framework']})", markup=False)
