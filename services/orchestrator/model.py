"""One project and one preview as the orchestrator knows them: shapes and words, no rules. Pure."""

from typing import Literal

import msgspec

from shared.ids import OwnerId, PreviewId, ProjectId, VmId
from shared.reach import Reach

Status = Literal[
    "preparing",  # the project is being detected and a VM acquired, side by side
    "syncing",
    "synced",
    "installing",
    "install_failed",
    "installed",
    "prepared",  # nobody has asked for it yet
    "booting",
    "exited",
    "confirming",
    "ready",
    "suspended",  # idle: its VM is frozen until the next request
    "failed",
    "stopped",
]
ENDED = ("failed", "stopped")
KEPT_AFTER = ("installing", "waiting_server", "confirming", "server_ready")
"""Steps after whose failure the VM is worth keeping: the files are in it, perhaps the dependencies too."""
INSTALL_RETRY = "-retry"
"""Ends the id of an install job that does not hold on to the lockfile."""
STEP_OF: dict[str, str] = {
    "preparing": "acquiring_vm",
    "syncing": "syncing_files",
    "synced": "syncing_files",
    "installing": "installing",
    "install_failed": "installing",
    "installed": "installing",
    "prepared": "prepared",
    "booting": "waiting_server",
    "exited": "waiting_server",
    "confirming": "confirming",
    "ready": "server_ready",
    "suspended": "server_ready",
    "failed": "failed",
    "stopped": "stopped",
}
"""The step that a person is told, by status."""


class Vm(msgspec.Struct, frozen=True):
    """The VM that a preview holds, and its agent's address. `lease`: the log's sequence since which it holds it;
    `memory_mb`: 0 where that is unknown."""

    vm_id: VmId
    host: str
    port: int
    lease: int = 0
    reach: Reach = Reach()
    memory_mb: int = 0


class Size(msgspec.Struct, frozen=True):
    """Of one of the pool's pools: what its VMs are."""

    memory_mb: int
    region: str = ""
    image: str = ""


class Left(msgspec.Struct, frozen=True):
    """What an attempt has left whole in the VM that it gave back: dependencies by their fingerprint, and the install job
    that gave them (empty: they were there before any job ran). Without a key nothing."""

    key: str = ""
    job: str = ""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What detection found, as far as it decides how jobs run."""

    framework: str
    version: str
    package_manager: str
    app_root: str
    install_root: str
    dev_command: tuple[str, ...]
    dev_env: dict[str, str]
    install_command: tuple[str, ...]
    install_retry_command: tuple[str, ...]
    install_env: dict[str, str]
    deps: str
    keeps: bool
    ready_path: str
    restart_on: tuple[str, ...]
    memory_mb: int = 0


class Template(msgspec.Struct, frozen=True):
    """What a resident's VM held when a preview took it over: the template's project, and the manifest of its files."""

    project_id: ProjectId
    manifest: str


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why a step failed. `evidence`: offsets of lines in its log."""

    code: str = ""
    message: str = ""
    hint: str = ""
    evidence: tuple[int, ...] = ()


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """One preview. Times are seconds, UTC.

    `wanted`: somebody has asked to see it; `private`: and only with a signed link. `queued`: it waits for a VM, since none
    was free. `installed`: the fingerprint
    of the dependencies that its VM holds whole; `installed_at`: since when; `installed_by`: the job that gave them; empty:
    they come from an earlier preview, `restored` from what is kept on the disk, or preserved in the VM. `manifest`: of the
    files that its VM holds, where that is known. `resident`: made ahead of need for a template; `template`: what was in the
    VM, and runs there, when this preview took it over from such a one. `install_job`: the newest install job of this
    attempt. `frozen_mb`: what its VM holds while it is suspended, once that is known. `left`: what the next holder of its
    last VM may find there. `asked`: what somebody wants its VM to be; `grown_mb`: what it has to have since memory ran out.
    `traceparent`: of the event that began this attempt; `traced_before`: the one before it.
    A failed preview may hold its VM for a while, for the next try.
    """

    preview_id: PreviewId
    project_id: ProjectId
    owner: OwnerId
    app: str = ""
    wanted: bool = True
    private: bool = False
    resident: bool = False
    template: Template | None = None
    status: Status = "preparing"
    attempt: int = 1
    requested_by: str = ""
    requested_at: float
    status_at: float
    attempt_at: float
    queued: bool = False
    vm: Vm | None = None
    from_pool: bool = False
    found: Found | None = None
    expected_s: dict[str, float] = {}
    joined_seq: int = 0
    warned: tuple[str, ...] = ()
    files_version: int = 0
    manifest: str = ""
    install: Literal["", "skipped", "completed"] = ""
    install_job: str = ""
    installed: str = ""
    installed_by: str = ""
    installed_at: float = 0.0
    restored: bool = False
    restore_s: float = 0.0
    in_place: bool = False
    dev_host: str = ""
    dev_port: int = 0
    with_errors: bool = False
    hmr: str = ""
    frozen_mb: int = 0
    steps: dict[str, float] = {}
    failure: Failure = Failure()
    traceparent: str = ""
    traced_before: str = ""
    vm_losses: int = 0
    left: Left = Left()
    asked: Size = Size(0)
    grown_mb: int = 0


class Project(msgspec.Struct, frozen=True, kw_only=True):
    """A project and its newest version. `previews` counts all that it ever had; `env` names its variables' object.

    `residents`: how many VMs are to run it ahead of need, as a template; `residents_made`: ever. `needs_mb`: memory that its
    VM should have, by its last detection; `grown_mb`: what it has to have, since less has run out.
    """

    project_id: ProjectId
    owner: OwnerId
    files_version: int = 0
    manifest: str = ""
    env: str = ""
    previews: int = 0
    live: PreviewId | None = None
    newest: PreviewId = ""
    residents: int = 0
    residents_made: int = 0
    needs_mb: int = 0
    grown_mb: int = 0


def step_of(preview: Preview) -> str:
    """The step that a person is told."""
    return STEP_OF.get(preview.status, preview.status)
