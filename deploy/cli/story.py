"""A preview's story: each event in plain words, with its time, what it took, why it happened and who decided. Pure."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from deploy.cli.causing import Because, reasons
from services.telemetry import rows
from shared import events as log
from shared.codec import Recorded
from shared.events import Event

TEXT_CHARS_MAX = 400


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One event. `at`: seconds, UTC; `since_s`: since the preview was requested; `step` and `step_s`: the step that it
    ends, and its seconds; `decided`: the service that decided; `actor`: who asked it to, a service's replica or a door."""

    seq: int
    at: float
    since_s: float
    event: str
    text: str
    because: Because
    decided: str
    actor: str
    attempt: int | None = None
    step: str = ""
    step_s: float | None = None


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """The whole. `status`: as the figures call it; `total_s`: from the request to ready, its end or its last event."""

    preview_id: str
    project_id: str
    owner: str
    requested_at: float
    status: str
    total_s: float
    attempts: int
    end: str
    lines: list[Line]


def tell(events: Sequence[Recorded]) -> Told:
    """The story of these events, in the log's order and opened; one of them is the preview's `PreviewRequested`."""
    request = next(each for each in events if isinstance(each.event, log.PreviewRequested))
    begun = request.event
    assert isinstance(begun, log.PreviewRequested), "this is how it was found"
    because = reasons(events)
    row: rows.Attempt | None = None
    # A resident's figures are nobody's wait, but its steps are told.
    asked = msgspec.structs.replace(request, event=msgspec.structs.replace(begun, resident=False))
    lines: list[Line] = []
    status = "running"
    ready_at: float | None = None
    for recorded in events:
        before = row
        if rows.preview_of(recorded) == begun.preview_id:
            changed = rows.change(row, asked if recorded is request else recorded)
            row = changed[-1] if changed else row
        step, step_s = _step(before, row)
        lines.append(
            Line(
                seq=recorded.seq,
                at=recorded.meta.at,
                since_s=round(max(0.0, recorded.meta.at - request.meta.at), 3),
                event=recorded.type,
                text=words(recorded.event, recorded.type)[:TEXT_CHARS_MAX],
                because=because[recorded.seq],
                decided=recorded.key.partition(".")[0],
                actor=recorded.meta.actor,
                attempt=getattr(recorded.event, "attempt", None),
                step=step,
                step_s=step_s,
            )
        )
        if row is not None:
            status = row.status
            ready_at = row.ready_at
    until = ready_at or (row.ended_at if row is not None and row.ended_at else lines[-1].at)
    return Told(
        preview_id=begun.preview_id,
        project_id=begun.project_id,
        owner=begun.owner,
        requested_at=request.meta.at,
        status=status,
        total_s=round(max(0.0, until - request.meta.at), 3),
        attempts=row.attempt if row is not None else 1,
        end=_end(status, row),
        lines=lines,
    )


def _step(before: rows.Attempt | None, after: rows.Attempt | None) -> tuple[str, float | None]:
    """The step that has ended with this event. Where it is ready all are known anew: the last one is told."""
    if before is None or after is None or before.attempt != after.attempt:
        return "", None
    for step, column in rows.STEP_COLUMNS.items():
        if getattr(before, column) is None and getattr(after, column) is not None:
            return step, round(getattr(after, column), 3)
    return "", None


def _end(status: str, row: rows.Attempt | None) -> str:
    match status:
        case "ready":
            return "It is ready."
        case "suspended":
            return "It is asleep, and wakes with the next request."
        case "failed":
            step = f" in the step {row.step}" if row is not None and row.step else ""
            return f"It failed{step}: {row.code if row is not None else 'unknown'}."
        case "stopped":
            return "It was stopped."
        case _:
            return "It is still on its way."


# --- in words -----------------------------------------------------------------------------------------------------


def words(event: Event | None, kind: str) -> str:
    """What happened, in one or two sentences."""
    if event is None:
        return f"{kind}: an event that this version does not know."
    say = _WORDS.get(type(event))
    return say(event) if say is not None else f"{kind}."


def _requested(event: Any) -> str:
    what = "It is prepared before anybody asks" if event.prepare else "Somebody wants to see the project"
    what = "A resident is wanted for the template" if event.resident else what
    app = f", its app {event.app}" if event.app else ""
    private = " Only who has a link may see it." if event.private else ""
    return f"{what}{app} (files version {event.files_version}).{private}"


def _restarted(event: Any) -> str:
    why = {
        "asked": "somebody asked for it",
        "vm_lost": "its VM was lost",
        "edited": "of an edit that the dev server can't take in",
        "out_of_memory": f"its VM's memory ran out; the next one has at least {event.memory_mb} MB",
    }[event.reason]
    where = "in its VM" if event.in_place else "in another VM"
    return f"Attempt {event.attempt} begins {where}, because {why}."


def _detected(event: Any) -> str:
    where = f" in {event.app_root}" if event.app_root not in ("", ".") else ""
    version = f" {event.version}" if event.version else ""
    manager = f", installed by {event.package_manager}" if event.package_manager else ""
    return f"It is {event.framework}{version}{where}{manager}; started with `{' '.join(event.dev_command)}`."


def _synced(event: Any) -> str:
    restored = f" The dependencies of an earlier install came with them ({event.restore_s:.1f} s)." * bool(
        event.restored
    )
    gone = f", {event.deleted} deleted" * bool(event.deleted)
    return f"Files version {event.files_version} is in the VM: {event.written} written{gone} ({event.sync_s:.2f} s).{restored}"


def _skipped(event: Any) -> str:
    why = {
        "no_dependencies": "it has no dependencies",
        "preserved": "the VM still had them",
        "restored": "an earlier install was put back",
        "resident": "a resident's dev server runs with the same ones",
    }[event.reason]
    return f"No install: {why}." + f" That saved about {event.saved_s:.1f} s." * bool(event.saved_s)


def _acquired(event: Any) -> str:
    if event.resident:
        how = f"with the dev server that ran in it for {event.resident}"
    elif event.key:
        how = "kept for its owner, with the dependencies of an earlier preview"
    else:
        how = "warm from the pool" if event.from_pool else f"which had to boot; it waited {event.waited_s:.1f} s"
    memory = f" It has {event.memory_mb} MB." * bool(event.memory_mb)
    return f"It gets {event.vm_id}, {how}.{memory}"


def _exited(event: Any) -> str:
    how = f"by {event.signal}" if event.signal else f"with code {event.exit_code}"
    return f"The dev server ended {how}, unasked.{_cause(event)}"


def _cause(event: Any) -> str:
    return f" {event.code}: {event.message}" if event.code else ""


def _failed(event: Any) -> str:
    hint = f" {event.hint}" if event.hint else ""
    return f"It failed while {event.step.replace('_', ' ')}: {event.code}. {event.message}{hint}"


def _ready(event: Any) -> str:
    errors = " The page shows an error in the project." if event.with_errors else ""
    return f"READY after {event.total_s:.1f} s: {event.url}.{errors}"


def _server_ready(event: Any) -> str:
    if event.with_errors:
        return f"The dev server answers, with its own page about an error: {event.detail}"
    return f"The dev server answers on port {event.port} with {event.status}, {event.boot_s:.1f} s after its start."


def _released(event: Any) -> str:
    return f"{event.vm_id} is given back ({event.reason}), to be {'kept for its owner' if event.keep else 'destroyed'}."


def _files(event: Any) -> str:
    deleted = f", {event.deleted} deleted" * bool(event.deleted)
    return f"The project's files are at version {event.files_version}: {event.changed} changed{deleted}."


_WORDS: Mapping[type[Event], Callable[[Any], str]] = {
    log.PreviewRequested: _requested,
    log.PreviewPrepared: lambda e: "Files and dependencies are in its VM; it waits for somebody to want it.",
    log.PreviewWanted: lambda e: "Now somebody wants to see it.",
    log.PreviewRestarted: _restarted,
    log.ProjectDetected: _detected,
    log.PreviewWarningRaised: lambda e: f"Warning {e.code}: {e.message}",
    log.FilesSynced: _synced,
    log.InstallStarted: lambda e: f"The install begins: `{' '.join(e.command)}`.",
    log.InstallSkipped: _skipped,
    log.InstallCompleted: lambda e: f"The install is done ({e.install_s:.1f} s).",
    log.InstallFailed: lambda e: f"The install failed with code {e.exit_code}.{_cause(e)}",
    log.DevServerStarted: lambda e: f"The dev server starts: `{' '.join(e.command)}`.",
    log.DevServerReady: _server_ready,
    log.DevServerExited: _exited,
    log.PreviewReady: _ready,
    log.HmrProbed: lambda e: f"Its socket for edits: {e.state}." + f" {e.detail}" * bool(e.detail),
    log.PreviewSuspended: lambda e: f"It falls asleep, unused for {e.idle_s:.0f} s.",
    log.PreviewResumed: lambda e: f"It wakes after {e.suspended_s:.0f} s" + f", for {e.reason}." * bool(e.reason),
    log.PreviewFailed: _failed,
    log.PreviewStopped: lambda e: f"It is stopped: {e.reason}.",
    log.ClaimQueued: lambda e: f"No VM is free in the pool {e.pool}: the claim waits.",
    log.ClaimExpired: lambda e: f"No VM came free within {e.waited_s:.0f} s.",
    log.ClaimWithdrawn: lambda e: f"The claim for a VM is withdrawn ({e.reason}).",
    log.VmCreationStarted: lambda e: f"{e.vm_id} is being made by {e.provider} for the pool {e.pool}.",
    log.VmBooted: lambda e: f"{e.vm_id} has booted in {e.boot_s:.1f} s.",
    log.VmBootFailed: lambda e: f"{e.vm_id} did not boot. {e.code}: {e.message}",
    log.VmAcquired: _acquired,
    log.VmReleased: _released,
    log.VmSuspended: lambda e: f"{e.vm_id} is to stand still.",
    log.VmFrozen: lambda e: f"{e.vm_id} stands still, holding {e.memory_mb} MB.",
    log.VmResumed: lambda e: f"{e.vm_id} is to run again.",
    log.VmHealthCheckFailed: lambda e: f"{e.vm_id} did not answer its health check ({e.failures} in a row): {e.detail}",
    log.VmHealthCheckRecovered: lambda e: f"{e.vm_id} answers its health checks again.",
    log.VmLost: lambda e: f"{e.vm_id} is LOST: {e.detail}",
    log.VmRetired: lambda e: f"{e.vm_id} is taken out of the pool ({e.reason}).",
    log.VmCleaned: lambda e: f"{e.vm_id} is emptied, and kept for its owner.",
    log.VmDestroyed: lambda e: f"{e.vm_id} is gone.",
    log.ProjectFilesChanged: _files,
    log.ProjectEnvChanged: lambda e: f"The project's variables changed: {', '.join(e.names) or 'there are none now'}.",
    log.ProjectResidentsChanged: lambda e: f"The project is to have {e.count} residents.",
    log.ProjectDeleted: lambda e: "The project is deleted.",
    log.ProjectErased: lambda e: "Everything of the project is erased.",
}
