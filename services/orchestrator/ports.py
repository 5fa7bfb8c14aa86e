"""What the orchestrator needs of the outside: the agent in a VM, the stored files, a look through the gateway."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Literal, Protocol

import msgspec

from services.orchestrator.model import Vm
from shared.agent.protocol import FileSync, JobSpec, JobStatus, LogLine, ReadinessUpdate, ReadySpec, SyncResult
from shared.deps import DepsAnswer, DepsRequest
from shared.ids import PreviewId, ProjectId
from shared.project_files import Manifest


class Workspace(Protocol):
    """The agent in a VM. Every verb raises `AgentUnreachable`, or `AgentError` for a refusal."""

    async def sync(self, vm: Vm, files: FileSync, contents: Mapping[str, bytes]) -> SyncResult: ...

    async def start_job(self, vm: Vm, job_id: str, spec: JobSpec) -> JobStatus:
        """Start the job, or attach to the one that has this id."""
        ...

    async def wait_job(self, vm: Vm, job_id: str, wait_s: float) -> JobStatus:
        """The job's status once it has ended, or after `wait_s`."""
        ...

    async def stop_job(self, vm: Vm, job_id: str) -> None:
        """End the job and all its processes. A job that is not known has ended."""
        ...

    def read_log(self, vm: Vm, job_id: str, offset: int) -> AsyncIterator[LogLine]:
        """The job's lines from `offset` on, until it has ended."""
        ...

    def wait_ready(self, vm: Vm, job_id: str, spec: ReadySpec) -> AsyncIterator[ReadinessUpdate]:
        """How the wait for the dev server goes; the last item is final."""
        ...


class ProjectStore(Protocol):
    """A project's stored files and variables."""

    async def manifest(self, name: str) -> Manifest: ...
    async def read(self, manifest: Manifest, paths: Sequence[str]) -> dict[str, bytes]: ...

    async def variables(self, project_id: ProjectId, name: str) -> dict[str, str]:
        """The project's environment, from the object of this name; none for an empty name."""
        ...


class DepsCache(Protocol):
    """Installs of earlier previews of the same owner. Both verbs answer also where nothing can be done."""

    async def restore(self, asked: DepsRequest) -> DepsAnswer:
        """Put the dependencies of this fingerprint into the VM, if they are kept, else what the manager has fetched."""
        ...

    async def publish(self, asked: DepsRequest) -> DepsAnswer:
        """Keep the VM's dependencies under this fingerprint (empty: not them), and what the manager has fetched."""
        ...


class SocketAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a WebSocket's handshake came to. `path`: the one that answered, or the last one tried."""

    state: Literal["open", "refused", "silent"]
    path: str
    detail: str = ""


class GatewayProbe(Protocol):
    """Requests on the path that the browser uses."""

    async def page(self, preview_id: PreviewId, url: str, min_seq: int, timeout_s: float) -> int:
        """The status of a whole answer at `url`. Raises `Unavailable` where there is none."""
        ...

    async def socket(
        self, preview_id: PreviewId, url: str, min_seq: int, paths: Sequence[str], protocol: str, timeout_s: float
    ) -> SocketAnswer:
        """Try a WebSocket at all of these paths at once; the first that opens counts, else what was refused."""
        ...
