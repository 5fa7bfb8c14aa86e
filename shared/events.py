"""Every event of the system, grouped by the one service that writes it.

These names and fields ARE the storage format. A field may be added with a default; nothing is ever renamed, removed or
given another type: a new meaning is a new event, or a new version with an upcaster in `shared.codec`.
Times are seconds since 1970 (UTC). No event carries a secret or a line of a project's log.
"""

from typing import ClassVar, Literal

import msgspec

from shared.ids import OwnerId, PreviewId, ProjectId, VmId


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """A past fact of one aggregate. `schema_version` counts up when its shape changes."""

    service: ClassVar[str] = ""
    aggregate: ClassVar[str] = ""
    schema_version: ClassVar[int] = 1

    @property
    def aggregate_id(self) -> str:
        """The id of the aggregate that the event belongs to."""
        raise NotImplementedError


def aggregate_key(event: Event) -> str:
    """`<service>.<aggregate>.<id>`: the unit of optimistic concurrency."""
    return f"{event.service}.{event.aggregate}.{event.aggregate_id}"


# --- pool ---------------------------------------------------------------------------------------------------------


class VmEvent(Event, frozen=True, kw_only=True):
    """Of one VM, from the wish to create it to its end."""

    service: ClassVar[str] = "pool"
    aggregate: ClassVar[str] = "vm"
    vm_id: VmId

    @property
    def aggregate_id(self) -> str:
        return self.vm_id


class VmCreationStarted(VmEvent, frozen=True, kw_only=True):
    """The provider will be asked for a VM. It counts against the pool's maximum from here on."""

    provider: str
    number: int


class VmBooted(VmEvent, frozen=True, kw_only=True):
    """The VM's agent answered; the VM is warm. `host` and `port` are the agent's address."""

    host: str
    port: int
    boot_s: float


class VmBootFailed(VmEvent, frozen=True, kw_only=True):
    """The provider could not create the VM, or its agent never answered."""

    code: str
    message: str


class VmAcquired(VmEvent, frozen=True, kw_only=True):
    """The VM belongs to one preview now. `from_pool`: it was warm when the claim came; `waited_s`: since the claim."""

    preview_id: PreviewId
    owner: OwnerId
    from_pool: bool
    waited_s: float
    host: str
    port: int


class VmReleased(VmEvent, frozen=True, kw_only=True):
    """The preview no longer needs the VM. What has run for an owner is never given to another: it will be destroyed."""

    preview_id: PreviewId
    reason: str


class VmRetired(VmEvent, frozen=True, kw_only=True):
    """A VM that nobody holds is taken out of the pool, to be destroyed."""

    reason: Literal["surplus", "aged", "unhealthy", "lost", "drained"]


class VmCleaned(VmEvent, frozen=True, kw_only=True):
    """A released VM was emptied for the same owner."""

    owner: OwnerId


class VmSuspended(VmEvent, frozen=True, kw_only=True):
    """The VM is frozen: it uses memory but no processor."""


class VmResumed(VmEvent, frozen=True, kw_only=True):
    """The VM runs again."""


class VmHealthCheckFailed(VmEvent, frozen=True, kw_only=True):
    """The agent did not answer its health check; `failures` in a row, this one included."""

    failures: int
    detail: str


class VmHealthCheckRecovered(VmEvent, frozen=True, kw_only=True):
    """The agent answers again after one or more failed checks."""


class VmLost(VmEvent, frozen=True, kw_only=True):
    """The VM is gone without our doing: its agent is silent, or the provider no longer has it."""

    preview_id: PreviewId | None
    detail: str


class VmDestroyed(VmEvent, frozen=True, kw_only=True):
    """The provider agrees that the VM is gone."""


class ClaimEvent(Event, frozen=True, kw_only=True):
    """Of one preview's claim on a VM while the pool is empty."""

    service: ClassVar[str] = "pool"
    aggregate: ClassVar[str] = "claim"
    preview_id: PreviewId

    @property
    def aggregate_id(self) -> str:
        return self.preview_id


class ClaimQueued(ClaimEvent, frozen=True, kw_only=True):
    """No VM was free: the claim waits in order until `deadline`."""

    owner: OwnerId
    deadline: float


class ClaimExpired(ClaimEvent, frozen=True, kw_only=True):
    """No VM came free before the deadline."""

    waited_s: float


class ClaimWithdrawn(ClaimEvent, frozen=True, kw_only=True):
    """The preview ended before it got a VM."""

    reason: str


class PoolEvent(Event, frozen=True, kw_only=True):
    """Of the pool's own settings."""

    service: ClassVar[str] = "pool"
    aggregate: ClassVar[str] = "pool"
    pool: str = "default"

    @property
    def aggregate_id(self) -> str:
        return self.pool


class PoolResized(PoolEvent, frozen=True, kw_only=True):
    """The pool keeps `target` VMs warm; never fewer than `minimum` in all, never more than `maximum`."""

    target: int
    minimum: int
    maximum: int


class AppChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One of several apps in a project: its folder, what it is built with, and its name."""

    path: str
    framework: str
    name: str


# --- orchestrator -------------------------------------------------------------------------------------------------


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

    `app`: the folder of the app to show, where the project holds several; empty: whichever detection finds.
    """

    project_id: ProjectId
    owner: OwnerId
    files_version: int
    app: str = ""
    prepare: bool = False


class PreviewPrepared(PreviewEvent, frozen=True, kw_only=True):
    """The files and dependencies of a preview that nobody has asked for yet are in its VM."""

    attempt: int


class PreviewWanted(PreviewEvent, frozen=True, kw_only=True):
    """Somebody wants to see what was being prepared."""

    attempt: int


class PreviewRestarted(PreviewEvent, frozen=True, kw_only=True):
    """The preview begins anew. `in_place`: in the VM that it holds, where what is installed serves again.

    `reason`: somebody asked, its VM was lost, or an edit that the dev server can't take in while it runs.
    """

    attempt: int
    reason: Literal["asked", "vm_lost", "edited"]
    files_version: int
    in_place: bool = False
    app: str = ""


class ProjectDetected(PreviewEvent, frozen=True, kw_only=True):
    """What the project is and how its dev server is started. `dev_command` is the argv, `{port}` stands for the port.

    `app_root` and `install_root` are where the dev server and the install run; `deps` is a fingerprint of all that
    decides what an install gives; `restart_on`: globs below `app_root` of files whose edit needs a restart.
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
    restart_on: tuple[str, ...] = ()


class PreviewWarningRaised(PreviewEvent, frozen=True, kw_only=True):
    """Something that a person should know, and that does not stop the preview."""

    attempt: int
    code: str
    message: str
    version: str = ""
    recommendation: str = ""
    link: str = ""


class FilesSynced(PreviewEvent, frozen=True, kw_only=True):
    """The VM holds this version of the project's files."""

    attempt: int
    files_version: int
    written: int
    deleted: int
    sync_s: float


class InstallStarted(PreviewEvent, frozen=True, kw_only=True):
    """The dependencies are being installed by the agent's job `job_id`."""

    attempt: int
    job_id: str
    command: tuple[str, ...]


class InstallSkipped(PreviewEvent, frozen=True, kw_only=True):
    """No install was needed. `reason`: `no_dependencies`, `preserved` or `restored`."""

    attempt: int
    reason: Literal["no_dependencies", "preserved", "restored"]


class InstallCompleted(PreviewEvent, frozen=True, kw_only=True):
    """The package manager ended with 0."""

    attempt: int
    install_s: float


class InstallFailed(PreviewEvent, frozen=True, kw_only=True):
    """The package manager ended otherwise, or ran out of time. `evidence`: offsets of lines in the step's log."""

    attempt: int
    exit_code: int | None
    code: str
    message: str
    hint: str = ""
    evidence: tuple[int, ...] = ()


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
    """The dev server's process ended without being asked to. `code` and the like: the cause, as far as it is known."""

    attempt: int
    exit_code: int | None
    signal: str | None
    code: str = ""
    message: str = ""
    hint: str = ""
    evidence: tuple[int, ...] = ()


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
    framework has no such socket, or none that is known.
    """

    attempt: int
    state: Literal["open", "refused", "silent", "none"]
    path: str = ""
    detail: str = ""


class PreviewSuspended(PreviewEvent, frozen=True, kw_only=True):
    """Idle: frozen until the next request."""


class PreviewResumed(PreviewEvent, frozen=True, kw_only=True):
    """Awake again."""

    resume_s: float


class PreviewFailed(PreviewEvent, frozen=True, kw_only=True):
    """The attempt ended without a preview, for a reason that a person can act on.

    `evidence`: offsets of lines in the log of the step; `choices`: the apps to choose from (`app_choice_needed`).
    """

    attempt: int
    code: str
    message: str
    hint: str
    step: str
    evidence: tuple[int, ...] = ()
    choices: tuple[AppChoice, ...] = ()


class PreviewStopped(PreviewEvent, frozen=True, kw_only=True):
    """Somebody, or a limit, ended the preview."""

    reason: str


# --- gateway ------------------------------------------------------------------------------------------------------


class ProjectEvent(Event, frozen=True, kw_only=True):
    """Of one project's files."""

    service: ClassVar[str] = "gateway"
    aggregate: ClassVar[str] = "project"
    project_id: ProjectId

    @property
    def aggregate_id(self) -> str:
        return self.project_id


class ProjectCreated(ProjectEvent, frozen=True, kw_only=True):
    """An owner has a project; it has no files yet."""

    owner: OwnerId
    name: str


class ProjectFilesChanged(ProjectEvent, frozen=True, kw_only=True):
    """A version of the files is stored. `manifest` names the object that lists them."""

    files_version: int
    manifest: str
    files: int
    size_bytes: int
    changed: int
    deleted: int


class ProjectEnvChanged(ProjectEvent, frozen=True, kw_only=True):
    """The variables of the project's environment were set. `env` names the object that holds them, encrypted; empty:
    there are none. Their values are never here."""

    env: str
    names: tuple[str, ...]


class ProjectDeleted(ProjectEvent, frozen=True, kw_only=True):
    """The project and its files are gone."""


# --- telemetry ----------------------------------------------------------------------------------------------------


class AlertEvent(Event, frozen=True, kw_only=True):
    """Of one alert, by its name."""

    service: ClassVar[str] = "telemetry"
    aggregate: ClassVar[str] = "alert"
    alert: str

    @property
    def aggregate_id(self) -> str:
        return self.alert


class AlertRaised(AlertEvent, frozen=True, kw_only=True):
    """A condition that an operator should look at holds since `since`."""

    message: str
    since: float


class AlertCleared(AlertEvent, frozen=True, kw_only=True):
    """The condition no longer holds."""

    lasted_s: float


def _leaves(kind: type[Event]) -> list[type[Event]]:
    below = kind.__subclasses__()
    return [kind] if not below else [leaf for sub in below for leaf in _leaves(sub)]


EVENT_TYPES: dict[str, type[Event]] = {kind.__name__: kind for kind in _leaves(Event)}
"""Every event by its name on the wire."""
