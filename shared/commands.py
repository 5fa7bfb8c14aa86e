"""Every command, grouped by the service that it is addressed to. Names are imperative; the wire's verb is in `verb`.

`id` makes a command idempotent: the same id twice does its work once. `id` and `at` are stamped by the runtime that
receives the command where the sender left them empty, so that decisions read neither clock nor randomness.
"""

from typing import ClassVar, Literal

import msgspec

from shared.events import AppChoice
from shared.ids import CommandId, OwnerId, PreviewId, ProjectId, VmId


class Command(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A wish that a service may grant or refuse. `at`: seconds since 1970 (UTC), by the receiver's clock."""

    service: ClassVar[str] = ""
    verb: ClassVar[str] = ""
    coalesced: ClassVar[bool] = False
    """True where one run does the work of all that were asked for before it began."""
    id: CommandId = ""
    at: float = 0.0


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What a granted command answers. `seq`: the log's sequence at which the answer holds."""

    seq: int = 0


class PreviewReply(Reply, frozen=True, kw_only=True):
    """Answer of the commands about a preview."""

    preview_id: PreviewId
    status: str
    created: bool = False


class ProjectReply(Reply, frozen=True, kw_only=True):
    """Answer of the commands about a project."""

    project_id: ProjectId
    files_version: int


class ClaimReply(Reply, frozen=True, kw_only=True):
    """Answer to `AcquireVm`: the VM, or the place in the queue (1 is next)."""

    vm_id: VmId | None
    position: int = 0


# --- to the pool --------------------------------------------------------------------------------------------------


class PoolCommand(Command, frozen=True, kw_only=True):
    service: ClassVar[str] = "pool"


class AcquireVm(PoolCommand, frozen=True, kw_only=True):
    """Give this preview a warm VM, or queue its claim for `timeout_s`.

    `key`: the fingerprint of the dependencies that it needs; a VM that holds them for this owner is better than a new one.
    `resident`: a preview of the same owner's that gives up its VM for this one, if it still holds it.

    `busy` is stamped by the runtime: aggregates that it is writing to at this moment. Another VM is better then, or
    claims that come at once would all wait for the same one.
    """

    verb: ClassVar[str] = "acquire"
    preview_id: PreviewId
    owner: OwnerId
    timeout_s: float = 60.0
    resident: PreviewId = ""
    busy: frozenset[str] = frozenset()
    key: str = ""


class ReleaseVm(PoolCommand, frozen=True, kw_only=True):
    """The preview has ended: release its VM, or withdraw its claim.

    `keep`: the fingerprint of the dependencies that the VM holds whole, so that the owner's next preview may have it;
    `keep_job`: the install job that gave them; empty: they were there before any job ran.
    """

    verb: ClassVar[str] = "release"
    preview_id: PreviewId
    reason: str = "ended"
    keep: str = ""
    keep_job: str = ""


class CheckVm(PoolCommand, frozen=True, kw_only=True):
    """Somebody could not reach this VM: look after it now instead of at the next health check."""

    verb: ClassVar[str] = "check"
    vm_id: VmId
    healthy: bool
    detail: str = ""


class SuspendVm(PoolCommand, frozen=True, kw_only=True):
    """The preview is idle: freeze its VM, until `ResumeVm`."""

    verb: ClassVar[str] = "suspend"
    preview_id: PreviewId


class ResumeVm(PoolCommand, frozen=True, kw_only=True):
    """The preview is wanted again, or its VM can't be frozen: let it run."""

    verb: ClassVar[str] = "resume"
    preview_id: PreviewId


class RecordVmFrozen(PoolCommand, frozen=True, kw_only=True):
    """The provider has frozen the VM, which holds so much memory."""

    verb: ClassVar[str] = "record-frozen"
    vm_id: VmId
    memory_mb: int


class MaintainPool(PoolCommand, frozen=True, kw_only=True):
    """Expire claims, hand out what is warm, create what is missing, retire what is too much or too old."""

    verb: ClassVar[str] = "maintain"
    coalesced: ClassVar[bool] = True


class ResizePool(PoolCommand, frozen=True, kw_only=True):
    """Set the pool's size."""

    verb: ClassVar[str] = "resize"
    target: int
    minimum: int
    maximum: int


class RecordVmBooted(PoolCommand, frozen=True, kw_only=True):
    verb: ClassVar[str] = "record-booted"
    vm_id: VmId
    host: str
    port: int
    boot_s: float


class RecordVmBootFailed(PoolCommand, frozen=True, kw_only=True):
    verb: ClassVar[str] = "record-boot-failed"
    vm_id: VmId
    code: str
    message: str


class RecordVmLost(PoolCommand, frozen=True, kw_only=True):
    verb: ClassVar[str] = "record-lost"
    vm_id: VmId
    detail: str


class RecordVmDestroyed(PoolCommand, frozen=True, kw_only=True):
    verb: ClassVar[str] = "record-destroyed"
    vm_id: VmId


class RecordVmCleaned(PoolCommand, frozen=True, kw_only=True):
    """The VM holds nothing of its last preview but dependencies. `lease`: of the hold that it was emptied after."""

    verb: ClassVar[str] = "record-cleaned"
    vm_id: VmId
    lease: int


class RecordVmCleanFailed(PoolCommand, frozen=True, kw_only=True):
    """The VM could not be emptied, or may not be used again; `code` says why."""

    verb: ClassVar[str] = "record-clean-failed"
    vm_id: VmId
    lease: int
    code: str


class PreviewWarning(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a person should know, and that does not stop a preview."""

    code: str
    message: str
    version: str = ""
    recommendation: str = ""
    link: str = ""


# --- to the orchestrator ------------------------------------------------------------------------------------------


class OrchestratorCommand(Command, frozen=True, kw_only=True):
    service: ClassVar[str] = "orchestrator"


class RequestPreview(OrchestratorCommand, frozen=True, kw_only=True):
    """Show this project, or (`prepare`) do all that can be done before somebody asks for it.

    A project whose preview is live gets that preview back. `app`: the folder of the app to show, where it matters.
    """

    verb: ClassVar[str] = "request"
    project_id: ProjectId
    owner: OwnerId
    app: str = ""
    prepare: bool = False


class StopPreview(OrchestratorCommand, frozen=True, kw_only=True):
    """End the preview. `if_suspended`: only if it still is, for one that has to make room."""

    verb: ClassVar[str] = "stop"
    preview_id: PreviewId
    reason: str = "asked"
    if_suspended: bool = False


class SuspendPreview(OrchestratorCommand, frozen=True, kw_only=True):
    """Nobody has used the preview for `idle_s`. Ignored where a later attempt runs, or files are on their way to it."""

    verb: ClassVar[str] = "suspend"
    preview_id: PreviewId
    attempt: int
    idle_s: float


class ResumePreview(OrchestratorCommand, frozen=True, kw_only=True):
    """Wake the preview, if it is suspended. `reason`: a word for the log, as `request` or `edit`."""

    verb: ClassVar[str] = "resume"
    preview_id: PreviewId
    reason: str = "request"


class RestartPreview(OrchestratorCommand, frozen=True, kw_only=True):
    """Begin anew: in its VM from the step that failed where that VM is still held, else in another VM.

    `in_place`: in its VM in any case, for a change that the dev server can't take in while it runs.
    """

    verb: ClassVar[str] = "restart"
    preview_id: PreviewId
    app: str = ""
    in_place: bool = False


class RecordProject(OrchestratorCommand, frozen=True, kw_only=True):
    """What detection found."""

    verb: ClassVar[str] = "record-project"
    preview_id: PreviewId
    attempt: int
    framework: str
    version: str
    package_manager: str
    app_root: str
    dev_command: tuple[str, ...]
    dev_env: dict[str, str]
    install_command: tuple[str, ...]
    evidence: tuple[str, ...]
    install_retry_command: tuple[str, ...] = ()
    install_env: dict[str, str] = {}
    install_root: str = "."
    package_manager_version: str = ""
    node_version: str = ""
    deps: str = ""
    keeps: bool = False
    ready_path: str = "/"
    restart_on: tuple[str, ...] = ()
    warnings: tuple[PreviewWarning, ...] = ()


class RecordFilesSynced(OrchestratorCommand, frozen=True, kw_only=True):
    """The VM holds this version. `needs_restart`: the dev server can't take in what has changed while it runs;
    `restored`: the fingerprint of the dependencies that were put there too; `build`: so was the framework's cache."""

    verb: ClassVar[str] = "record-synced"
    preview_id: PreviewId
    attempt: int
    files_version: int
    written: int
    deleted: int
    sync_s: float
    needs_restart: bool = False
    restored: str = ""
    restore_s: float = 0.0
    build: bool = False


class RecordInstallCompleted(OrchestratorCommand, frozen=True, kw_only=True):
    verb: ClassVar[str] = "record-installed"
    preview_id: PreviewId
    attempt: int
    install_s: float
    job_id: str = ""


class RecordInstallFailed(OrchestratorCommand, frozen=True, kw_only=True):
    verb: ClassVar[str] = "record-install-failed"
    preview_id: PreviewId
    attempt: int
    exit_code: int | None
    code: str
    message: str
    hint: str = ""
    evidence: tuple[int, ...] = ()
    job_id: str = ""


class RecordDevServerReady(OrchestratorCommand, frozen=True, kw_only=True):
    verb: ClassVar[str] = "record-dev-server-ready"
    preview_id: PreviewId
    attempt: int
    host: str
    port: int
    status: int
    boot_s: float
    with_errors: bool = False
    detail: str = ""


class RecordDevServerExited(OrchestratorCommand, frozen=True, kw_only=True):
    verb: ClassVar[str] = "record-dev-server-exited"
    preview_id: PreviewId
    attempt: int
    exit_code: int | None
    signal: str | None
    code: str = ""
    message: str = ""
    hint: str = ""
    evidence: tuple[int, ...] = ()


class RecordHmr(OrchestratorCommand, frozen=True, kw_only=True):
    """What the socket for edits answered."""

    verb: ClassVar[str] = "record-hmr"
    preview_id: PreviewId
    attempt: int
    state: Literal["open", "refused", "silent", "none"]
    path: str = ""
    detail: str = ""


class ConfirmPreview(OrchestratorCommand, frozen=True, kw_only=True):
    """The preview answered through the gateway at `url`."""

    verb: ClassVar[str] = "confirm"
    preview_id: PreviewId
    attempt: int
    url: str


class FailPreview(OrchestratorCommand, frozen=True, kw_only=True):
    """End the attempt. Ignored where a later attempt runs, or the preview has ended."""

    verb: ClassVar[str] = "fail"
    preview_id: PreviewId
    attempt: int
    code: str
    message: str
    hint: str = ""
    evidence: tuple[int, ...] = ()
    choices: tuple[AppChoice, ...] = ()


class ExpireStep(OrchestratorCommand, frozen=True, kw_only=True):
    """The time limit of a step has passed: the preview fails if it is still there."""

    verb: ClassVar[str] = "expire-step"
    preview_id: PreviewId
    attempt: int
    step: str


class MaintainResidents(OrchestratorCommand, frozen=True, kw_only=True):
    """Request the residents that templates lack, stop those that are of no use any more."""

    verb: ClassVar[str] = "maintain-residents"
    coalesced: ClassVar[bool] = True


class HandleVmLost(OrchestratorCommand, frozen=True, kw_only=True):
    """The preview's VM is gone: start anew once, else fail."""

    verb: ClassVar[str] = "handle-vm-lost"
    preview_id: PreviewId
    vm_id: VmId
    detail: str


# --- to the gateway -----------------------------------------------------------------------------------------------


class GatewayCommand(Command, frozen=True, kw_only=True):
    service: ClassVar[str] = "gateway"


class CreateProject(GatewayCommand, frozen=True, kw_only=True):
    verb: ClassVar[str] = "create-project"
    owner: OwnerId
    name: str


class RecordFiles(GatewayCommand, frozen=True, kw_only=True):
    """A new version of the files is in the object store."""

    verb: ClassVar[str] = "record-files"
    project_id: ProjectId
    owner: OwnerId
    base_version: int
    manifest: str
    files: int
    size_bytes: int
    changed: int
    deleted: int


class SetProjectEnv(GatewayCommand, frozen=True, kw_only=True):
    """The project's variables are in the object `env`, encrypted; empty: there are none. `base`: the object that they
    were made from, where that matters; refused once there is another."""

    verb: ClassVar[str] = "set-project-env"
    project_id: ProjectId
    owner: OwnerId
    env: str
    names: tuple[str, ...]
    base: str | None = None


class SetProjectResidents(GatewayCommand, frozen=True, kw_only=True):
    """Make the project a template of which `count` VMs run the dev server ahead of need; 0: no longer."""

    verb: ClassVar[str] = "set-project-residents"
    project_id: ProjectId
    owner: OwnerId
    count: int


class DeleteProject(GatewayCommand, frozen=True, kw_only=True):
    verb: ClassVar[str] = "delete-project"
    project_id: ProjectId
    owner: OwnerId


# --- to telemetry -------------------------------------------------------------------------------------------------


class TelemetryCommand(Command, frozen=True, kw_only=True):
    service: ClassVar[str] = "telemetry"


class EvaluateAlerts(TelemetryCommand, frozen=True, kw_only=True):
    """Raise what holds and clear what no longer does."""

    verb: ClassVar[str] = "evaluate-alerts"


def _leaves(kind: type[Command]) -> list[type[Command]]:
    below = kind.__subclasses__()
    return [kind] if not below else [leaf for sub in below for leaf in _leaves(sub)]


COMMAND_TYPES: tuple[type[Command], ...] = tuple(_leaves(Command))
"""Every command."""


def commands_of(service: str) -> tuple[type[Command], ...]:
    """The commands that are addressed to a service."""
    return tuple(kind for kind in COMMAND_TYPES if kind.service == service)
