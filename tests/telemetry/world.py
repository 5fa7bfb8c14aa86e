"""What the tests tell of: previews' stories as lists of events, and a projector that runs."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg

from services.telemetry.adapters.postgres import close_pool, open_pool
from services.telemetry.adapters.previews import PreviewsProjection
from services.telemetry.adapters.projection import Projector
from services.telemetry.adapters.projections import ProjectionStore
from services.telemetry.adapters.stats import StatsReader
from services.telemetry.config import TelemetryConfig
from shared.codec import Meta, Recorded
from shared.events import (
    DevServerReady,
    DevServerStarted,
    Event,
    FilesSynced,
    InstallCompleted,
    InstallSkipped,
    InstallStarted,
    PreviewFailed,
    PreviewReady,
    PreviewRequested,
    PreviewRestarted,
    PreviewStopped,
    ProjectDetected,
    VmAcquired,
    aggregate_key,
)
from shared.memory import MemoryBroker

QUICK = TelemetryConfig(retry_s=0.02, retry_max_s=0.1, connect_timeout_s=2.0)
"""The usual limits, but for shorter pauses."""


class Story:
    """Events with their times, told one after the other."""

    def __init__(self, at: float = 1_000.0) -> None:
        self.at = at
        self.told: list[tuple[float, Event]] = []

    def tell(self, *events: Event, after_s: float = 0.0) -> "Story":
        """These events happen together, `after_s` after the last ones."""
        self.at += after_s
        self.told += [(self.at, event) for event in events]
        return self

    def recorded(self) -> list[Recorded]:
        """As the log would hold them."""
        revisions: dict[str, int] = {}
        records = []
        for seq, (at, event) in enumerate(self.told, 1):
            key = aggregate_key(event)
            revisions[key] = revisions.get(key, 0) + 1
            records.append(recorded(event, at=at, seq=seq, rev=revisions[key]))
        return records

    def record(self, broker: MemoryBroker) -> None:
        """Append all of it to a log."""
        for at, event in self.told:
            broker.record(event, at=at)


def recorded(event: Event, *, at: float = 0.0, seq: int = 1, rev: int = 1) -> Recorded:
    """An event as the log holds it."""
    meta = Meta(id=f"event-{seq}", at=at, rev=rev, correlation_id="c", causation_id="c", actor="test")
    return Recorded(seq=seq, key=aggregate_key(event), type=type(event).__name__, meta=meta, event=event)


# --- events with the fields that do not matter filled in ----------------------------------------------------------


def requested(preview: str, owner: str = "ann") -> PreviewRequested:
    return PreviewRequested(preview_id=preview, project_id=f"project-of-{preview}", owner=owner, files_version=1)


def acquired(preview: str, *, vm: str = "", from_pool: bool = True, owner: str = "ann") -> VmAcquired:
    vm_id = vm or f"vm-of-{preview}"
    return VmAcquired(vm_id=vm_id, preview_id=preview, owner=owner, from_pool=from_pool, waited_s=0.0, host="h", port=1)


def detected(preview: str, attempt: int = 1, framework: str = "vite") -> ProjectDetected:
    return ProjectDetected(
        preview_id=preview,
        attempt=attempt,
        framework=framework,
        version="7.0.0",
        package_manager="npm",
        app_root=".",
        dev_command=("vite",),
        dev_env={},
        install_command=("npm", "ci"),
        evidence=(),
    )


def synced(preview: str, attempt: int = 1) -> FilesSynced:
    return FilesSynced(preview_id=preview, attempt=attempt, files_version=1, written=1, deleted=0, sync_s=9.0)


def install_started(preview: str, attempt: int = 1) -> InstallStarted:
    return InstallStarted(preview_id=preview, attempt=attempt, job_id="i", command=("npm", "ci"))


def installed(preview: str, attempt: int = 1) -> InstallCompleted:
    return InstallCompleted(preview_id=preview, attempt=attempt, install_s=9.0)


def skipped(preview: str, attempt: int = 1) -> InstallSkipped:
    return InstallSkipped(preview_id=preview, attempt=attempt, reason="preserved")


def dev_started(preview: str, attempt: int = 1) -> DevServerStarted:
    return DevServerStarted(preview_id=preview, attempt=attempt, job_id="d", command=("vite",))


def dev_ready(preview: str, attempt: int = 1) -> DevServerReady:
    return DevServerReady(preview_id=preview, attempt=attempt, host="h", port=1, status=200, boot_s=9.0)


def ready(
    preview: str,
    attempt: int = 1,
    *,
    total_s: float = 5.0,
    install: str = "completed",
    from_pool: bool = True,
    steps: dict[str, float] | None = None,
) -> PreviewReady:
    return PreviewReady(
        preview_id=preview,
        attempt=attempt,
        url="http://x/",
        total_s=total_s,
        from_pool=from_pool,
        install="skipped" if install == "skipped" else "completed",
        steps=steps or {},
    )


def failed(preview: str, attempt: int = 1, code: str = "install_failed", step: str = "installing") -> PreviewFailed:
    return PreviewFailed(preview_id=preview, attempt=attempt, code=code, message="why", hint="what to do", step=step)


def restarted(preview: str, attempt: int, *, lost: bool = False) -> PreviewRestarted:
    return PreviewRestarted(preview_id=preview, attempt=attempt, reason="vm_lost" if lost else "asked", files_version=1)


def stopped(preview: str) -> PreviewStopped:
    return PreviewStopped(preview_id=preview, reason="asked")


def up_to_ready(story: Story, preview: str, *, owner: str = "ann") -> Story:
    """Request 0, VM and project at 1, files at 2, install at 5, dev server at 7, ready at 7.5 s."""
    story.tell(requested(preview, owner)).tell(acquired(preview, owner=owner), detected(preview), after_s=1)
    story.tell(synced(preview), install_started(preview), after_s=1)
    story.tell(installed(preview), dev_started(preview), after_s=3).tell(dev_ready(preview), after_s=2)
    steps = {"acquiring_vm": 1.0, "syncing_files": 1.0, "installing": 3.0, "waiting_server": 2.0, "confirming": 0.5}
    return story.tell(ready(preview, total_s=7.5, steps=steps), after_s=0.5)


# --- what runs ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Projecting:
    """A projector at work and what it works on."""

    projector: Projector
    store: ProjectionStore
    stats: StatsReader
    task: "asyncio.Task[None]"


@asynccontextmanager
async def opened(url: str, config: TelemetryConfig = QUICK) -> AsyncIterator[ProjectionStore]:
    """The store on a pool of its own."""
    pool = await open_pool(url, config)
    try:
        yield ProjectionStore(pool, PreviewsProjection(), config)
    finally:
        await close_pool(pool, config.close_timeout_s)


@asynccontextmanager
async def projecting(broker: MemoryBroker, url: str, config: TelemetryConfig = QUICK) -> AsyncIterator[Projecting]:
    """A projector, for the length of a block. A bug in it shows as its exception at the end."""
    pool = await open_pool(url, config)
    store = ProjectionStore(pool, PreviewsProjection(), config)
    projector = Projector(broker.bus().log, store, config)
    task: asyncio.Task[None] = asyncio.create_task(projector.run())
    try:
        yield Projecting(projector, store, StatsReader(pool, lambda: projector.log_id, config), task)
    finally:
        task.cancel()
        await asyncio.wait({task})
        await close_pool(pool, config.close_timeout_s)
    if not task.cancelled():
        task.result()


async def rows(url: str, query: str, *values: object) -> Sequence[Any]:
    """Ask the database on a connection of the test's own."""
    connection = await asyncpg.connect(url)
    try:
        found: Sequence[Any] = await connection.fetch(query, *values)
    finally:
        await connection.close()
    return found
