"""Events to errors: what ended an attempt or a VM unasked, with where and whose it was. Pure; knows nothing of SQL.

Counted once each: `PreviewFailed` (an install or a dev server that failed and a claim that expired end in it, so they are
not counted beside it), `PreviewRestarted` because memory ran out, `VmLost`, `VmBootFailed`. A preview that is ready with
errors is there, and what is retried in the same attempt has ended nothing: neither is an error.
"""

import hashlib
from collections.abc import Iterable, Mapping

import msgspec
from msgspec.structs import replace

from shared.codec import Recorded
from shared.events import (
    DevServerReady,
    DevServerStarted,
    Event,
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
    PreviewWarningRaised,
    ProjectDetected,
    VmAcquired,
    VmBootFailed,
    VmLost,
)
from shared.grouping import normalised
from shared.ids import OwnerId, PreviewId, ProjectId, VmId
from shared.sealed import is_sealed

FINGERPRINT_CHARS = 16
TEXT_CHARS_MAX = 2_000
"""What is longer is cut: the log has the whole."""
VM_LOST, OUT_OF_MEMORY = "vm_lost", "out_of_memory"
OUT_OF_MEMORY_MESSAGE = "Its VM's memory ran out; it began anew in a larger one."

_PREVIEW_KEY = f"{PreviewEvent.service}.{PreviewEvent.aggregate}."
_STEPS: Mapping[type[Event], str] = {
    FilesSynced: "installing",
    InstallStarted: "installing",
    DevServerStarted: "waiting_server",
    DevServerReady: "confirming",
    PreviewReady: "server_ready",
}
"""The step that an attempt is in after this event."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be known of one attempt, to say whose an error is and what made it slow. `began`: why there is this
    attempt; `waited_s`: for a VM; `kept`: it was a VM that an earlier preview has left; `deps`: the fingerprint of the
    dependencies; `keeps`: an install of them can be kept; `install`: how they came, or `failed`; `retried`: its
    install was made a second time, without the lockfile's word."""

    preview_id: PreviewId
    attempt: int
    rev: int
    at: float
    project_id: ProjectId
    owner: OwnerId
    began: str = "requested"
    in_place: bool = False
    framework: str = ""
    package_manager: str = ""
    step: str = "acquiring_vm"
    vm_id: VmId = ""
    from_pool: bool | None = None
    waited_s: float = 0.0
    kept: bool = False
    resident: bool = False
    deps: str = ""
    keeps: bool = False
    install: str = ""
    retried: bool = False


class Occurrence(msgspec.Struct, frozen=True, kw_only=True):
    """One error. `type`: the event's; `preview_id` and the like: empty where it is of no preview; `message`: may be sealed."""

    seq: int
    at: float
    fingerprint: str
    type: str
    code: str
    step: str = ""
    framework: str = ""
    message: str = ""
    project_id: ProjectId = ""
    preview_id: PreviewId = ""
    owner: OwnerId = ""
    attempt: int = 0
    vm_id: VmId = ""
    trace_id: str = ""


def preview_of(recorded: Recorded) -> PreviewId | None:
    """The preview of which something must be known to fold the event; None: none's."""
    if isinstance(recorded.event, PreviewEvent | VmAcquired | VmLost):
        return recorded.event.preview_id
    if recorded.event is None and recorded.key.startswith(_PREVIEW_KEY):
        return recorded.key[len(_PREVIEW_KEY) :]
    return None


def fold(newest: Mapping[PreviewId, Facts], events: Iterable[Recorded]) -> tuple[list[Facts], list[Occurrence]]:
    """What these events (in the log's order) change and add. `newest`: each named preview's newest attempt so far."""
    current = dict(newest)
    changed: dict[tuple[PreviewId, int], Facts] = {}
    found: list[Occurrence] = []
    for recorded in events:
        preview_id = preview_of(recorded)
        before = current.get(preview_id) if preview_id is not None else None
        after = _facts(before, recorded)
        if after is not None and after is not before:
            current[after.preview_id] = changed[after.preview_id, after.attempt] = after
        if after is not before or before is None or not isinstance(recorded.event, PreviewEvent):
            error = _error(before, recorded)
            found += [error] if error is not None else []
    return list(changed.values()), found


def fingerprint_of(kind: str, code: str, step: str, framework: str, cause: str) -> str:
    """16 hex digits: the same for the same cause."""
    text = "\0".join((kind, code, step, framework, cause))
    return hashlib.sha256(text.encode()).hexdigest()[:FINGERPRINT_CHARS]


def trace_of(traceparent: str) -> str:
    """The trace's id, 32 hex digits; empty where there is none."""
    parts = traceparent.split("-")
    return parts[1] if len(parts) == 4 and len(parts[1]) == 32 else ""


# --- what is known of an attempt ----------------------------------------------------------------------------------


def _facts(facts: Facts | None, recorded: Recorded) -> Facts | None:
    """After the event; the same object where it changes nothing."""
    event, meta = recorded.event, recorded.meta
    if isinstance(event, PreviewRequested):
        return facts or Facts(
            preview_id=event.preview_id,
            attempt=1,
            rev=meta.rev,
            at=meta.at,
            project_id=event.project_id,
            owner=event.owner,
            resident=event.resident,
        )
    if facts is None or isinstance(event, VmLost):
        return facts
    if isinstance(event, VmAcquired):
        if facts.vm_id:
            return facts
        return replace(
            facts, vm_id=event.vm_id, from_pool=event.from_pool, waited_s=event.waited_s, kept=bool(event.key)
        )
    if recorded.key.startswith(_PREVIEW_KEY):
        if meta.rev <= facts.rev:
            return facts  # two writers got through: the lower sequence won, here as in every fold
        return _changed(replace(facts, rev=meta.rev), event, meta.at)
    return facts


def _changed(facts: Facts, event: Event | None, at: float) -> Facts:
    if isinstance(event, PreviewRestarted):
        return Facts(
            preview_id=facts.preview_id,
            attempt=event.attempt,
            rev=facts.rev,
            at=at,
            project_id=facts.project_id,
            owner=facts.owner,
            began=event.reason,
            in_place=event.in_place,
            vm_id=facts.vm_id if event.in_place else "",
            framework=facts.framework,
            package_manager=facts.package_manager,
            resident=facts.resident,
        )
    if event is None or getattr(event, "attempt", facts.attempt) != facts.attempt:
        return facts
    if facts.step != "server_ready":  # an edit's files are no step
        facts = replace(facts, step=_STEPS.get(type(event), facts.step))
    match event:
        case ProjectDetected():
            return replace(
                facts,
                framework=_text(event.framework),
                package_manager=_text(event.package_manager),
                deps=_text(event.deps),
                keeps=event.keeps,
            )
        case PreviewWarningRaised(code="lockfile_mismatch"):
            return replace(facts, retried=True)
        case InstallSkipped():
            return replace(facts, install=event.reason)
        case InstallCompleted():
            return replace(facts, install="completed")
        case InstallFailed():
            return replace(facts, install="failed")
        case _:
            return facts


# --- what is an error ---------------------------------------------------------------------------------------------


def _error(facts: Facts | None, recorded: Recorded) -> Occurrence | None:
    """The error that the event tells of, if it does. `facts`: of its preview before it."""
    event = recorded.event
    match event:
        case PreviewFailed():
            return _of(facts, recorded, event.code, event.message, event.step, event.fingerprint)
        case PreviewRestarted(reason="out_of_memory"):
            return _of(facts, recorded, OUT_OF_MEMORY, OUT_OF_MEMORY_MESSAGE, facts.step if facts else "", "")
        case VmLost():
            step = facts.step if facts else ""
            error = _of(facts, recorded, VM_LOST, event.detail, step, normalised(event.detail), grouped_by_step=False)
            return replace(error, vm_id=event.vm_id)
        case VmBootFailed():
            error = _of(None, recorded, event.code, event.message, "", normalised(event.message))
            return replace(error, vm_id=event.vm_id)
        case _:
            return None


def _of(
    facts: Facts | None,
    recorded: Recorded,
    code: str,
    message: str,
    step: str,
    cause: str,
    *,
    grouped_by_step: bool = True,
) -> Occurrence:
    code, step = _text(code), _text(step)
    # A VM that is lost is not lost because of what ran in it.
    grouped = (step, facts.framework if facts else "") if grouped_by_step else ("", "")
    error = Occurrence(
        seq=recorded.seq,
        at=recorded.meta.at,
        fingerprint=fingerprint_of(recorded.type, code, *grouped, cause),
        type=recorded.type,
        code=code,
        step=step if grouped_by_step else "",
        message=_text(message),
        trace_id=trace_of(recorded.meta.traceparent),
    )
    if facts is None:
        return replace(error, preview_id=getattr(recorded.event, "preview_id", None) or "")
    return replace(
        error,
        framework=grouped[1],
        project_id=facts.project_id,
        preview_id=facts.preview_id,
        owner=facts.owner,
        attempt=facts.attempt,
        vm_id=facts.vm_id,
    )


def _text(value: str) -> str:
    """What a `text` column takes: PostgreSQL has no NUL. A sealed text is nothing if not whole, and has its own bound."""
    return value if is_sealed(value) else value.replace("\0", "")[:TEXT_CHARS_MAX]
