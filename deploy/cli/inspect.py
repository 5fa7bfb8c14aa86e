"""`ps`, `logs`, `stop`, `restart`, `events`: look at what runs, and act on one preview."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Any
from urllib.parse import urlencode

import aiohttp
import click
import msgspec

from deploy.cli.api import Api
from deploy.cli.following import READY, conclude, follow, link_of
from deploy.cli.main import command
from deploy.cli.output import Output
from deploy.cli.platform import platform_secret, require_running
from deploy.cli.preview import ask_which
from services.gateway.adapters.terminal import plain
from services.gateway.views import LOG_STEPS
from shared.codec import Recorded
from shared.errors import Invalid
from shared.events import EVENT_TYPES, ProjectDeleted
from shared.jetstream.connection import bus_on, connect
from shared.seals import Seals

EVENTS_MAX = 100_000


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


@click.command()
@click.option("--preview", "preview_id", help="Only this preview's events, and those of its VM that name it.")
@click.option("--type", "kind", help="Only this type of event.")
@click.option("--since", type=click.IntRange(0), default=0, help="Only events after this sequence.")
@click.option("--follow", "-f", is_flag=True, help="Go on as they come, until Ctrl-C.")
@command
async def events(output: Output, preview_id: str | None, kind: str | None, since: int, follow: bool) -> int:
    """The event log."""
    if kind is not None and kind not in EVENT_TYPES:
        near = get_close_matches(kind, EVENT_TYPES, n=1)
        hint = f"Is {near[0]} meant?" if near else "ARCHITECTURE.md lists the events."
        raise Invalid("unknown_event_type", f"There is no event of type {kind!r}.", hint)
    client = await connect(require_running().nats, "drape-cli")
    bus = bus_on(client, "cli", platform_secret())
    log = bus.log
    try:
        if follow:
            queue: asyncio.Queue[Recorded | BaseException] = asyncio.Queue(maxsize=EVENTS_MAX)
            subscription = await log.follow(since, queue.put_nowait, queue.put_nowait)
            try:
                while True:
                    item = await queue.get()
                    if isinstance(item, BaseException):
                        raise item
                    if _is_wanted(item, preview_id, kind):
                        await _print_event(output, item, bus.seals)
            finally:
                await subscription.stop()
        async for recorded in log.read(since):
            if _is_wanted(recorded, preview_id, kind):
                await _print_event(output, recorded, bus.seals)
    finally:
        await client.close()
    return 0


def _is_wanted(recorded: Recorded, preview_id: str | None, kind: str | None) -> bool:
    of = getattr(recorded.event, "preview_id", None)
    return kind in (None, recorded.type) and preview_id in (None, of)


async def _print_event(output: Output, recorded: Recorded, seals: Seals) -> None:
    """With what is sealed in it, as far as that can be read here."""
    event = recorded.event
    if isinstance(event, ProjectDeleted):
        seals.forget(event.project_id)
    data = await seals.opened(msgspec.to_builtins(event)) if event is not None else {}
    meta = recorded.meta
    output.emit(
        {
            "type": recorded.type,
            "seq": recorded.seq,
            "at": meta.at,
            "key": recorded.key,
            "rev": meta.rev,
            "id": meta.id,
            "correlation_id": meta.correlation_id,
            "causation_id": meta.causation_id,
            "actor": meta.actor,
            "data": data,
        }
    )
    at = datetime.fromtimestamp(meta.at, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    fields = " ".join(f"{name}={value}" for name, value in data.items() if value not in ("", None, [], {}))
    output.say(f"{recorded.seq:>6} {at} {recorded.type:<22} {fields[:160]}")


COMMANDS = (ps, logs, stop, restart, events)
