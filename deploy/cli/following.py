"""Follows one preview: draws its progress, and says how it ended."""

import asyncio
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from deploy.cli.api import Api
from deploy.cli.output import Output
from shared.errors import Unavailable

STREAM_RETRIES_MAX = 20
STREAM_RETRY_S = 0.5
ENDS = ("ready", "ready_with_errors", "failed", "stopped")
READY_KEYS = ("preview_id", "url", "total_s", "from_pool", "install", "steps")

Json = dict[str, Any]


async def follow(output: Output, api: Api, preview_id: str, *, attempt: int = 1) -> Json:
    """Draw progress until this attempt of the preview is ready or has ended; gives its last view."""
    last_id = ""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[eta]}", style="dim"),
    )
    with Progress(*columns, console=output.errors, disable=output.as_json, transient=True) as bar:
        task = bar.add_task("Starting", total=100.0, eta="")
        for _ in range(STREAM_RETRIES_MAX):
            try:
                async for _, event_id, message in api.stream(f"/api/previews/{preview_id}/events", last_id):
                    last_id = event_id or last_id
                    view = _show(output, bar, task, message, preview_id)
                    if view is not None and view["status"] in ENDS and view["attempt"] >= attempt:
                        return view
            except Unavailable:
                output.emit({"type": "reconnecting"})
            await asyncio.sleep(STREAM_RETRY_S)
    raise Unavailable("stream_broken", "The gateway could not be followed.", "`drape ps` tells how the preview is.")


def _show(output: Output, bar: Progress, task: Any, message: Json, preview_id: str) -> Json | None:
    """Pass a message on; gives the preview's view where the message holds one."""
    match message["type"]:
        case "preview_progress":
            bar.update(task, completed=message["percent"], description=message["message"], eta=eta_text(message))
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
        case _:
            output.emit(message)
            if "recommendation" in message:
                bar.console.print(_warning_text(message), style="yellow", markup=False)
    return None


def eta_text(message: Json) -> str:
    """How long it will take, as far as can be told."""
    eta_s = message.get("eta_s")
    return f"about {eta_s:.0f} s left" if eta_s is not None and eta_s >= 1 else ""


def _warning_text(warning: Json) -> str:
    advice = f" Recommended: {warning['recommendation']}" if warning["recommendation"] else ""
    return f"Warning: {warning['message']}{advice} {warning['link']}".rstrip()


async def conclude(output: Output, api: Api, view: Json, gateway: str) -> bool:
    """Say how it ended; True when there is something to see."""
    if view["status"] in ("ready", "ready_with_errors"):
        _conclude_ready(output, view, gateway)
        return True
    view = await api.call("GET", f"/api/previews/{view['preview_id']}")
    error = view["error"] or {"code": "preview_stopped", "message": "The preview was stopped.", "hint": ""}
    failed = {
        "type": "preview_failed",
        "preview_id": view["preview_id"],
        "code": error["code"],
        "message": error["message"],
        "hint": error["hint"],
        "log_tail": view["log_tail"],
        "evidence": error.get("evidence", []),
    }
    if error.get("choices"):
        failed["choices"] = error["choices"]
    output.emit(failed)
    if not output.as_json:
        _print_failure(output, view, error)
    return False


def _conclude_ready(output: Output, view: Json, gateway: str) -> None:
    ready = {"type": "preview_ready", **{key: view[key] for key in READY_KEYS}}
    if view["status"] == "ready_with_errors":
        ready |= {"status": view["status"], "detail": view["detail"]}
    output.emit(ready)
    output.say(f"Ready after {view['total_s']:.1f} s: {view['url']}")
    if view["status"] == "ready_with_errors":
        output.say(f"The dev server shows an error of the project ({view['detail']}); mend it, and it shows the page.")
    output.say(f"The page:            {gateway}/")


def _print_failure(output: Output, view: Json, error: Json) -> None:
    evidence = set(error.get("evidence", []))
    for line in view["log_tail"]:
        marked = line in evidence
        output.errors.print(f"  {'>' if marked else '|'} {line}", markup=False, style="bold" if marked else "dim")
    output.errors.print(f"drape: {error['message']}", style="red", markup=False)
    output.errors.print(f"       {error['hint']}", markup=False)
    for choice in error.get("choices", []):
        output.errors.print(f"       --app {choice['path']}  ({choice['framework']})", markup=False)
