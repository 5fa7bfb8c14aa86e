"""The events that the orchestrator service writes."""

from typing import ClassVar, Literal

import msgspec

from shared.events.base import Event
from shared.ids import OwnerId, PreviewId, ProjectId


class AppChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One of several apps in a project: its folder, what it is built with, and its name."""

    path: str
    framework: str
    name: str


class PreviewEvent(Event, frozen=True, kw_only=True):
    """Of one preview. `attempt` counts from 1; a restart starts the next."""

    service: ClassVar[str] = "orchestrator"
    aggregate: ClassVar[str] = "preview"
    preview_id: PreviewId

    @property
    def aggregate_id(self) -> str:
        return self.preview_id


class PreviewRequested(PreviewEvent, frozen=True, kw_only=True):
    """Somebody wants to see a project. `prepare`: not yet; all up to the dev server is done ahead of the wish.

    `app`: the folder of the app to show, where the project holds several; empty: whichever detection finds. `resident`:
    nobody will see it; its VM, with the dev server that runs there, goes to the next project that fits. `private`: only
    who has a signed link may see it. `memory_mb`, `region`, `image`: of the VM that was asked for; 0 and empty: any that fits.
    """

    project_id: ProjectId
    owner: OwnerId
    files_version: int
    app: str = ""
    prepare: bool = False
    resident: bool = False
    private: bool = False
    memory_mb: int = 0
    region: str = ""
    image: str = ""


class PreviewPrepared(PreviewEvent, frozen=True, kw_only=True):
    """The files and dependencies of a preview that nobody has asked for yet are in its VM."""

    attempt: int


class PreviewWanted(PreviewEvent, frozen=True, kw_only=True):
    """Somebody wants to see what was being prepared. `private`: from here on only who has a signed link may."""

    attempt: int
    private: bool = False


class PreviewRestarted(PreviewEvent, frozen=True, kw_only=True):
    """The preview begins anew. `in_place`: in the VM that it holds, where what is installed serves again.

    `reason`: somebody asked, its VM was lost, an edit that the dev server can't take in while it runs, or its VM's memory
    ran out: then `memory_mb` is what the next one is to have at least.
    """

    attempt: int
    reason: Literal["asked", "vm_lost", "edited", "out_of_memory"]
    files_version: int
    in_place: bool = False
    app: str = ""
    memory_mb: int = 0


class ProjectDetected(PreviewEvent, frozen=True, kw_only=True):
    """What the project is and how its dev server is started. `dev_command` is the argv, `{port}` stands for the port.

    `app_root` and `install_root` are where the dev server and the install run; `deps` is a fingerprint of all that
    decides what an install gives; `keeps`: that is in `node_modules` alone, so that it can be kept for other VMs;
    `restart_on`: globs below `app_root` of files whose edit needs a restart; `memory_mb`: what its VM should have; 0: unknown.
    """

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
    ready_path: str = "/"
    keeps: bool = False
    restart_on: tuple[str, ...] = ()
    memory_mb: int = 0


class PreviewWarningRaised(PreviewEvent, frozen=True, kw_only=True):
    """Something that a person should know, and that does not stop the preview."""

    attempt: int
    code: str
    message: str
    version: str = ""
    recommendation: str = ""
    link: str = ""


class FilesSynced(PreviewEvent, frozen=True, kw_only=True):
    """The VM holds this version of the project's files. `restored`: the fingerprint of the dependencies that were put
    there with them, from an earlier install; empty: none. `build`: so was the framework's build cache, from an earlier
    preview of the same project."""

    attempt: int
    files_version: int
    written: int
    deleted: int
    sync_s: float
    restored: str = ""
    restore_s: float = 0.0
    build: bool = False


class InstallStarted(PreviewEvent, frozen=True, kw_only=True):
    """The dependencies are being installed by the agent's job `job_id`."""

    attempt: int
    job_id: str
    command: tuple[str, ...]


class InstallSkipped(PreviewEvent, frozen=True, kw_only=True):
    """No install was needed. `reason`: `no_dependencies`; `preserved`, the VM still had what it needs; `restored`, it was
    put there from an earlier install; `resident`, the dev server of a template with the same ones runs there. `key`: the
    fingerprint of the dependencies; `saved_s`: what an install took before for this framework, less the restore."""

    attempt: int
    reason: Literal["no_dependencies", "preserved", "restored", "resident"]
    key: str = ""
    saved_s: float = 0.0


class InstallCompleted(PreviewEvent, frozen=True, kw_only=True):
    """The package manager ended with 0."""

    attempt: int
    install_s: float


class InstallFailed(PreviewEvent, frozen=True, kw_only=True):
    """The package manager ended otherwise, or ran out of time. `evidence`: offsets of lines in the step's log; `fingerprint`:
    as `PreviewFailed` has it."""

    attempt: int
    exit_code: int | None
    code: str
    message: str
    hint: str = ""
    evidence: tuple[int, ...] = ()
    fingerprint: str = ""


class DevServerStarted(PreviewEvent, frozen=True, kw_only=True):
    """The dev server's process runs as the agent's job `job_id`; it need not answer yet."""

    attempt: int
    job_id: str
    command: tuple[str, ...]


class DevServerReady(PreviewEvent, frozen=True, kw_only=True):
    """The dev server answered a whole HTTP request, asked by the agent at `host`:`port`: below 500, or, `with_errors`,
    steadily with its own page about an error in the project. `detail` says which request answered what then. While the
    preview is ready with errors: one without them tells that the project was mended."""

    attempt: int
    host: str
    port: int
    status: int
    boot_s: float
    with_errors: bool = False
    detail: str = ""


class DevServerExited(PreviewEvent, frozen=True, kw_only=True):
    """The dev server's process ended without being asked to. `code` and the like: the cause, as far as it is known;
    `fingerprint`: as `PreviewFailed` has it."""

    attempt: int
    exit_code: int | None
    signal: str | None
    code: str = ""
    message: str = ""
    hint: str = ""
    evidence: tuple[int, ...] = ()
    fingerprint: str = ""


class PreviewReady(PreviewEvent, frozen=True, kw_only=True):
    """The dev server answered through the gateway, on the path that the browser uses. `steps`: seconds by step.

    `with_errors`: what it answered is its own page about an error in the project.
    """

    attempt: int
    url: str
    total_s: float
    from_pool: bool
    install: Literal["skipped", "completed"]
    steps: dict[str, float]
    with_errors: bool = False


class HmrProbed(PreviewEvent, frozen=True, kw_only=True):
    """The socket over which the dev server tells of edits was tried once, on the path that the browser uses.

    `open`: it took the connection; `refused`: it answered otherwise; `silent`: it did not answer; `none`: the
    framework has no such socket, or none that can be tried from outside its page.
    """

    attempt: int
    state: Literal["open", "refused", "silent", "none"]
    path: str = ""
    detail: str = ""


class PreviewSuspended(PreviewEvent, frozen=True, kw_only=True):
    """Nobody has used it for `idle_s`: it is frozen until the next request."""

    attempt: int = 1
    idle_s: float = 0.0


class PreviewResumed(PreviewEvent, frozen=True, kw_only=True):
    """It is to run again, after `suspended_s`. `reason`: what it was woken for."""

    attempt: int = 1
    reason: str = ""
    suspended_s: float = 0.0


class PreviewFailed(PreviewEvent, frozen=True, kw_only=True):
    """The attempt ended without a preview, for a reason that a person can act on.

    `evidence`: offsets of lines in the log of the step; `choices`: the apps to choose from (`app_choice_needed`).
    `fingerprint`: 16 hex digits that failures with the same cause have in common, made where the event is sealed; empty: unknown.
    """

    attempt: int
    code: str
    message: str
    hint: str
    step: str
    evidence: tuple[int, ...] = ()
    choices: tuple[AppChoice, ...] = ()
    fingerprint: str = ""


class PreviewStopped(PreviewEvent, frozen=True, kw_only=True):
    """Somebody, or a limit, ended the preview."""

    reason: str
