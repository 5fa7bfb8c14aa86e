"""Previews on an own platform, beside the bare cost of the same project, in turn, in one run."""

import statistics
import tempfile
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path

from deploy.bench import ready
from deploy.bench.bare_preview import BareRun, bare_server, run_bare
from deploy.bench.own_platform import OwnPlatform, open_own
from deploy.bench.rows import MODES, Mode, Pair, Row, Run, preview_row, verify
from deploy.cli.folder import LocalFile, read_folder, read_texts
from services.orchestrator.rules.detection import Detection, detect

ROUNDS = 5
"""Edits and wake-ups are quick: so many for each run."""


async def measure(path: Path, runs: int, say: Callable[[str], None], modes: Collection[Mode] = MODES) -> list[Row]:
    """Bare, ours, bare, ours …, mode after mode; the platforms and every folder are gone afterwards.

    Ours: `cold`, a warm VM and an install with an empty npm cache. `store`: an install for which all is fetched already.
    `restored`: another VM, with the dependencies of an earlier install. `preserved`: the VM that a stopped preview has left,
    emptied of all but them. `resident`: a VM in which the same files run as a template. `edit`: a file's change sent as
    `preview --watch` does, until it is seen through the gateway. `hot`: the first GET of a suspended preview, until its
    first right answer.

    Bare: for `cold` an install with an empty npm cache, then the dev script to its first 200; for `store` and `restored`
    the same with a warm npm cache; for `preserved` and `resident` the dev script alone, in an installed folder; for `edit` the file
    written in that folder, until it is seen; for `hot` a GET of the dev server that runs there.

    Every run's events are compared with its mode. Raises `DrapeError` where they do not fit, or something failed.
    """
    files = read_folder(path)
    found = detect(files, read_texts(files))
    with tempfile.TemporaryDirectory(prefix="drape-bench-") as name:
        bench = _Bench(files, found, path.resolve().name, Path(name), runs, say)
        rows: list[Row] = []
        for group, make in (
            (("cold",), bench.cold),
            (("store",), bench.store),
            (("restored",), bench.restored),
            (("preserved",), bench.preserved),
            (("resident",), bench.resident),
            (("edit",), bench.edit),
            (("hot",), bench.hot),
        ):
            if any(mode in modes for mode in group):
                rows += [row for row in await make() if row.mode in modes]
        return sorted(rows, key=lambda row: MODES.index(row.mode))


class _Bench:
    """The measured project, by hand and with us. `folder` holds all that is made for it."""

    def __init__(
        self,
        files: dict[str, LocalFile],
        found: Detection,
        name: str,
        folder: Path,
        runs: int,
        say: Callable[[str], None],
    ) -> None:
        self._files = files
        self._found = found
        self._name = name
        self._folder = folder
        self._runs = runs
        self._say = say
        self._npm = folder / "npm-warm"
        self._installs = bool(found.install_command)

    # --- previews -----------------------------------------------------------------------------------------------------

    async def cold(self) -> list[Row]:
        async with open_own(self._folder / "cold", {"DRAPE_POOL_CACHE": "false"}) as platform:
            pairs = []
            for number in range(1, self._runs + 1):
                bare = await run_bare(self._files, self._found, self._folder / f"npm-{number}")
                project_id = await platform.project(self._files, self._name)
                pairs.append(self._told("cold", number, bare, (await platform.preview(project_id))[1]))
                await platform.delete(project_id)
            return [preview_row("cold", pairs)]

    async def store(self) -> list[Row]:
        """Each run with another fingerprint, which finds no install to restore."""
        if not self._installs:
            return [Row(mode="store", runs=0, note="the project installs nothing")]
        async with self._warm("store") as platform:
            pairs = []
            for number in range(1, self._runs + 1):
                bare = await self._warm_bare()
                project_id = await platform.project(self._files, self._name, npmrc=f"; bench run {number}\n")
                pairs.append(self._told("store", number, bare, (await platform.preview(project_id))[1]))
                await platform.until_kept(1 + number)
                await platform.delete(project_id)
            return [preview_row("store", pairs)]

    async def restored(self) -> list[Row]:
        if not self._installs:
            return [Row(mode="restored", runs=0, note="the project installs nothing")]
        pairs, installs = [], []
        async with self._warm("restored") as platform:
            for number in range(1, self._runs + 1):
                bare = await self._warm_bare()
                installs.append(bare.install_s)
                await platform.until_prepared()
                project_id = await platform.project(self._files, self._name)
                pairs.append(self._told("restored", number, bare, (await platform.preview(project_id))[1]))
                await platform.delete(project_id)
        return [preview_row("restored", pairs, install_s=statistics.median(installs))]

    async def preserved(self) -> list[Row]:
        """Stopped, and asked for again once its VM is kept."""
        if not self._installs:
            return [Row(mode="preserved", runs=0, note="the project installs nothing")]
        async with open_own(self._folder / "preserved", {}) as platform:
            project_id = await platform.project(self._files, self._name)
            view, _ = await platform.preview(project_id)
            pairs = []
            for number in range(1, self._runs + 1):
                bare = await self._warm_bare()
                await platform.stop(view["preview_id"])
                if not await platform.is_kept(view["preview_id"]):
                    return [Row(mode="preserved", runs=0, note="its VM was not kept; `drape events` says why")]
                view, run = await platform.preview(project_id)
                pairs.append(self._told("preserved", number, BareRun(0.0, bare.boot_s), run))
            return [preview_row("preserved", pairs)]

    async def resident(self) -> list[Row]:
        """Another project of the same files each time, while one VM runs them as a template."""
        async with open_own(self._folder / "resident", {}) as platform:
            template = await platform.project(self._files, self._name)
            await platform.keep_residents(template, 1)
            pairs: list[tuple[Pair, Run]] = []
            for number in range(1, self._runs + 1):
                bare = await self._warm_bare()
                await platform.until_resident(template)
                project_id = await platform.project(self._files, self._name)
                _, run = await platform.preview(project_id)
                if run.took != "resident" and not pairs:
                    return [Row(mode="resident", runs=0, note="its server is none that is taken over while it runs")]
                pairs.append(self._told("resident", number, BareRun(0.0, bare.boot_s), run))
                await platform.delete(project_id)
            return [preview_row("resident", pairs)]

    def _told(self, mode: Mode, number: int, bare: BareRun, run: Run) -> tuple[Pair, Run]:
        verify(mode, run, installs=self._installs)
        pair = Pair(round(bare.install_s + bare.boot_s, 4), run.total_s)
        self._say(f"{mode} {number}: bare {pair.bare_s:.2f} s, preview {pair.ours_s:.2f} s")
        return pair, run

    # --- ready ones ---------------------------------------------------------------------------------------------------

    async def edit(self) -> list[Row]:
        async with (
            open_own(self._folder / "edit", {}) as platform,
            bare_server(self._files, self._found, self._npm) as bare,
        ):
            work = ready.Work(self._files, self._found, self._name, self._folder / "edited", self._runs * ROUNDS)
            row = await ready.edit_row(platform, bare, work)
        return [self._said(row)]

    async def hot(self) -> list[Row]:
        env = {"DRAPE_ORCHESTRATOR_SUSPEND_AFTER_S": str(ready.SUSPEND_AFTER_S)}
        async with (
            open_own(self._folder / "hot", env) as platform,
            bare_server(self._files, self._found, self._npm) as bare,
        ):
            work = ready.Work(self._files, self._found, self._name, self._folder / "hot-files", self._runs * ROUNDS)
            row = await ready.hot_row(platform, bare, work)
        return [self._said(row)]

    def _said(self, row: Row) -> Row:
        told = f"bare {row.bare_s} s, ours {row.total_s} s" if row.runs else row.note
        self._say(f"{row.mode}, {row.runs} times: {told}")
        return row

    # --- what they need -----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _warm(self, name: str) -> AsyncIterator[OwnPlatform]:
        """A platform that has shown the project once, so that there is something kept."""
        async with open_own(self._folder / name, {"DRAPE_POOL_CACHE": "true", "DRAPE_POOL_KEPT_MAX": "0"}) as platform:
            project_id = await platform.project(self._files, self._name)
            await platform.preview(project_id)
            await platform.until_kept(1)
            await platform.delete(project_id)
            yield platform

    async def _warm_bare(self) -> BareRun:
        """With an npm cache that is full."""
        if not self._npm.exists():
            await run_bare(self._files, self._found, self._npm)
        return await run_bare(self._files, self._found, self._npm)
