"""NATS: each node by itself. Whether it answers, stores, syncs what it acknowledges, and has the same time."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import aiohttp
from nats.aio.client import Client

from deploy.doctor.finding import Finding, warning, well, wrong
from deploy.local.nats import check_answers
from deploy.local.options import without_credentials
from shared.jetstream.connection import connect

ANSWER_S = 3.0
NAME = "drape-doctor"
ANSWERS = "answers"


@asynccontextmanager
async def connected(urls: str, timeout_s: float = 2 * ANSWER_S) -> AsyncIterator[Client]:
    """A connection to whichever node answers. Raises `Unavailable` or TimeoutError, within `timeout_s`."""
    async with asyncio.timeout(timeout_s):
        client = await connect(urls, NAME)
    try:
        yield client
    finally:
        await client.close()


async def nodes(urls: str, monitors: Sequence[str]) -> tuple[list[Finding], list[tuple[str, float]]]:
    """Findings of every node, and how far its clock is ahead of ours. `monitors`: HTTP addresses, where they are known."""
    servers = [each.strip() for each in urls.split(",") if each.strip()]
    answers = await asyncio.gather(*map(_answers, servers))
    findings = list(answers)
    up = sum(finding.level == "ok" for finding in answers)
    if len(servers) > 1 and up <= len(servers) // 2:
        findings.append(
            wrong(
                "nats",
                "no_quorum",
                f"Only {up} of {len(servers)} nodes answer as JetStream.",
                "A majority has to agree before an event is accepted.",
                "Start the others again; their logs say why they ended.",
            )
        )
    clocks = []
    for finding, ahead_s in await asyncio.gather(*map(_monitored, monitors)):
        findings += finding
        clocks += ahead_s
    if not monitors:
        findings.append(
            warning(
                "nats",
                "nats_unmonitored",
                "No node's monitoring address is known.",
                "Whether a node syncs what it acknowledges, or has stopped storing, can't be seen from here.",
                "Ask each node's /healthz and /varz.",
            )
        )
    return findings, clocks


async def _answers(url: str) -> Finding:
    check = f"nats {without_credentials(url)}"
    try:
        await check_answers(url, ANSWER_S)
        return Finding(check=check, level="ok", code=ANSWERS, what="answers as JetStream")
    except Exception as error:
        why = getattr(error, "message", "") or str(error) or f"No answer within {ANSWER_S:g} s."
        return wrong(
            check,
            "nats_silent",
            "This node does not answer as JetStream.",
            why,
            "Is its process running, and not stopped? `drape status` tells; its log is nats*.log below the home's `logs`.",
        )


async def _monitored(url: str) -> tuple[list[Finding], list[tuple[str, float]]]:
    check, asked_at = f"nats {without_credentials(url)}", time.time()
    timeout = aiohttp.ClientTimeout(total=ANSWER_S)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session:
            status, health = await _json(session, f"{url}/healthz")
            _, varz = await _json(session, f"{url}/varz")
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        why = str(error) or f"No answer within {ANSWER_S:g} s."
        todo = "Restart this node where it does not come back by itself."
        return [wrong(check, "monitor_silent", "This node's monitoring does not answer.", why, todo)], []
    check = f"nats {varz.get('server_name', '')}"
    findings = [_healthy(check, status, health), _synced(check, varz)]
    return findings, [(check, _now(varz) - (asked_at + time.time()) / 2)]


async def _json(session: aiohttp.ClientSession, url: str) -> tuple[int, dict[str, Any]]:
    async with session.get(url) as answer:
        body: dict[str, Any] = await answer.json(content_type=None)
        return answer.status, body


def _healthy(check: str, status: int, health: dict[str, Any]) -> Finding:
    if status == 200:
        return well(check, "stores what it is sent, and has caught up with its peers")
    reason = str(health.get("error") or health.get("status") or status)
    return wrong(
        check,
        "nats_unhealthy",
        f"This node says of itself: {reason}.",
        "After a write that failed (a full disk) a node takes no more until it is started anew, even with room again.",
        "Make room on its disk, then restart this node alone. One that is only behind its peers gets well by itself.",
    )


def _synced(check: str, varz: dict[str, Any]) -> Finding:
    config = (varz.get("jetstream") or {}).get("config") or {}
    if config.get("sync_always"):
        return well(check, "an acknowledged event is on its disk (sync_interval: always)")
    return wrong(
        check,
        "not_synced",
        "This node acknowledges events that are not on its disk yet.",
        "A machine that loses power then loses what it had accepted.",
        "Set `sync_interval: always` in the jetstream block of its configuration.",
    )


def _now(varz: dict[str, Any]) -> float:
    """Seconds since the epoch."""
    return datetime.fromisoformat(str(varz["now"])).timestamp()
