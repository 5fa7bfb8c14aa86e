"""The commands to the orchestrator."""

from typing import ClassVar, Literal

import msgspec

from shared.commands.base import Command
from shared.events import AppChoice
from shared.ids import OwnerId, PreviewId, ProjectId, VmId


class PreviewWarning(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a person should know, and that does not stop a preview."""

    code: str
    message: str
    version: str = ""
    recommendation: str = ""
    link: str = ""


class OrchestratorCommand(Command, frozen=True, kw_only=True):
    service: ClassVar[str] = "orchestrator"


class RequestPreview(OrchestratorCommand, frozen=True, kw_only=True):
    """Show this project, or (`prepare`) do all that can be done before somebody asks for it.

    A project whose preview is live gets that preview back. `app`: the folder of the app to show, where it matters.
    `memory_mb`, `region`, `image`: of the VM; 0 and empty: as the project needs, and any.
    """

    verb: ClassVar[str] = "request"
    project_id: ProjectId
    owner: OwnerId
    app: str = ""
    prepare: bool = False
    private: bool = False
    """Only who has a signed link may see it."""
    memory_mb: int = 0
    region: str = ""
    image: str = ""


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
    memory_mb: int = 0
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
    """The install job has ended well."""

    verb: ClassVar[str] = "record-installed"
    preview_id: PreviewId
    attempt: int
    install_s: float
    job_id: str = ""


class RecordInstallFailed(OrchestratorCommand, frozen=True, kw_only=True):
    """The install job has failed; `code`, `message`, `hint`: the cause as far as it is known."""

    verb: ClassVar[str] = "record-install-failed"
    preview_id: PreviewId
    attempt: int
    exit_code: int | None
    code: str
    message: str
    hint: str = ""
    evidence: tuple[int, ...] = ()
    job_id: str = ""
    fingerprint: str = ""


class RecordDevServerReady(OrchestratorCommand, frozen=True, kw_only=True):
    """The dev server has answered at this address with `status`."""

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
    """The dev server's process has ended."""

    verb: ClassVar[str] = "record-dev-server-exited"
    preview_id: PreviewId
    attempt: int
    exit_code: int | None
    signal: str | None
    code: str = ""
    message: str = ""
    hint: str = ""
    evidence: tuple[int, ...] = ()
    fingerprint: str = ""


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
    fingerprint: str = ""


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
