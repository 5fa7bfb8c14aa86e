"""Small builders of events and commands with sensible defaults: a test names only what it is about."""

from typing import Literal

from shared.commands import RecordProject
from shared.events import (
    ClaimQueued,
    DevServerExited,
    DevServerReady,
    DevServerStarted,
    Event,
    FilesSynced,
    HmrProbed,
    InstallCompleted,
    InstallFailed,
    InstallSkipped,
    InstallStarted,
    PoolResized,
    PreviewFailed,
    PreviewPrepared,
    PreviewReady,
    PreviewRequested,
    PreviewRestarted,
    PreviewResumed,
    PreviewStopped,
    PreviewSuspended,
    PreviewWanted,
    PreviewWarningRaised,
    ProjectCreated,
    ProjectDetected,
    ProjectFilesChanged,
    VmAcquired,
    VmBooted,
    VmBootFailed,
    VmCleaned,
    VmCreationStarted,
    VmFrozen,
    VmLost,
    VmReleased,
    VmResumed,
    VmSuspended,
)
from tests.spec import AT

PROJECT, PREVIEW, OWNER, VM = "project-1", "preview-1", "alice", "vm-000001"
KEY = "fingerprint"
URL = "http://preview-1.preview.localhost:8080/"
INSTALL = ("npm", "ci")
DEV = ("node_modules/.bin/vite", "--port", "{port}")


# --- pool ---------------------------------------------------------------------------------------------------------


def vm(number: int) -> str:
    return f"vm-{number:06d}"


def vm_creation_started(number: int = 1) -> VmCreationStarted:
    return VmCreationStarted(vm_id=vm(number), provider="local", number=number)


def vm_booted(number: int = 1) -> VmBooted:
    return VmBooted(vm_id=vm(number), host="127.0.0.1", port=9000 + number, boot_s=0.5)


def warm_vms(*numbers: int) -> list[Event]:
    return [event for number in numbers for event in (vm_creation_started(number), vm_booted(number))]


def vm_boot_failed(number: int = 1) -> VmBootFailed:
    return VmBootFailed(vm_id=vm(number), code="boot_timeout", message="It never answered.")


def vm_acquired(
    number: int = 1, preview: str = PREVIEW, owner: str = OWNER, *, key: str = "", **changes: bool | float
) -> VmAcquired:
    return VmAcquired(
        vm_id=vm(number),
        preview_id=preview,
        owner=owner,
        from_pool=bool(changes.get("from_pool", True)),
        waited_s=float(changes.get("waited_s", 0.0)),
        host="127.0.0.1",
        port=9000 + number,
        key=key,
    )


def vm_released(
    number: int = 1, preview: str = PREVIEW, reason: str = "ended", *, keep: str = "", keep_job: str = ""
) -> VmReleased:
    return VmReleased(vm_id=vm(number), preview_id=preview, reason=reason, keep=keep, keep_job=keep_job)


def vm_cleaned(number: int = 1, owner: str = OWNER, key: str = KEY) -> VmCleaned:
    return VmCleaned(vm_id=vm(number), owner=owner, key=key)


def kept_vms(*numbers: int, owner: str = OWNER, key: str = KEY) -> list[Event]:
    """Each was held by a preview of its own."""
    return [
        event
        for number in numbers
        for event in (
            *warm_vms(number),
            vm_acquired(number, f"before-{number}", owner),
            vm_released(number, f"before-{number}", keep=key, keep_job="install-1"),
            vm_cleaned(number, owner, key),
        )
    ]


def vm_lost(number: int = 1, preview: str | None = PREVIEW, detail: str = "silent") -> VmLost:
    return VmLost(vm_id=vm(number), preview_id=preview, detail=detail)


def vm_suspended(number: int = 1, preview: str = PREVIEW) -> VmSuspended:
    return VmSuspended(vm_id=vm(number), preview_id=preview)


def vm_frozen(number: int = 1, preview: str = PREVIEW, memory_mb: int = 200) -> VmFrozen:
    return VmFrozen(vm_id=vm(number), preview_id=preview, memory_mb=memory_mb)


def vm_resumed(number: int = 1, preview: str = PREVIEW) -> VmResumed:
    return VmResumed(vm_id=vm(number), preview_id=preview)


def claim_queued(preview: str = PREVIEW, owner: str = OWNER, deadline: float = AT + 60) -> ClaimQueued:
    return ClaimQueued(preview_id=preview, owner=owner, deadline=deadline)


def pool_resized(target: int = 3, minimum: int = 1, maximum: int = 5) -> PoolResized:
    return PoolResized(target=target, minimum=minimum, maximum=maximum)


# --- projects -----------------------------------------------------------------------------------------------------


def project_created(project: str = PROJECT, owner: str = OWNER, name: str = "shop") -> ProjectCreated:
    return ProjectCreated(project_id=project, owner=owner, name=name)


def files_changed(version: int = 1, project: str = PROJECT, files: int = 3) -> ProjectFilesChanged:
    return ProjectFilesChanged(
        project_id=project,
        files_version=version,
        manifest=f"manifest-{version}",
        files=files,
        size_bytes=files * 100,
        changed=files,
        deleted=0,
    )


# --- previews -----------------------------------------------------------------------------------------------------


def preview_requested(preview: str = PREVIEW, project: str = PROJECT, files_version: int = 1) -> PreviewRequested:
    return PreviewRequested(preview_id=preview, project_id=project, owner=OWNER, files_version=files_version)


def project_detected(
    attempt: int = 1, framework: str = "vite", version: str = "7.0.0", install: tuple[str, ...] = INSTALL
) -> ProjectDetected:
    return ProjectDetected(
        preview_id=PREVIEW,
        attempt=attempt,
        framework=framework,
        version=version,
        package_manager="npm",
        app_root=".",
        dev_command=DEV,
        dev_env={},
        install_command=install,
        evidence=("package.json",),
        deps=KEY,
    )


def record_project(framework: str = "vite", version: str = "7.0.0", attempt: int = 1) -> RecordProject:
    return RecordProject(
        preview_id=PREVIEW,
        attempt=attempt,
        framework=framework,
        version=version,
        package_manager="npm",
        app_root=".",
        dev_command=DEV,
        dev_env={},
        install_command=INSTALL,
        evidence=("package.json",),
        deps=KEY,
    )


def warning_raised(version: str = "16.0.1", attempt: int = 1) -> PreviewWarningRaised:
    return PreviewWarningRaised(
        preview_id=PREVIEW,
        attempt=attempt,
        code="nextjs_version",
        message=f"Next.js {version} has known dev server hanging issues.",
        version=version,
        recommendation="15.3.0",
        link="https://github.com/vercel/next.js/discussions/77102",
    )


def files_synced(attempt: int = 1, version: int = 1) -> FilesSynced:
    return FilesSynced(preview_id=PREVIEW, attempt=attempt, files_version=version, written=3, deleted=0, sync_s=0.1)


def install_started(attempt: int = 1) -> InstallStarted:
    return InstallStarted(preview_id=PREVIEW, attempt=attempt, job_id=f"install-{attempt}", command=INSTALL)


def install_skipped(attempt: int = 1) -> InstallSkipped:
    return InstallSkipped(preview_id=PREVIEW, attempt=attempt, reason="no_dependencies")


def install_completed(attempt: int = 1) -> InstallCompleted:
    return InstallCompleted(preview_id=PREVIEW, attempt=attempt, install_s=4.0)


def install_failed(attempt: int = 1, exit_code: int | None = 1) -> InstallFailed:
    return InstallFailed(
        preview_id=PREVIEW, attempt=attempt, exit_code=exit_code, code="install_failed", message="No.", hint="Look."
    )


def dev_server_started(attempt: int = 1) -> DevServerStarted:
    return DevServerStarted(preview_id=PREVIEW, attempt=attempt, job_id=f"dev-{attempt}", command=DEV)


def dev_server_ready(attempt: int = 1) -> DevServerReady:
    return DevServerReady(preview_id=PREVIEW, attempt=attempt, host="127.0.0.1", port=5173, status=200, boot_s=1.0)


def dev_server_exited(attempt: int = 1, exit_code: int | None = 1, signal: str | None = None) -> DevServerExited:
    return DevServerExited(preview_id=PREVIEW, attempt=attempt, exit_code=exit_code, signal=signal)


def preview_ready(attempt: int = 1, total_s: float = 0.0) -> PreviewReady:
    return PreviewReady(
        preview_id=PREVIEW,
        attempt=attempt,
        url=URL,
        total_s=total_s,
        from_pool=True,
        install="completed",
        steps={"acquiring_vm": 0.0, "syncing_files": 0.0, "installing": 0.0, "waiting_server": 0.0, "confirming": 0.0},
    )


def preview_restarted(
    attempt: int = 2,
    reason: Literal["asked", "vm_lost", "edited", "out_of_memory"] = "asked",
    *,
    in_place: bool = False,
    app: str = "",
) -> PreviewRestarted:
    return PreviewRestarted(
        preview_id=PREVIEW, attempt=attempt, reason=reason, files_version=1, in_place=in_place, app=app
    )


def preview_prepared(attempt: int = 1) -> PreviewPrepared:
    return PreviewPrepared(preview_id=PREVIEW, attempt=attempt)


def preview_wanted(attempt: int = 1) -> PreviewWanted:
    return PreviewWanted(preview_id=PREVIEW, attempt=attempt)


def hmr_probed(attempt: int = 1) -> HmrProbed:
    return HmrProbed(preview_id=PREVIEW, attempt=attempt, state="open", path="/")


def preview_failed(attempt: int = 1, code: str = "install_failed", step: str = "installing") -> PreviewFailed:
    return PreviewFailed(preview_id=PREVIEW, attempt=attempt, code=code, message="No.", hint="Look.", step=step)


def preview_stopped(reason: str = "asked") -> PreviewStopped:
    return PreviewStopped(preview_id=PREVIEW, reason=reason)


def preview_suspended(attempt: int = 1, idle_s: float = 300.0) -> PreviewSuspended:
    return PreviewSuspended(preview_id=PREVIEW, attempt=attempt, idle_s=idle_s)


def preview_resumed(attempt: int = 1, reason: str = "request", suspended_s: float = 0.0) -> PreviewResumed:
    return PreviewResumed(preview_id=PREVIEW, attempt=attempt, reason=reason, suspended_s=suspended_s)


STEPS = ("requested", "detected", "acquired", "synced", "installing", "installed", "booting", "confirming", "ready")


def story(until: str = "ready") -> list[Event]:
    """A preview's events up to and including this step, its project's among them."""
    events: dict[str, list[Event]] = {
        "requested": [project_created(), files_changed(), preview_requested()],
        "detected": [project_detected()],
        "acquired": [vm_acquired()],
        "synced": [files_synced()],
        "installing": [install_started()],
        "installed": [install_completed()],
        "booting": [dev_server_started()],
        "confirming": [dev_server_ready()],
        "ready": [preview_ready()],
    }
    return [event for step in STEPS[: STEPS.index(until) + 1] for event in events[step]]
