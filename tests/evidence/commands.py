"""The runbook's commands, each run as it would be typed, with all that it printed."""

import asyncio
import shlex
from collections.abc import Mapping
from pathlib import Path

import msgspec

from shared.jetstream.topology import PARKED_ROOT
from shared.parked import Parked
from tests.evidence.cases import node
from tests.live.client import Client
from tests.live.operating import DENIAL, Operator, nats_command, runbook
from tests.live.platform import Platform, Ran

WARNS = "nats server check stream --stream DRAPE_PARKED"
"""Exit code 1: something is parked."""
FOR_EVER = 124
"""Of `timeout`, around what would go on until Ctrl-C."""
SECOND = ("drape parked drop",)
"""Of the two that are parked the first is tried again before."""


async def run_runbook(platform: Platform, client: Client, folder: Path, work: Path) -> tuple[int, list[str]]:
    """Into `folder`/runbook.txt; contexts, with their keys, and backups go below `work`.
    Gives how many commands ran, and what is wrong with some."""
    nats = await asyncio.to_thread(nats_command)
    operator = await asyncio.to_thread(Operator, platform, nats, work)
    project = work / "project"
    project.mkdir(exist_ok=True)
    (project / "index.html").write_text("<title>runbook</title>")
    view = await client.ready(node(999).files, "runbook")
    keys = await _park(platform)
    filled = {
        "<preview>": view["preview_id"],
        "<project>": view["project_id"],
        "<key>": keys[0],
        "<seq>": "3",
        "<folder>": str(project),
    }
    ran, wrong = 0, []
    with (folder / "runbook.txt").open("w", encoding="utf-8") as file:
        for block in runbook():
            for line in block.commands:
                typed = _typed(line, {**filled, "<key>": keys[1]} if line.startswith(SECOND) else filled)
                if block.untried or (nats is None and "nats" in shlex.split(line)[:3]):
                    file.write(f"$ {typed}\n(not tried: {block.untried or 'the nats command is missing'})\n\n")
                    continue
                done = await operator.run(typed)
                file.write(f"$ {typed}\n{done.out}{done.err}[exit {done.code}]\n\n".replace(str(work), "DIR"))
                ran += 1
                if not _is_right(line, done):
                    wrong.append(f"{typed}: exit {done.code}: {(done.out + done.err)[-300:]}")
    return ran, wrong


async def _park(platform: Platform) -> list[str]:
    """Two reactions of the pool to its first events, which would do no harm a second time."""
    parked = [
        Parked(
            service="pool",
            kind="event",
            seq=seq,
            subject="drape.evt.pool.pool.default.PoolResized",
            reason="made by a run that gathers evidence",
            attempts=12,
            at="2026-11-30T00:00:00Z",
        )
        for seq in (1, 2)
    ]
    async with platform.connected("pool") as pool:
        for each in parked:
            await pool.jetstream().publish(f"{PARKED_ROOT}.{each.key}", msgspec.json.encode(each))
    return [each.key for each in parked]


def _typed(line: str, filled: Mapping[str, str]) -> str:
    for placeholder, value in filled.items():
        line = line.replace(placeholder, value)
    return line


def _is_right(line: str, ran: Ran) -> bool:
    expected = 1 if line == WARNS else FOR_EVER if line.startswith("timeout ") else 0
    return ran.code == expected and DENIAL not in ran.out + ran.err
