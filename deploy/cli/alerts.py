"""`alerts`: what is raised now, what was, who was told; silences; and a test of the channels."""

import getpass
import re
import time
from datetime import UTC, datetime
from typing import Any

import click
import msgspec

from deploy.cli.main import command
from deploy.cli.output import Output
from deploy.cli.platform import operator_bus
from shared.commands import EndSilence, SilenceAlert, SilenceReply
from shared.errors import Invalid
from shared.ports import Cause
from shared.ulids import new_id

Json = dict[str, Any]

TEST_TIMEOUT_S = 60.0
"""For all channels one after another, each within its own time-out."""
RECENT_SHOWN = 10
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, the result last.")
@click.pass_context
def alerts(ctx: click.Context, as_json: bool) -> None:
    """Alerts that are raised, who was told, and silences."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_alerts, as_json=as_json)


@alerts.command("ls")
@command
async def list_alerts(output: Output) -> int:
    """What is raised now, what was, and which silences there are."""
    async with operator_bus() as bus:
        told: Json = msgspec.json.decode(await bus.commands.query("telemetry", "alerts"))
    for kind, name in (("alert", "alerts"), ("alert_ended", "recent"), ("silence", "silences")):
        for each in told[name]:
            output.emit({"type": kind, **each})
    if not told["alerts"]:
        output.say("No alert is raised.")
    for each in told["alerts"]:
        output.say(f"{each['severity'].upper():<9} {each['alert']:<22} since {_time(each['since'])}{_told(each)}")
        output.say(f"          {each['message']}")
    if told["recent"]:
        output.say("Over:")
    for each in told["recent"][:RECENT_SHOWN]:
        ended = f"{_time(each['cleared_at'])} after {each['lasted_s']:.0f} s"
        output.say(f"          {each['alert']:<22} {ended}{_told(each)}")
    for each in told["silences"]:
        why = f": {each['reason']}" if each["reason"] else ""
        output.say(f"Silence   {each['pattern']:<22} until {_time(each['until'])} by {each['by']}{why}")
        output.say(f"          `drape alerts unsilence {each['silence_id']}` ends it")
    channels = ", ".join(told["channels"]) or "nobody: DRAPE_TELEMETRY_NOTIFY_… make channels"
    output.say(f"Told: {channels}.")
    counts = {name: len(told[name]) for name in ("alerts", "recent", "silences")}
    output.emit({"type": "alerts", **counts, "channels": told["channels"]})
    return 0


@alerts.command()
@click.argument("alert")
@click.option("--for", "for_", required=True, metavar="TIME", help="How long: 90s, 30m, 2h, 1d.")
@click.option("--reason", default="", help="Why, for those who wonder.")
@command
async def silence(output: Output, alert: str, for_: str, reason: str) -> int:
    """Send nothing of ALERT for a while: a name, or its beginning and `*`. It is still raised and shown. The end of what was
    sent before is sent."""
    until = time.time() + _seconds(for_)
    wish = SilenceAlert(id=new_id(), pattern=alert, until=until, reason=reason, by=_who())
    async with operator_bus() as bus:
        body = await bus.commands.send(wish, Cause(actor="operator"))
    silence_id = msgspec.json.decode(body, type=SilenceReply).silence_id
    told = {"silence_id": silence_id, "pattern": alert, "until": until, "reason": reason, "by": wish.by}
    text = f"{alert} is silenced until {_time(until)}; `drape alerts unsilence {silence_id}` ends it before."
    output.result({"type": "silenced", **told}, text)
    return 0


@alerts.command()
@click.argument("silence_id", metavar="SILENCE")
@command
async def unsilence(output: Output, silence_id: str) -> int:
    """End a silence. What is raised still, and has not been told, is told now."""
    async with operator_bus() as bus:
        await bus.commands.send(EndSilence(id=new_id(), silence_id=silence_id, by=_who()), Cause(actor="operator"))
    output.result({"type": "unsilenced", "silence_id": silence_id}, f"The silence {silence_id} has ended.")
    return 0


@alerts.command("test")
@click.argument("channel", default="")
@command
async def send_test(output: Output, channel: str) -> int:
    """Send a test to CHANNEL (webhook, slack, email), or to all that are configured, and say what came of it."""
    wish = msgspec.json.encode({"channel": channel})
    async with operator_bus() as bus:
        query = bus.commands.query("telemetry", "test-notification", wish, timeout_s=TEST_TIMEOUT_S, once=True)
        tried: list[Json] = msgspec.json.decode(await query)["tried"]
    if not tried:
        raise Invalid(
            "no_channels",
            "No channel is configured: nobody is told of alerts.",
            "DRAPE_TELEMETRY_NOTIFY_WEBHOOK_URL, …_SLACK_URL and …_SMTP_HOST make them.",
        )
    for each in tried:
        output.emit({"type": "channel", **each})
        output.say(f"{each['channel']:<10} {'has it' if each['ok'] else 'failed: ' + each['code']}")
    failed = sum(not each["ok"] for each in tried)
    output.emit({"type": "tested", "channels": len(tried), "failed": failed})
    return 1 if failed else 0


def _seconds(text: str) -> float:
    """`90s`, `30m`, `2h`, `1d`. Raises `Invalid` (`bad_time`)."""
    found = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if found is None:
        raise Invalid("bad_time", f"{text!r} is no length of time.", "A number and s, m, h or d: 90s, 30m, 2h, 1d.")
    return float(int(found[1]) * _UNITS[found[2]])


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _told(each: Json) -> str:
    """Who has been told of it, in a few words."""
    words = [
        f"{told['channel']} {told['kind']}{' FAILED ' + told['code'] if told['code'] else ''}"
        for told in each["notifications"]
    ]
    return (" (silenced)" if each["silenced"] else "") + (f" [{', '.join(words)}]" if words else "")


def _who() -> str:
    try:
        return getpass.getuser()[:100]
    except (KeyError, OSError):  # a user without a name
        return "operator"


COMMANDS = (alerts,)
