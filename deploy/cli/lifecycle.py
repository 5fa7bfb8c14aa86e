"""`up`, `down`, `status`: the platform on this machine."""

import asyncio
import signal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from deploy.cli.main import command
from deploy.cli.output import Output
from deploy.cli.platform import STATUS_FUNCTION, running_or_none, service_status
from deploy.local.detach import down as stop_all
from deploy.local.detach import up_detached
from deploy.local.errors import LauncherError
from deploy.local.launcher import run
from deploy.local.nats_health import health_of
from deploy.local.options import GATEWAY, SERVICES, AlreadyRunning, RunStatus, UpOptions, without_passwords
from deploy.local.paths import Home
from deploy.local.rollout import service_of
from deploy.settings import effective, use_config
from services.gateway.adapters.access import access_from


@click.command()
@click.option("--detach", is_flag=True, help="Return once everything is ready.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port of the gateway; 0 takes a free one. Default 8080.")
@click.option("--host", help="Address of the gateway. Default 127.0.0.1.")
@click.option("--replicas", type=click.IntRange(1, 16), default=1, show_default=True, help="Processes of each service.")
@click.option("--nats-nodes", type=click.Choice(["1", "3"]), help="Nodes of NATS. Default: as before, at first 1.")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Settings in TOML, for all services; the environment goes before. Default: DRAPE_CONFIG.",
)
@command
async def up(
    output: Output,
    detach: bool,
    port: int | None,
    host: str | None,
    replicas: int,
    nats_nodes: str | None,
    config: Path | None,
) -> int:
    """Start everything on this machine: NATS, PostgreSQL, the four services."""
    for warning in use_config(config):
        output.say(warning)
    nodes = int(nats_nodes) if nats_nodes else None
    options = UpOptions.from_env(host=host, port=port, replicas=replicas, nats_nodes=nodes)
    # What the gateway would refuse, said before anything is started.
    access_from(effective().get("DRAPE_API_TOKENS", ""), options.host, "")
    home = Home.from_env()
    try:
        if detach:
            status = await up_detached(options, home, STATUS_FUNCTION)
            _announce(output, status)
        else:
            await _foreground(output, options, home)
    except AlreadyRunning as error:
        if error.status is None:
            raise
        if other := differences(error.status, port, replicas, nodes):
            raise LauncherError(
                "runs_otherwise",
                f"Drape is already running at {error.status.gateway}, with {other}. Nothing was changed.",
                "`drape down` ends it; then start it as you want it.",
            ) from None
        output.result(
            {"type": "already_running", "gateway": error.status.gateway}, f"{error.message} Nothing was started."
        )
    return 0


def differences(status: RunStatus, port: int | None, replicas: int, nodes: int | None) -> str:
    """What runs otherwise than was asked for, in words; empty where nothing does. Elsewhere's NATS has no nodes of ours."""
    running = {
        "port": (port or None, urlsplit(status.gateway).port),
        "replicas of each service:": (
            replicas if replicas > 1 else None,
            sum(service_of(name) == GATEWAY for name in status.pids),
        ),
        "nodes of NATS:": (nodes, len(status.nats_monitors)),
    }
    return ", ".join(f"{what} {is_now}" for what, (asked, is_now) in running.items() if asked and asked != is_now)


async def _foreground(output: Output, options: UpOptions, home: Home) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, stop.set)

    def on_ready(status: RunStatus) -> None:
        _announce(output, status)
        output.say("Ctrl-C ends it.")

    await run(options, home, on_ready, stop, service_status)
    output.say("Stopped.")


def _announce(output: Output, status: RunStatus) -> None:
    total_s = status.timings_s.get("total", 0.0)
    output.result(
        {"type": "up", **_addresses(status), "total_s": total_s},
        f"Drape is up after {total_s:.1f} s: {status.gateway}/",
    )


def _addresses(status: RunStatus, *, secrets: bool = False) -> dict[str, str]:
    """Where everything is. Output ends up in logs, so passwords are left out unless they are asked for."""
    found = {"gateway": status.gateway, "nats": status.nats, "postgres": status.postgres}
    return found if secrets else {name: without_passwords(url) for name, url in found.items()}


@click.command()
@command
async def down(output: Output) -> int:
    """Stop everything that `up` started, VMs included."""
    report = await stop_all(Home.from_env())
    if report.supervisor == "not_running" and not report.ended:
        text = "Nothing was running."
    else:
        text = f"Stopped: {', '.join(report.ended) or 'everything'}."
    output.result({"type": "down", "supervisor": report.supervisor, "ended": report.ended, "vms": report.vms}, text)
    if report.problems:
        raise LauncherError(
            "vms_left",
            f"VMs may be left: {'; '.join(report.problems)}.",
            "Once that is mended, `drape down` removes them. Their agents end by themselves after DRAPE_POOL_ORPHAN_TIMEOUT_S.",
        )
    return 0


@click.command()
@click.option("--secrets", is_flag=True, help="Addresses in JSON with their passwords, which work as they are.")
@command
async def status(output: Output, secrets: bool) -> int:
    """What runs, where, and whether each service has caught up with the log."""
    running = running_or_none()
    if running is None:
        output.result({"type": "status", "running": False}, "Drape is not running. Start it with `drape up --detach`.")
        return 1
    services, nodes = await services_of(running.nats), await health_of(running.nats_monitors)
    output.result(
        {
            "type": "status",
            "running": True,
            "provider": running.provider,
            **_addresses(running, secrets=secrets),
            "services": services,
            "nats_nodes": nodes,
            "pids": running.pids,
        },
        _status_text(running, services, nodes),
    )
    return 0 if all(each["ready"] for each in services.values()) else 1


async def services_of(nats_url: str) -> dict[str, dict[str, Any]]:
    try:
        found = await service_status(nats_url)
    except Exception:
        found = {}  # NATS is away: no service is ready, which is what the table then says
    silent: dict[str, Any] = {"ready": False, "seq": 0, "lag": 0, "replicas": []}
    return {name: {**silent, **found.get(name, {})} for name in SERVICES}


def _status_text(running: RunStatus, services: dict[str, dict[str, Any]], nodes: dict[str, str]) -> str:
    lines = [f"gateway     {running.gateway}/"]
    lines += [f"{name:<13} {health}, pid {running.pids.get(name, '-')}" for name, health in nodes.items()]
    for name, each in services.items():
        state = "ready" if each["ready"] else "not ready"
        pids = [str(pid) for process, pid in sorted(running.pids.items()) if service_of(process) == name]
        lines.append(f"{name:<13} {state:<10} seq {each['seq']}, lag {each['lag']}, pid {' '.join(pids) or '-'}")
        if silent := silent_of(running, name, each):
            lines.append(f"{'':<13} no answer from pid {' '.join(map(str, silent))}")
    lines.append(f"{'PostgreSQL':<13} {_rows_text(services['telemetry'])}")
    lines.append(f"{'VMs':<13} {running.provider}")
    return "\n".join(lines)


def _rows_text(telemetry: dict[str, Any]) -> str:
    """Whether it answers, and which tables are behind the log."""
    if "postgres" not in telemetry:
        return "unknown: telemetry does not say"
    behind = [f"{name} {each['lag']}" for name, each in telemetry["projections"].items() if each["lag"]]
    rows = f"events behind: {', '.join(behind)}" if behind else "its rows have caught up"
    return f"{'answers' if telemetry['postgres'] else 'does not answer'}, {rows}"


def silent_of(running: RunStatus, name: str, status: dict[str, Any]) -> list[int]:
    """The processes of a service that do not say how they are: they hang, or are starting."""
    speaking = {each["pid"] for each in status["replicas"]}
    ours = sorted(pid for process, pid in running.pids.items() if service_of(process) == name)
    return [pid for pid in ours if pid not in speaking]


COMMANDS = (up, down, status)
