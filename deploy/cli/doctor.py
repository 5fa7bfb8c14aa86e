"""`doctor`: is this machine able to run Drape, is what runs healthy, and does its state follow from the log?"""

import asyncio
import os
from collections.abc import Sequence

import click

from deploy.cli.main import command
from deploy.cli.output import Output
from deploy.cli.platform import running_or_none
from deploy.doctor import machine, replaying, services
from deploy.doctor.boots import boots
from deploy.doctor.docker import docker
from deploy.doctor.finding import Finding, looked_at, unseen, warning, wrong
from deploy.doctor.fly import fly
from deploy.doctor.nodes import ANSWERS, connected, nodes
from deploy.doctor.streams import streams
from deploy.local.options import RunStatus
from deploy.local.paths import Home
from deploy.local.status import supervisor
from shared.errors import DrapeError, Unavailable

MACHINE_S, NATS_S, REPLAY_S, PROVIDER_S = 15.0, 30.0, 600.0, 600.0
PROVIDERS = {"docker": docker, "fly": fly}
OF_NATS = ("streams", "services", "vms", "boots", "postgres")
"""What can only be looked at through NATS."""


@click.command()
@click.option("--replay-check", is_flag=True, help="Replay the log from event 1 and compare with each service's state.")
@click.option("--provider", type=click.Choice(sorted(PROVIDERS)), help="Look at what VMs are made of there instead.")
@command
async def doctor(output: Output, replay_check: bool, provider: str | None) -> int:
    """Look at this machine and at what runs; say what is wrong and what to do."""
    if provider is not None:
        return _told(output, await looked_at("provider", PROVIDERS[provider](os.environ), PROVIDER_S))
    home, running = Home.from_env(), running_or_none()
    findings = await looked_at("machine", machine.machine(home, running=running is not None), MACHINE_S)
    if running is not None:
        findings += await _platform(home, running, replay_check=replay_check)
    else:
        findings.append(_not_running(home, needed=replay_check))
    return _told(output, findings)


def _told(output: Output, findings: Sequence[Finding]) -> int:
    """Says them all. Gives the exit code."""
    for finding in findings:
        output.emit(finding.as_json())
        mark = {"ok": "ok     ", "warning": "warning", "error": "ERROR  "}[finding.level]
        output.say(f"{mark} {finding.check}: {finding.detail}")
    failed = [finding.check for finding in findings if finding.level == "error"]
    output.emit({"type": "doctor", "ok": not failed, "failed": failed})
    return 1 if failed else 0


def _not_running(home: Home, *, needed: bool) -> Finding:
    if supervisor(home) is not None:
        what, todo = "Drape is starting, or ending.", "Look again in a moment; `drape status` tells."
        return wrong("platform", "not_ready", what, todo=todo)
    what, todo = "Drape is not running.", "`drape up --detach` starts it."
    if needed:
        return wrong("platform", "not_running", what, "There is no live state to compare with.", todo)
    return warning("platform", "not_running", what, todo=todo)


async def _platform(home: Home, running: RunStatus, *, replay_check: bool) -> list[Finding]:
    """All that runs, from the ground up: what stands on something that is away could not be looked at."""
    findings = await looked_at("processes", asyncio.to_thread(machine.processes, home), MACHINE_S)
    monitors = list(running.nats_monitors)
    clocks: list[tuple[str, float]] = []

    async def ground() -> list[Finding]:
        found, ahead = await nodes(running.nats, monitors)
        clocks.extend(ahead)
        return found

    below = await looked_at("nats", ground(), NATS_S)
    findings += [*below, machine.clock(clocks)]
    try:
        if not any(finding.code == ANSWERS for finding in below):
            raise Unavailable("nats_silent", "No node of NATS answers.")
        async with connected(running.nats) as client:
            found = await asyncio.gather(
                looked_at("streams", streams(client), NATS_S),
                looked_at("services", services.services(client, home), NATS_S),
                looked_at("vms", services.inventory(client, home, running.provider), NATS_S),
                looked_at("boots", boots(client), NATS_S),
                looked_at("postgres", services.postgres(client, running.postgres), NATS_S),
            )
            findings += [finding for part in found for finding in part]
            if replay_check:
                findings += await looked_at("replay", replaying.replayed(client), REPLAY_S)
    except (DrapeError, TimeoutError) as error:
        missing = (*OF_NATS, "replay") if replay_check else OF_NATS
        why = getattr(error, "message", "") or "NATS does not answer."
        findings += [unseen(check, why) for check in missing]
    return findings


COMMANDS = (doctor,)
