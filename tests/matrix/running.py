"""One row of the matrix, for real: its folder becomes a preview by the CLI, and what came of it is looked at."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec

from tests.live.client import Client
from tests.live.platform import Platform
from tests.matrix.rows import Row

PREVIEW_TIMEOUT_S = 300.0
HMR_TIMEOUT_S = 15.0
BROWSER_ACCEPT = "text/html,application/xhtml+xml,*/*;q=0.8"


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """A row's figures, in seconds; `problem` says why it is not right, and is empty where it is."""

    name: str
    framework: str = ""
    version: str = ""
    manager: str = ""
    install_s: float | None = None
    boot_s: float | None = None
    ready_s: float | None = None
    hmr: str = ""
    problem: str = ""


async def run_row(name: str, row: Row, folder: Path, platform: Platform, client: Client) -> Outcome:
    """Preview the folder, ask for its page through the gateway, and stop it again."""
    ran = await platform.drape("preview", folder, "--json", timeout_s=PREVIEW_TIMEOUT_S)
    if not ran.out:
        return Outcome(name=name, problem=ran.err.strip()[-200:])
    result = ran.last
    preview_id = result.get("preview_id")
    if preview_id is None:
        return Outcome(name=name, problem=f"{result['code']}: {result['message']}")
    try:
        hmr = await _hmr_of(client, preview_id) if ran.code == 0 else ""
        view = await client.preview(preview_id)
        return await _outcome(name, row, result, {**view, "hmr": hmr}, client)
    finally:
        await client.stop(preview_id)


async def _outcome(name: str, row: Row, result: dict[str, Any], view: dict[str, Any], client: Client) -> Outcome:
    steps = result.get("steps", {})
    outcome = Outcome(
        name=name,
        framework=view["framework"],
        version=view["version"],
        manager=view["package_manager"],
        install_s=steps.get("installing"),
        boot_s=steps.get("waiting_server"),
        ready_s=result.get("total_s"),
        hmr=view["hmr"],
    )
    return msgspec.structs.replace(outcome, problem=await _problem(row, result, view, client))


async def _problem(row: Row, result: dict[str, Any], view: dict[str, Any], client: Client) -> str:
    if result["type"] != "preview_ready":
        tail = " / ".join(view["log_tail"][-3:])
        return f"{result['code']}: {result['message']} ({tail})"[:300]
    if view["status"] != "ready":
        return f"it is {view['status']}: {view['message']}"[:300]
    if view["framework"] != row.slug:
        return f"detected as {view['framework']}, not {row.slug}"
    page = await client.visit(result["preview_id"], row.path, accept=BROWSER_ACCEPT)
    if page.status != 200:
        return f"GET {row.path} answered {page.status}"
    if row.expect not in page.text:
        return f"GET {row.path} has no {row.expect!r}"
    return ""


async def _hmr_of(client: Client, preview_id: str) -> str:
    """The state of the socket for edits, which is told a moment after ready; empty where it is not."""
    try:
        async with asyncio.timeout(HMR_TIMEOUT_S):
            async for _, _, message in client.sse(f"/api/previews/{preview_id}/events"):
                views = message.get("previews") or [message.get("preview")]
                if views[0] and views[0].get("hmr"):
                    return str(views[0]["hmr"]["state"])
    except TimeoutError:
        return ""
    return ""
