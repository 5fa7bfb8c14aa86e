"""`doctor`: is this machine able to run Drape, is what runs healthy, and does its state follow from the log?"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from deploy.cli.lifecycle import services_of
from deploy.cli.main import command
from deploy.cli.output import Output
from deploy.cli.platform import require_running, running_or_none
from deploy.local.options import SERVICES
from deploy.local.paths import Home
from services.gateway.app import definition as gateway_definition
from services.gateway.config import GatewayConfig
from services.orchestrator.app import definition as orchestrator_definition
from services.orchestrator.config import OrchestratorConfig
from services.pool.adapters.node import node_dir
from services.pool.app import definition as pool_definition
from services.pool.config import PoolConfig
from services.telemetry.app import definition as telemetry_definition
from services.telemetry.config import TelemetryConfig
from shared.definition import Definition, Replayed, digest
from shared.errors import DrapeError
from shared.jetstream.connection import bus_on, connect

DISK_FREE_MIN_BYTES = 2 * 1024**3

DEFINITIONS: dict[str, Callable[[], Definition[Any]]] = {
    "pool": lambda: pool_definition(PoolConfig()),
    "orchestrator": lambda: orchestrator_definition(OrchestratorConfig()),
    "gateway": lambda: gateway_definition(GatewayConfig()),
    "telemetry": lambda: telemetry_definition(TelemetryConfig()),
}


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at. `level`: `ok`, `warning` or `error`."""

    check: str
    level: str
    detail: str


@click.command()
@click.option("--replay-check", is_flag=True, help="Replay the log from event 1 and compare with each service's state.")
@command
async def doctor(output: Output, replay_check: bool) -> int:
    """Look at this machine and at what runs; say what is wrong and what to do."""
    findings = [_node(), _bubblewrap(), _disk()]
    running = running_or_none()
    if running is None:
        findings.append(Finding("platform", "warning", "Drape is not running: `drape up --detach` starts it."))
    else:
        services = await services_of(running.nats)
        for name, each in services.items():
            level = "ok" if each["ready"] else "error"
            findings.append(Finding(f"service {name}", level, f"seq {each['seq']}, {each['lag']} behind the log"))
        findings.append(await _parked(running.nats))
    if replay_check:
        findings += await _replay_check(require_running().nats)
    for finding in findings:
        output.emit({"type": "finding", **msgspec.to_builtins(finding)})
        mark = {"ok": "ok     ", "warning": "warning", "error": "ERROR  "}[finding.level]
        output.say(f"{mark} {finding.check}: {finding.detail}")
    failed = [finding.check for finding in findings if finding.level == "error"]
    output.emit({"type": "doctor", "ok": not failed, "failed": failed})
    return 1 if failed else 0


def _node() -> Finding:
    try:
        folder = node_dir(os.environ.get("DRAPE_POOL_NODE_DIR", ""))
    except DrapeError as error:
        return Finding("node", "error", f"{error.message} {error.hint}")
    return Finding("node", "ok", str(folder or shutil.which("node")))


def _bubblewrap() -> Finding:
    path = shutil.which("bwrap")
    if path is None:
        detail = "bubblewrap is not installed: projects run unsandboxed. Install the package `bubblewrap`."
        return Finding("sandbox", "warning", detail)
    return Finding("sandbox", "ok", path)


def _disk() -> Finding:
    folder = Home.from_env().root
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(Path(folder)).free
    level = "ok" if free >= DISK_FREE_MIN_BYTES else "warning"
    return Finding("disk", level, f"{free / 1024**3:.1f} GiB free at {folder}")


async def _parked(nats_url: str) -> Finding:
    client = await connect(nats_url, "drape-doctor")
    try:
        count = len(await bus_on(client, "doctor").parked.list())
    finally:
        await client.close()
    hint = f"{count} reactions failed too often: `drape parked ls` says why, `drape parked replay` tries them again."
    return Finding("parked", "warning" if count else "ok", hint if count else "nothing")


async def _replay_check(nats_url: str) -> list[Finding]:
    client = await connect(nats_url, "drape-doctor")
    try:
        bus = bus_on(client, "doctor")
        findings = []
        for name in SERVICES:
            live = msgspec.json.decode(await bus.commands.query(name, "digest"))
            state = Replayed(DEFINITIONS[name]())
            await bus.log.replay(0, live["seq"], None, state.fold)
            same = digest(state.state) == live["digest"]
            detail = f"{live['seq']} events give {'the live state' if same else 'ANOTHER state than the live one'}"
            findings.append(Finding(f"replay {name}", "ok" if same else "error", detail))
        return findings
    finally:
        await client.close()


COMMANDS = (doctor,)
