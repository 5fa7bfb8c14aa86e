"""What one owner notices while another floods the gateway: previews, API requests and pages, quiet and then under the flood.

Beside it, the bare cost in the same two situations: a GET of the same dev server, started by hand. What the flood does to
that, the machine does; the rest is ours.
"""

import asyncio
import os
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import msgspec

from deploy.bench.bare_preview import bare_server
from deploy.bench.own_platform import ENDED, PREVIEW_TIMEOUT_S
from deploy.cli.folder import LocalFile, pack_folder, read_folder, read_texts
from deploy.cli.platform import STATUS_FUNCTION
from deploy.local.detach import down, up_detached
from deploy.local.options import UpOptions
from deploy.local.paths import Home
from services.orchestrator.rules.detection import detect
from shared.errors import DrapeError

REQUESTS = 100
"""API requests and pages are quick: so many for each situation."""
PAUSE_S = 0.02
FLOOD_SETTLE_S = 2.0
FLOOD_END_S = 60.0
LIMITS = {
    "DRAPE_POOL_TARGET": "2",
    "DRAPE_POOL_MAXIMUM": "6",
    "DRAPE_ORCHESTRATOR_PREVIEWS_PER_OWNER_MAX": "3",
    "DRAPE_GATEWAY_TOKEN_READS_PER_S": "50",
    "DRAPE_GATEWAY_TOKEN_READS_BURST": "200",
    "DRAPE_GATEWAY_TOKEN_WRITES_PER_S": "20",
    "DRAPE_GATEWAY_TOKEN_WRITES_BURST": "100",
    "DRAPE_GATEWAY_TOKEN_STARTS_PER_S": "0.5",
    "DRAPE_GATEWAY_TOKEN_STARTS_BURST": "10",
    "DRAPE_GATEWAY_UPLOADS_MAX": "4",
    "DRAPE_GATEWAY_UPLOADS_PER_OWNER_MAX": "2",
    "DRAPE_GATEWAY_UPLOADS_WAITING_PER_OWNER_MAX": "4",
    "DRAPE_GATEWAY_WEBSOCKET_CLIENTS_PER_OWNER_MAX": "50",
}
"""As owners would be kept who are people, on a machine of two cores; both owners have the same."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One thing in both situations, in milliseconds. `times`: over quiet, at the median."""

    what: str
    runs: int
    quiet_p50_ms: float
    quiet_p95_ms: float
    flood_p50_ms: float
    flood_p95_ms: float
    times: float


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """`answers`: what the flood was answered: {kind: {status: count}}."""

    rows: list[Row]
    answers: dict[str, dict[str, int]]


def row(what: str, quiet: list[float], flood: list[float]) -> Row:
    """From durations in seconds."""
    middle, under = statistics.median(quiet), statistics.median(flood)
    return Row(
        what=what,
        runs=len(flood),
        quiet_p50_ms=_ms(middle),
        quiet_p95_ms=_ms(_p95(quiet)),
        flood_p50_ms=_ms(under),
        flood_p95_ms=_ms(_p95(flood)),
        times=round(under / middle, 2),
    )


def table(figures: Figures) -> list[str]:
    """For people."""
    lines = [f"{'':10} {'quiet p50':>11} {'p95':>9} {'flood p50':>11} {'p95':>9} {'times':>7}"]
    for each in figures.rows:
        numbers = (
            f"{each.quiet_p50_ms:11.1f} {each.quiet_p95_ms:9.1f} {each.flood_p50_ms:11.1f} {each.flood_p95_ms:9.1f}"
        )
        lines.append(f"{each.what:10} {numbers} {each.times:7.2f}")
    for kind, answers in sorted(figures.answers.items()):
        lines.append(
            f"the flood's {kind}: " + ", ".join(f"{count} x {status}" for status, count in sorted(answers.items()))
        )
    return lines


async def measure(path: Path, runs: int, say: Callable[[str], None]) -> Figures:
    """`runs` previews of PATH in each situation, on a platform of its own with two owners."""
    files = read_folder(path)
    found = detect(files, read_texts(files))
    calm, loud = secrets.token_hex(16), secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="drape-bench-") as name:
        env = {**LIMITS, "DRAPE_API_TOKENS": f"{calm}:calm,{loud}:loud"}
        home = Home(Path(name) / "overload")
        status = await up_detached(UpOptions(port=0, env=env), home, STATUS_FUNCTION)
        try:
            async with (
                aiohttp.ClientSession(headers={"Authorization": f"Bearer {calm}"}) as session,
                bare_server(files, found, Path(name) / "npm") as bare,
            ):
                owner = _Owner(session, status.gateway, files, bare.url)
                await owner.preview()  # what is fetched and kept once is there for both situations
                say("quiet")
                quiet = await owner.durations(runs)
                async with flooding(status.gateway, loud) as answers:
                    say("flooding")
                    flood = await owner.durations(runs)
        finally:
            await down(home)
    return Figures(rows=[row(what, quiet[what], flood[what]) for what in quiet], answers=answers)


@asynccontextmanager
async def flooding(gateway: str, token: str) -> AsyncIterator[dict[str, dict[str, int]]]:
    """A flood in a process of its own; the answers are filled in at its end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "deploy.bench.flood",
        env={**os.environ, "GATEWAY": gateway, "DRAPE_API_TOKEN": token},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    answers: dict[str, dict[str, int]] = {}
    try:
        await asyncio.wait_for(process.stdout.readline(), FLOOD_END_S)
        await asyncio.sleep(FLOOD_SETTLE_S)
        yield answers
        told, _ = await asyncio.wait_for(process.communicate(b""), FLOOD_END_S)
        answers.update(msgspec.json.decode(told, type=dict[str, dict[str, int]]))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


class _Owner:
    """The one that is measured."""

    def __init__(
        self, session: aiohttp.ClientSession, gateway: str, files: dict[str, LocalFile], bare_url: str
    ) -> None:
        self._session = session
        self._gateway = gateway
        self._files = files
        self._bare_url = bare_url

    async def durations(self, runs: int) -> dict[str, list[float]]:
        """Seconds, by what was done."""
        previews, preview_id = [], ""
        for number in range(runs):
            begun = time.perf_counter()
            project_id, preview_id = await self.preview(keep=number == runs - 1)
            previews.append(time.perf_counter() - begun)
        host = {"Host": f"{preview_id}.preview.localhost:{urlsplit(self._gateway).port}"}
        api = await _timed(lambda: self._get(f"{self._gateway}/api/projects"))
        page = await _timed(lambda: self._get(f"{self._gateway}/", host))
        bare = await _timed(lambda: self._get(f"{self._bare_url}/"))
        await self._end(project_id, preview_id)
        return {"preview": previews, "api": api, "page": page, "bare page": bare}

    async def preview(self, *, keep: bool = False) -> tuple[str, str]:
        """From nothing to ready: project, files, preview. Gives the ids."""
        project = await self._json("POST", "/api/projects", {"name": "calm"})
        project_id = str(project["project_id"])
        path = f"{self._gateway}/api/projects/{project_id}/files"
        headers = {"Content-Type": "application/x-tar"}
        async with self._session.put(path, data=pack_folder(self._files), headers=headers) as answer:
            _check(answer.status, await answer.text())
        asked = await self._json("POST", "/api/previews", {"project_id": project_id})
        preview_id = str(asked["preview_id"])
        await self._until_ready(preview_id)
        if not keep:
            await self._end(project_id, preview_id)
        return project_id, preview_id

    async def _until_ready(self, preview_id: str) -> None:
        async with asyncio.timeout(PREVIEW_TIMEOUT_S):
            while (view := await self._json("GET", f"/api/previews/{preview_id}"))["status"] not in ENDED:
                await asyncio.sleep(PAUSE_S * 2)
        if view["status"] != "ready":
            raise DrapeError("bench_preview_failed", f"The preview {view['status']}: {view['message']}")

    async def _end(self, project_id: str, preview_id: str) -> None:
        await self._json("DELETE", f"/api/previews/{preview_id}")
        await self._json("DELETE", f"/api/projects/{project_id}")

    async def _json(self, method: str, path: str, body: object = None) -> dict[str, object]:
        async with self._session.request(method, self._gateway + path, json=body) as answer:
            data = await answer.read()
            _check(answer.status, data.decode("utf-8", "replace"))
            return dict(msgspec.json.decode(data)) if data else {}

    async def _get(self, url: str, headers: dict[str, str] | None = None) -> None:
        async with self._session.get(url, headers={"Accept": "*/*", **(headers or {})}) as answer:
            _check(answer.status, await answer.text())


async def _timed(ask: Callable[[], Awaitable[None]]) -> list[float]:
    taken = []
    for _ in range(REQUESTS):
        begun = time.perf_counter()
        await ask()
        taken.append(time.perf_counter() - begun)
        await asyncio.sleep(PAUSE_S)
    return taken


def _check(status: int, text: str) -> None:
    if status >= 400:
        raise DrapeError("bench_refused", f"The calm owner was answered {status}: {text[:300]}")


def _p95(durations: list[float]) -> float:
    return sorted(durations)[max(0, -(-len(durations) * 95 // 100) - 1)]


def _ms(duration_s: float) -> float:
    return round(duration_s * 1000, 2)
