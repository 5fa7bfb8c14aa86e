"""Events to rows: one row an attempt of a preview, folded from the log. Pure; knows nothing of SQL.

A step lasts from the end of the one before it, by the log's times. Where an attempt becomes ready, `PreviewReady` has
the last word on how long its steps took.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec
from msgspec.structs import replace

from shared.codec import Recorded
from shared.events import (
    DevServerReady,
    DevServerStarted,
    FilesSynced,
    InstallCompleted,
    InstallFailed,
    InstallSkipped,
    InstallStarted,
    PreviewEvent,
    PreviewFailed,
    PreviewReady,
    PreviewRequested,
    PreviewRestarted,
    PreviewResumed,
    PreviewStopped,
    PreviewSuspended,
    PreviewWarningRaised,
    ProjectDetected,
    VmAcquired,
    VmCreationStarted,
)
from shared.ids import OwnerId, PreviewId, ProjectId, VmId
from shared.sealed import is_sealed

Status = Literal["running", "ready", "suspended", "failed", "stopped", "superseded"]
"""`superseded`: a restart that somebody asked for began the next attempt before this one had ended."""
ENDED = ("failed", "stopped", "superseded")

STEP_COLUMNS: Mapping[str, str] = {
    "acquiring_vm": "acquire_s",
    "syncing_files": "sync_s",
    "installing": "install_s",
    "waiting_server": "boot_s",
    "confirming": "confirm_s",
}
"""The step's name in `PreviewReady.steps` -> the column that holds its seconds."""

WARNINGS_MAX = 50
TEXT_CHARS_MAX = 2_000
"""What is longer is cut: the log has the whole."""
VM_LOST = "vm_lost"
FINAL_AFTER_S = 30 * 24 * 3600.0
"""So long after an attempt has ended nothing changes it any more: a restart that late counts as nobody's attempt. So the
statistics need not keep every preview for ever only because it could be restarted."""

_PREVIEW_KEY = f"{PreviewEvent.service}.{PreviewEvent.aggregate}."


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt of one preview. `…_at`: seconds, UTC; `…_s`: seconds; None: not so far. `rev`: the preview's last
    revision in here. `install`: what became of it. `code`, `message`, `step`: why it failed."""

    preview_id: PreviewId
    attempt: int
    rev: int
    project_id: ProjectId
    owner: OwnerId
    status: Status = "running"
    requested_at: float
    attempt_at: float
    step_at: float
    vm_at: float | None = None
    detected_at: float | None = None
    ready_at: float | None = None
    ended_at: float | None = None
    framework: str | None = None
    version: str | None = None
    package_manager: str | None = None
    vm_id: VmId | None = None
    provider: str | None = None
    from_pool: bool | None = None
    install: Literal["started", "completed", "failed", "skipped"] | None = None
    code: str | None = None
    message: str | None = None
    step: str | None = None
    warnings: tuple[str, ...] = ()
    total_s: float | None = None
    vm_s: float | None = None
    acquire_s: float | None = None
    sync_s: float | None = None
    install_s: float | None = None
    boot_s: float | None = None
    confirm_s: float | None = None


def preview_of(recorded: Recorded) -> PreviewId | None:
    """The preview whose row the event may change; None: no preview's."""
    if isinstance(recorded.event, PreviewEvent | VmAcquired):
        return recorded.event.preview_id
    if recorded.event is None and recorded.key.startswith(_PREVIEW_KEY):
        return recorded.key[len(_PREVIEW_KEY) :]
    return None


def project(
    newest: Mapping[PreviewId, Attempt], events: Iterable[Recorded], providers: Mapping[VmId, str] | None = None
) -> list[Attempt]:
    """The rows that these events (in the log's order) make or change, in their last shape, oldest attempt first.
    `newest`: each named preview's newest attempt so far, where it has one; `providers`: of VMs that were made before."""
    current = dict(newest)
    made_by = dict(providers or {})
    changed: dict[tuple[PreviewId, int], Attempt] = {}
    for recorded in events:
        if isinstance(recorded.event, VmCreationStarted):
            made_by[recorded.event.vm_id] = recorded.event.provider
        preview_id = preview_of(recorded)
        if preview_id is None:
            continue
        for row in change(current.get(preview_id), recorded, made_by):
            current[preview_id] = row
            changed[preview_id, row.attempt] = row
    return list(changed.values())


def change(row: Attempt | None, recorded: Recorded, providers: Mapping[VmId, str] | None = None) -> list[Attempt]:
    """The rows after one event of the preview; the last is its newest attempt. Empty: nothing changes."""
    event, meta = recorded.event, recorded.meta
    if isinstance(event, PreviewRequested):
        # A resident is nobody's preview: its times would tell of no user's wait.
        return [_requested(event, recorded)] if row is None and not event.resident else []
    if row is None or _is_final(row, meta.at):
        return []
    if isinstance(event, VmAcquired):
        acquired = _acquired(row, event, meta.at, (providers or {}).get(event.vm_id))
        return [] if acquired is row else [acquired]
    if meta.rev <= row.rev:
        return []  # two writers got through: the lower sequence won, here as in every fold
    row = replace(row, rev=meta.rev)
    if isinstance(event, PreviewRestarted):
        return _restarted(row, event, meta.at)
    if not isinstance(event, PreviewEvent) or getattr(event, "attempt", row.attempt) != row.attempt:
        return [row]
    return [_changed(row, event, meta.at)]


def _requested(event: PreviewRequested, recorded: Recorded) -> Attempt:
    at = recorded.meta.at
    return Attempt(
        preview_id=event.preview_id,
        attempt=1,
        rev=recorded.meta.rev,
        project_id=event.project_id,
        owner=event.owner,
        requested_at=at,
        attempt_at=at,
        step_at=at,
    )


def _is_final(row: Attempt, at: float) -> bool:
    return row.status in ENDED and row.ended_at is not None and at - row.ended_at > FINAL_AFTER_S


def _acquired(row: Attempt, event: VmAcquired, at: float, provider: str | None) -> Attempt:
    if row.vm_id is not None or row.status in ENDED:
        return row
    vm_s = _seconds(at - row.attempt_at)
    held = replace(row, vm_id=event.vm_id, provider=provider, vm_at=at, from_pool=event.from_pool, vm_s=vm_s)
    return _joined(held, at)


def _joined(row: Attempt, at: float) -> Attempt:
    """The first step ends once the project is known and a VM is held, whichever comes last."""
    if row.acquire_s is not None or row.vm_at is None or row.detected_at is None:
        return row
    return replace(row, acquire_s=_seconds(at - row.attempt_at), step_at=at)


def _restarted(row: Attempt, event: PreviewRestarted, at: float) -> list[Attempt]:
    if row.status not in ENDED:
        if event.reason == VM_LOST:
            row = replace(row, status="failed", ended_at=at, code=VM_LOST, message="Its VM was lost.")
        else:
            row = replace(row, status="superseded", ended_at=at)
    following = Attempt(
        preview_id=row.preview_id,
        attempt=event.attempt,
        rev=row.rev,
        project_id=row.project_id,
        owner=row.owner,
        requested_at=row.requested_at,
        attempt_at=at,
        step_at=at,
    )
    return [row, following]


def _changed(row: Attempt, event: PreviewEvent, at: float) -> Attempt:
    """The row after an event of its own attempt."""
    match event:
        case ProjectDetected():
            framework, version, manager = (_text(t) for t in (event.framework, event.version, event.package_manager))
            detected = replace(row, framework=framework, version=version, package_manager=manager, detected_at=at)
            return _joined(detected, at)
        case PreviewWarningRaised(code=code):
            return replace(row, warnings=(*row.warnings, _text(code))[:WARNINGS_MAX])
        case FilesSynced():
            if row.sync_s is not None:
                return row  # an edit
            return replace(row, sync_s=_seconds(at - row.step_at), step_at=at)
        case InstallStarted() | InstallSkipped() | InstallCompleted() | InstallFailed():
            return _installed(row, event, at)
        case DevServerStarted():
            return replace(row, step_at=at)
        case DevServerReady():
            return replace(row, boot_s=_seconds(at - row.step_at), step_at=at)
        case _:
            return _outcome(row, event, at)


def _installed(
    row: Attempt, event: InstallStarted | InstallSkipped | InstallCompleted | InstallFailed, at: float
) -> Attempt:
    match event:
        case InstallStarted():
            return replace(row, install="started", step_at=at)
        case InstallSkipped():
            return replace(row, install="skipped", step_at=at)
        case InstallCompleted():
            return replace(row, install="completed", install_s=_seconds(at - row.step_at), step_at=at)
        case InstallFailed():
            return replace(row, install="failed", step_at=at)


def _outcome(row: Attempt, event: PreviewEvent, at: float) -> Attempt:
    match event:
        case PreviewReady():
            steps = {STEP_COLUMNS[name]: seconds for name, seconds in event.steps.items() if name in STEP_COLUMNS}
            ready = replace(row, status="ready", ready_at=at, total_s=event.total_s, from_pool=event.from_pool)
            return replace(ready, install=event.install, **steps)
        case PreviewSuspended():
            return replace(row, status="suspended")
        case PreviewResumed():
            return replace(row, status="ready")
        case PreviewFailed():
            code, message, step = (_text(t) for t in (event.code, event.message, event.step))
            return replace(row, status="failed", ended_at=at, code=code, message=message, step=step)
        case PreviewStopped():
            return replace(row, status="stopped", ended_at=at)
        case _:
            return row  # it counts its revision, and is no figure


def _seconds(value: float) -> float:
    return round(max(0.0, value), 4)


def _text(value: str) -> str:
    """What a `text` column takes: PostgreSQL has no NUL. A sealed text is nothing if not whole, and has its own bound."""
    return value if is_sealed(value) else value.replace("\0", "")[:TEXT_CHARS_MAX]
