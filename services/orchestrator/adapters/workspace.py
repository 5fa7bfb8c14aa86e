"""The `Workspace` over the agent's wire."""

from collections.abc import AsyncIterator, Mapping

import aiohttp

from services.orchestrator.model import Vm
from shared import agent_spans, telemetry
from shared.agent.client import AgentClient, AgentError
from shared.agent.protocol import FileSync, JobSpec, JobStatus, LogLine, ReadinessUpdate, ReadySpec, SyncResult
from shared.reach import agent_url
from shared.secrets import agent_token


class AgentWorkspace:
    """One shared session for all agents; each is asked with its own token."""

    def __init__(self, session: aiohttp.ClientSession, secret: str) -> None:
        self._session = session
        self._secret = secret

    def _client(self, vm: Vm) -> AgentClient:
        token = agent_token(self._secret, vm.vm_id)
        url = agent_url(vm.host, vm.port, vm.reach)
        return AgentClient(
            url,
            token,
            self._session,
            lease=vm.lease,
            headers=vm.reach.headers,
            trace=telemetry.carrier,
            on_spans=agent_spans.take,
        )

    async def sync(self, vm: Vm, files: FileSync, contents: Mapping[str, bytes]) -> SyncResult:
        async def each() -> AsyncIterator[tuple[str, bytes | AsyncIterator[bytes]]]:
            for path, content in contents.items():
                yield path, content

        return await self._client(vm).sync_files(files, each())

    async def start_job(self, vm: Vm, job_id: str, spec: JobSpec) -> JobStatus:
        return await self._client(vm).start_job(job_id, spec)

    async def wait_job(self, vm: Vm, job_id: str, wait_s: float) -> JobStatus:
        return await self._client(vm).job(job_id, wait_s)

    async def stop_job(self, vm: Vm, job_id: str) -> None:
        try:
            await self._client(vm).stop_job(job_id)
        except AgentError as error:
            if error.code != "job_unknown":
                raise

    def read_log(self, vm: Vm, job_id: str, offset: int) -> AsyncIterator[LogLine]:
        return self._client(vm).log(job_id, offset, follow=True)

    def wait_ready(self, vm: Vm, job_id: str, spec: ReadySpec) -> AsyncIterator[ReadinessUpdate]:
        return self._client(vm).ready(job_id, spec)
