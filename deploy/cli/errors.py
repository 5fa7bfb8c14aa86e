"""`errors`: what went wrong, by cause; and one cause with its occurrences."""

from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import aiohttp
import click

from deploy.cli.api import Api
from deploy.cli.main import command
from deploy.cli.output import Output
from deploy.cli.platform import require_running
from services.gateway.adapters.terminal import plain

LIMIT_MAX = 200
MESSAGE_CHARS = 90
HEAD = ("ERROR", "COUNT", "PREVIEWS", "LAST SEEN", "EVENT", "CODE", "STEP", "FRAMEWORK")


@click.command()
@click.argument("fingerprint", default="")
@click.option("--days", type=click.IntRange(1, 365), help="How far back; 7, and all that is kept for one error.")
@click.option("--code", default="", help="Only this code, such as install_failed.")
@click.option("--project", default="", metavar="ID", help="Only this project's.")
@click.option("--limit", type=click.IntRange(1, LIMIT_MAX), default=50, show_default=True)
@command
async def errors(output: Output, fingerprint: str, days: int | None, code: str, project: str, limit: int) -> int:
    """What went wrong, newest first, by cause; with the id of one, each time that it happened."""
    asked = {"days": days, "limit": limit}
    async with aiohttp.ClientSession() as session:
        api = Api(require_running().gateway, session)
        if fingerprint:
            found = await api.call("GET", f"/api/errors/{fingerprint}?{_query(asked)}")
        else:
            found = await api.call("GET", f"/api/errors?{_query({**asked, 'code': code, 'project': project})}")
    return _show_one(output, found) if fingerprint else _show_all(output, found)


def _query(asked: dict[str, Any]) -> str:
    return urlencode({name: value for name, value in asked.items() if value})


def _show_all(output: Output, found: dict[str, Any]) -> int:
    rows: list[tuple[str, ...]] = [HEAD]
    for each in found["errors"]:
        output.emit({"type": "error_group", **each})
        counts = (str(each["count"]), str(each["previews"]))
        words = (each["type"], each["code"], each["step"] or "-", each["framework"] or "-")
        rows.append((each["fingerprint"], *counts, _time(each["last_at"]), *words))
    output.emit({"type": "errors", "count": len(found["errors"]), "next": found["next"]})
    if len(rows) == 1:
        output.say("No errors.")
        return 0
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    for number, row in enumerate(rows):
        output.say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        message = found["errors"][number - 1]["last"]["message"] if number else ""
        if message:
            output.say(f"    {_short(message)}")
    if found["next"] is not None:
        output.say("There are more: narrow it by --days, --code or --project, or raise --limit.")
    return 0


def _show_one(output: Output, found: dict[str, Any]) -> int:
    for each in found["occurrences"]:
        output.emit({"type": "error_occurrence", **each})
    output.emit({"type": "error_group", **{key: value for key, value in found.items() if key != "occurrences"}})
    where = f" in the step {found['step']}" * bool(found["step"]) + f" of {found['framework']}" * bool(
        found["framework"]
    )
    output.say(f"{found['type']} {found['code']}{where}: {found['count']} times")
    output.say(f"  in {found['previews']} previews of {found['owners']} owners")
    output.say(f"  first {_time(found['first_at'])}, last {_time(found['last_at'])}")
    for each in found["occurrences"]:
        named = {
            "preview": each["preview_id"],
            "attempt": each["attempt"],
            "vm": each["vm_id"],
            "trace": each["trace_id"],
        }
        told = "  ".join(f"{name} {value}" for name, value in named.items() if value)
        output.say("")
        output.say(f"{_time(each['at'])}  #{each['seq']}  {told}")
        if each["message"]:
            output.say(f"    {plain(each['message'])}")
    return 0


def _short(message: str) -> str:
    line = plain(message).splitlines()[0]
    return line if len(line) <= MESSAGE_CHARS else f"{line[: MESSAGE_CHARS - 1]}…"


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


COMMANDS = (errors,)
