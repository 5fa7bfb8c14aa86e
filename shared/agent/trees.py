"""The dependencies in a project's folder, and a note of them from the first job on: what they were before and after it.

A file's ctime tells whether it was changed after a job; what lies directly in `node_modules` has to be noted instead,
since dev servers make their caches there. Blocks, but for `History`.
"""

import asyncio
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, TypeAlias

from .protocol import AgentProblem

DEPENDENCIES = "node_modules"
TICK_S = 0.01
"""What a file's ctime may lag behind the clock."""
FOLDERS_MAX = 50_000
"""Folders of a project that are looked through."""

Names: TypeAlias = dict[str, dict[str, int]]
"""What lies directly in each outermost `node_modules` folder, by path below the project: name and inode."""


def outermost(app_dir: Path) -> Iterator[str]:
    """The outermost `node_modules` folders, as paths below the project. AgentProblem (409) where one is a link, or the
    project has no end."""
    for seen, (folder, names, files, fd) in enumerate(os.fwalk(app_dir, follow_symlinks=False)):
        if seen > FOLDERS_MAX:
            raise AgentProblem(409, "too_many_folders", f"The project has more than {FOLDERS_MAX} folders.")
        if DEPENDENCIES in (*names, *files):
            found = os.stat(DEPENDENCIES, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISLNK(found.st_mode):
                raise AgentProblem(409, "link_outside", "A node_modules folder is a link.")
            if stat.S_ISDIR(found.st_mode):
                yield (Path(folder).relative_to(app_dir) / DEPENDENCIES).as_posix()
        names[:] = [name for name in names if name != DEPENDENCIES]


def entries_of(tree: Path) -> dict[str, int]:
    """What lies directly in a folder: name and inode."""
    with os.scandir(tree) as found:
        return {entry.name: entry.inode() for entry in found}


def unfit(found: os.stat_result) -> bool:
    """True for what an install of this user does not make."""
    known = stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode) or stat.S_ISLNK(found.st_mode)
    return not known or found.st_uid != os.geteuid()


class FirstJob(Protocol):
    """The job that runs before all others."""

    id: str
    started_at: float
    exited_at: float | None
    exited: asyncio.Event


class History:
    """The first job since the VM was empty, and the dependencies before and after it."""

    def __init__(self, app_dir: Path) -> None:
        self._app_dir = app_dir
        self.forget()

    def forget(self) -> None:
        """The VM is empty again."""
        self._first: FirstJob | None = None
        self._alone = True
        self._before: asyncio.Task[Names | None] | None = None
        self._after: asyncio.Task[Names | None] | None = None

    async def begin(self, job: FirstJob) -> None:
        """Call before each job starts: the first one, and one that follows it, wait until what is there is noted."""
        if self._first is None:
            self._first = job
            self._before = asyncio.create_task(self._note())
            await asyncio.shield(self._before)
            self._after = asyncio.create_task(self._note_after(job))
            return
        self._alone = self._alone and self._first.exited.is_set()
        if self._alone and self._after is not None:
            await asyncio.shield(self._after)

    async def dependencies(self, job_id: str) -> tuple[float | None, Names | None]:
        """Since when (Unix time; None: since ever) and as what the dependencies have to be there: since that job has
        ended, or (empty) since before the first. AgentProblem (409) where that job was not the first, or did not run
        alone: what others did meanwhile could not be told from it."""
        first = self._first
        if not job_id and first is None:
            return None, None
        noted = self._before if not job_id else self._after
        if first is None or noted is None or (job_id and not (first.id == job_id and self._alone)):
            raise _unknown(job_id)
        if job_id and not first.exited.is_set():
            raise _unknown(job_id)
        names = await asyncio.shield(noted)
        if names is None:
            raise _unknown(job_id)
        return (first.exited_at if job_id else first.started_at - TICK_S), names

    async def _note_after(self, job: FirstJob) -> Names | None:
        await job.exited.wait()
        await asyncio.sleep(TICK_S)  # what the next job changes is later by a file's time too
        return await self._note()

    async def _note(self) -> Names | None:
        return await asyncio.to_thread(self._look)

    def _look(self) -> Names | None:
        """None where that can't be told: then nothing is kept."""
        try:
            return {tree: entries_of(self._app_dir / tree) for tree in outermost(self._app_dir)}
        except (OSError, RecursionError, AgentProblem):
            return None


def _unknown(job_id: str) -> AgentProblem:
    which = f"the job {job_id[:64]}" if job_id else "the first job"
    return AgentProblem(409, "dependencies_unknown", f"What {which} has left can't be told.", "Destroy the VM.")
