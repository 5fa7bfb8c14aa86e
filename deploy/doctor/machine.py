"""The machine: room on its disk, Node, sandbox, limits, ports, processes of ours that stand still, and its clock."""

import asyncio
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import psutil

from deploy.doctor.finding import Finding, named, warning, well, wrong
from deploy.local import ports, records
from deploy.local.errors import LauncherError
from deploy.local.paths import Home
from services.pool.adapters import cgroups
from services.pool.adapters.node import node_dir
from shared.agent import blocks
from shared.errors import DrapeError

DISK_FREE_LOW_BYTES = 2 * 1024**3
DISK_FREE_MIN_BYTES = 256 * 1024**2
"""Below this a write may fail at any moment, and NATS stops taking events when one does."""
INODES_FREE_MIN = 20_000
"""A few projects' dependencies."""
BLOCKS_FREE_MIN = 32
CLOCK_APART_MAX_S = 1.0


async def machine(home: Home, *, running: bool) -> list[Finding]:
    """What any preview needs of this machine."""
    return [
        *await asyncio.to_thread(_still, home, running=running),
        await asyncio.to_thread(_vm_ports),
    ]


def _still(home: Home, *, running: bool) -> list[Finding]:
    findings = [_node(), _sandbox(), _limits(), _disk(home.root), _files(home.root)]
    return findings if running else [*findings, _gateway_port()]


def _node() -> Finding:
    try:
        folder = node_dir(os.environ.get("DRAPE_POOL_NODE_DIR", ""))
    except DrapeError as error:
        return wrong("node", error.code, error.message, todo=error.hint)
    return well("node", str(folder or shutil.which("node")))


def _sandbox() -> Finding:
    path = shutil.which("bwrap")
    if path is not None:
        return well("sandbox", path)
    return warning(
        "sandbox",
        "bubblewrap_missing",
        "bubblewrap is not installed.",
        "Projects run unsandboxed: they can read what you can read.",
        "Install the package `bubblewrap`.",
    )


def _limits() -> Finding:
    missing = [limit for limit in cgroups.LIMITS if limit not in cgroups.detect().can]
    if not missing:
        return well("limits", "memory, processor and processes of VMs are limited by cgroups")
    return warning(
        "limits",
        "limits_unavailable",
        f"VMs run without limits on {', '.join(missing)}.",
        "No cgroup can be written here.",
        "Run Drape in a delegated cgroup: `systemd-run --user --scope -p Delegate=yes drape up`.",
    )


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder


def _disk(root: Path) -> Finding:
    folder = _existing(root)
    free = shutil.disk_usage(folder).free
    text = f"{free / 1024**3:.1f} GiB free at {folder}"
    if free >= DISK_FREE_LOW_BYTES:
        return well("disk", text)
    todo = "Make room: caches are below `cache`, old VMs below `vms`; or give DRAPE_HOME a larger disk."
    if free >= DISK_FREE_MIN_BYTES:
        return warning("disk", "disk_low", text + ".", "Installs of dependencies take hundreds of MB each.", todo)
    return wrong("disk", "disk_full", text + ".", "Where NATS can't write, no event is accepted any more.", todo)


def _files(root: Path) -> Finding:
    folder = _existing(root)
    stat = os.statvfs(folder)
    if stat.f_files == 0 or stat.f_favail >= INODES_FREE_MIN:
        return well("inodes", f"{stat.f_favail} free at {folder}" if stat.f_files else "not limited")
    return warning(
        "inodes",
        "inodes_low",
        f"Only {stat.f_favail} more files can be made at {folder}.",
        "A project's dependencies are tens of thousands of files.",
        "Remove folders with many small files, or give DRAPE_HOME a disk with more inodes.",
    )


def _gateway_port() -> Finding:
    host, port = os.environ.get("DRAPE_GATEWAY_HOST", "127.0.0.1"), os.environ.get("DRAPE_GATEWAY_PORT", "8080")
    try:
        if port.isdecimal() and int(port):
            ports.require_free(
                host, int(port), "the gateway", "Give another one: `drape up --port N`, 0 takes a free one."
            )
    except LauncherError as error:
        return warning("port", error.code, error.message, todo=error.hint)
    return well("port", f"{port} is free for the gateway")


def _vm_ports() -> Finding:
    listening = (each.laddr for each in psutil.net_connections("tcp") if each.status == psutil.CONN_LISTEN)
    taken = {address.port for address in listening if address}
    free = sum(first not in taken for first in range(blocks.FIRST, blocks.LAST, blocks.SIZE))
    text = f"{free} of {blocks.COUNT} blocks of ports from {blocks.FIRST} to {blocks.LAST} are free for VMs"
    if free >= BLOCKS_FREE_MIN:
        return well("vm ports", text)
    return warning(
        "vm ports",
        "vm_ports_low",
        text + ".",
        "Each VM takes one, and boots fail without.",
        "End what listens there (`ss -ltnp`), or destroy VMs that nobody uses (`drape ps`).",
    )


def processes(home: Home) -> list[Finding]:
    """Ours, as they were written down: those that have gone, and those that somebody has stopped."""
    gone, stopped, count = [], [], 0
    for record in records.read_all(home):
        count += 1
        process = record.process()
        if process is None:
            gone.append(record.name)
        elif process.status() == psutil.STATUS_STOPPED:
            stopped.append(f"{record.name} (process {record.pid})")
    findings = []
    if stopped:
        findings.append(
            wrong(
                "processes",
                "process_stopped",
                f"Stopped by a signal: {named(stopped)}.",
                "It holds what it had begun, and answers nobody.",
                "Let it go on with `kill -CONT PID`, or end it with `kill -KILL PID`: the supervisor starts another.",
            )
        )
    if gone:
        findings.append(
            wrong(
                "processes",
                "process_gone",
                f"Not running: {named(gone)}.",
                todo=f"The supervisor starts it again in seconds; where it does not stay, {home.logs} says why.",
            )
        )
    return findings or [well("processes", f"all {count} run")]


def clock(times: Sequence[tuple[str, float]]) -> Finding:
    """Whether this machine's clock agrees with others': (whose, seconds by which theirs is ahead)."""
    apart = [f"{whose} by {ahead_s:+.1f} s" for whose, ahead_s in times if abs(ahead_s) > CLOCK_APART_MAX_S]
    if not times:
        return warning("clock", "clock_unchecked", "There was no other clock to compare with.")
    if not apart:
        return well("clock", f"agrees with {named(whose for whose, _ in times)}")
    return warning(
        "clock",
        "clocks_apart",
        f"Clocks differ: {named(apart)}.",
        "Deadlines that one replica sets and another keeps shift by as much.",
        "Have all machines follow the same time server (`timedatectl`).",
    )
