"""What the orchestrator needs of the outside: the agent in a VM, the stored files, a look through the gateway."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from services.orchestrator.state import Vm
from shared.agent.protocol import FileSync, JobSpec, JobStatus, LogLine, ReadinessUpdate, ReadySpec, SyncResult
from shared.ids import PreviewId
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

    def read_log(self, vm: Vm, job_id: str, offset: int) -> AsyncIterator[LogLine]:
        """The job's lines from `offset` on, until it has ended."""
        ...

    def wait_ready(self, vm: Vm, job_id: str, spec: ReadySpec) -> AsyncIterator[ReadinessUpdate]:
        """How the wait for the dev server goes; the last item is final."""
        ...


class ProjectStore(Protocol):
    """A project's stored files."""

    async def manifest(self, name: str) -> Manifest: ...
    async def read(self, manifest: Manifest, paths: Sequence[str]) -> dict[str, bytes]: ...


class GatewayProbe(Protocol):
    """A request on the path that the browser uses. Gives the status of a whole answer; raises `Unavailable`."""

    async def __call__(self, preview_id: PreviewId, url: str, min_seq: int, timeout_s: float) -> int: ...
