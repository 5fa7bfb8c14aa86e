"""What a preview that is ready does beside a dev server by hand: show an edit, wake up."""

import asyncio
import time
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import msgspec

from deploy.bench import edits
from deploy.bench.bare_preview import BareServer
from deploy.bench.own_platform import OwnPlatform
from deploy.bench.rows import Pair, Row, pair_row
from deploy.cli.folder import LocalFile, read_folder
from services.orchestrator.rules.detection import Detection
from services.orchestrator.rules.frameworks import FRAMEWORKS, Hmr
from shared.errors import DrapeError
from shared.events import PreviewResumed
from shared.ids import PreviewId

SUSPEND_AFTER_S = 1
SUSPENDED_WAIT_S = 20.0
ANSWER_TIMEOUT_S = 10.0
POLL_S = 0.05
OWN_PAGE = "/__drape/"
"""In every page of the gateway's own, and in none of a project's."""
NEVER_SUSPENDED = f"no preview was suspended within {SUSPENDED_WAIT_S:g} s of being left alone"


class Work(msgspec.Struct, frozen=True):
    """What is shown, and how often it is measured. `scratch`: a folder to be made for edited files."""

    files: dict[str, LocalFile]
    found: Detection
    name: str
    scratch: Path
    rounds: int

    @property
    def hmr(self) -> Hmr:
        return FRAMEWORKS[self.found.framework].hmr


async def edit_row(platform: OwnPlatform, bare: BareServer, work: Work) -> Row:
    """Edits of one file, by hand and with us in turn, in two dev servers that run side by side."""
    by_hand = edits.Target(bare.url)
    spot = await edits.find_spot(platform.session, by_hand, work.files)
    if spot is None:
        return Row(mode="edit", runs=0, note="no text of its sources is shown by its page or modules")
    project_id = await platform.project(work.files, work.name)
    view, _ = await platform.preview(project_id)
    editor = _Editor(platform, project_id, spot, bare.folder, work)
    try:
        async with (
            edits.viewing(platform.session, by_hand, spot, work.hmr) as bare_viewer,
            edits.viewing(platform.session, _target(platform, view["url"]), spot, work.hmr) as our_viewer,
        ):
            pairs = [await editor.both(number, bare_viewer, our_viewer) for number in range(work.rounds + 1)]
    except edits.Unseen as error:
        return Row(mode="edit", runs=0, note=error.message)
    how = "told over its socket, then seen" if our_viewer.hears and bare_viewer.hears else "seen"
    return pair_row("edit", pairs[1:], note=f"{spot.file}, {how} at {spot.path}")  # the first finds cold paths


class _Editor:
    """Saves the same edits in the bare folder and in the project."""

    def __init__(self, platform: OwnPlatform, project_id: str, spot: edits.Spot, bare: Path, work: Work) -> None:
        self._platform = platform
        self._project_id = project_id
        self._spot = spot
        self._bare = bare
        self._scratch = work.scratch
        self._source = work.files[spot.file].path.read_text("utf-8")
        self._version = 1

    async def both(self, number: int, bare_viewer: edits.Viewer, our_viewer: edits.Viewer) -> Pair:
        """One edit here and there, seen by these. Raises `edits.Unseen`."""
        content = self._spot.content(self._source, number)
        bare_s = await bare_viewer.time_edit(self._save_bare, content, number)
        return Pair(round(bare_s, 4), round(await our_viewer.time_edit(self._send, content, number), 4))

    async def _save_bare(self, content: str) -> None:
        await asyncio.to_thread(_write, self._bare, self._spot.file, content)

    async def _send(self, content: str) -> None:
        """As `preview --watch` does once it knows of the change."""
        await asyncio.to_thread(_write, self._scratch, self._spot.file, content)
        changed = await asyncio.to_thread(read_folder, self._scratch)
        self._version = await self._platform.edit(self._project_id, changed, self._version)


def _write(folder: Path, name: str, content: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, "utf-8")


async def hot_row(platform: OwnPlatform, bare: BareServer, work: Work) -> Row:
    """First requests of a suspended preview, each beside a GET of the bare dev server."""
    project_id = await platform.project(work.files, work.name)
    view, _ = await platform.preview(project_id)
    preview_id, ours, by_hand = view["preview_id"], _target(platform, view["url"]), edits.Target(bare.url)
    pairs = []
    for _ in range(work.rounds):
        if not await _until_suspended(platform, preview_id):
            return Row(mode="hot", runs=0, note=NEVER_SUSPENDED)
        bare_s = await _first_right_answer(platform.session, by_hand, work.found.ready_path)
        pairs.append(Pair(bare_s, await _first_right_answer(platform.session, ours, work.found.ready_path)))
    resumed = [each for each in await platform.events(preview_id) if isinstance(each, PreviewResumed)]
    if len(resumed) < len(pairs):
        raise DrapeError(
            "bench_wrong_mode",
            f"The log has {len(resumed)} PreviewResumed for {len(pairs)} requests of a suspended preview.",
        )
    return pair_row("hot", pairs, note="the first request after it was suspended")


async def _until_suspended(platform: OwnPlatform, preview_id: PreviewId) -> bool:
    deadline = time.monotonic() + SUSPENDED_WAIT_S
    while time.monotonic() < deadline:
        if await platform.status(preview_id) == "suspended":
            return True
        await asyncio.sleep(POLL_S)
    return False


async def _first_right_answer(session: aiohttp.ClientSession, target: edits.Target, path: str) -> float:
    """Seconds until a whole 200 that is the project's own. Raises `DrapeError` where none comes."""
    begun = time.perf_counter()
    while time.perf_counter() - begun < ANSWER_TIMEOUT_S:
        try:
            status, body = await target.page(session, path)
        except (aiohttp.ClientError, TimeoutError):
            status, body = 0, ""
        if status == 200 and OWN_PAGE not in body:
            return round(time.perf_counter() - begun, 4)
        await asyncio.sleep(edits.POLL_S)
    raise DrapeError("bench_no_answer", f"{target.url} gave no right answer within {ANSWER_TIMEOUT_S:g} s.")


def _target(platform: OwnPlatform, url: str) -> edits.Target:
    """The preview, through the gateway by its host name."""
    return edits.Target(platform.gateway_url.rstrip("/"), {"Host": urlsplit(url).netloc})
