"""The two jobs of a preview, install and dev server: run or attach, watch, report how they end and why."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Literal

from msgspec.structs import replace

from services.orchestrator.config import OrchestratorConfig
from services.orchestrator.idling import Changes
from services.orchestrator.model import INSTALL_RETRY, Found, Preview, Vm
from services.orchestrator.ports import ProjectStore, Workspace
from services.orchestrator.react import RunDevServer, RunInstall
from services.orchestrator.rules.detection import BASE_ENV
from services.orchestrator.rules.failures import Ended, Explanation, explain
from services.orchestrator.rules.masking import masker
from services.orchestrator.rules.memory import node_options
from services.orchestrator.state import State
from services.orchestrator.telling import DEV_SERVER, TAIL_LINES, Job, Teller, began_anew, unreachable
from services.orchestrator.watching import Watcher
from shared.agent.client import AgentError, AgentUnreachable
from shared.agent.protocol import JobSpec, JobStatus, LogLine
from shared.commands import (
    Command,
    FailPreview,
    RecordDevServerExited,
    RecordInstallCompleted,
    RecordInstallFailed,
)
from shared.ids import PreviewId
from shared.ports import Cause

WAIT_S = 20.0
INSTALL_ENV = {
    "CI": "1",
    "npm_config_update_notifier": "false",
    # npm's own defaults let one silent connection hold an install for five minutes.
    "npm_config_fetch_timeout": "20000",
    "npm_config_fetch_retries": "3",
    "npm_config_fetch_retry_mintimeout": "500",
    # And they wait ten times longer before each further try: the step would be over before npm says what is wrong.
    "npm_config_fetch_retry_factor": "2",
    "npm_config_fetch_retry_maxtimeout": "5000",
}
INSTALL, SECOND_INSTALL = "install", "install_retry"
JOB_UNKNOWN = "job_unknown"

Send = Callable[[Command, Cause], Awaitable[None]]


class JobRunner:
    """Runs the jobs of this replica's previews. A job that runs already is attached to, never started twice."""

    def __init__(
        self,
        workspace: Workspace,
        store: ProjectStore,
        teller: Teller,
        changes: Changes,
        send: Send,
        state: Callable[[], State],
        config: OrchestratorConfig,
    ) -> None:
        self._workspace = workspace
        self._store = store
        self._teller = teller
        self._changes = changes
        self._send = send
        self._state = state
        self._config = config
        self._watcher = Watcher(workspace, teller, send, config)

    # --- install ----------------------------------------------------------------------------------------------

    async def install(self, effect: RunInstall, cause: Cause) -> None:
        """Until the package manager has ended, or the attempt has."""

        async def run(preview: Preview, vm: Vm) -> None:
            # In the last two an earlier try died with half of its report stored: the job is asked again how it ended.
            if preview.found is None or preview.status not in ("installing", "installed", "install_failed"):
                return
            if preview.install_job != effect.job_id:
                return  # the next try runs
            job = await self._install_job(preview, preview.found, vm, effect.job_id)
            async with self._teller.telling(effect.preview_id, effect.attempt):
                status = await self._follow(job)
            await self._report_install(job, status, cause)

        await self._while_reachable(effect.preview_id, effect.attempt, cause, run)

    async def _install_job(self, preview: Preview, found: Found, vm: Vm, job_id: str) -> Job:
        variables = await self._variables(preview)
        retry = job_id.endswith(INSTALL_RETRY)
        spec = JobSpec(
            argv=found.install_retry_command if retry else found.install_command,
            cwd=found.install_root,
            env={**node_options(vm.memory_mb), **INSTALL_ENV, **found.install_env, **variables},
            timeout_s=self._config.install_limit_s,
        )
        return Job(preview, vm, job_id, SECOND_INSTALL if retry else INSTALL, spec, masker(variables.values()))

    async def _report_install(self, job: Job, status: JobStatus, cause: Cause) -> None:
        if status.exit_code == 0:
            took_s = round((status.exited_at or status.started_at) - status.started_at, 3)
            done = RecordInstallCompleted(
                preview_id=job.preview_id, attempt=job.attempt, install_s=took_s, job_id=job.id
            )
            await self._send(done, cause)
            return
        why, evidence = await self._explain(job, status, "install")
        await self._send(
            RecordInstallFailed(
                preview_id=job.preview_id,
                attempt=job.attempt,
                exit_code=status.exit_code,
                code=why.code,
                message=why.message,
                hint=why.hint,
                evidence=evidence,
                job_id=job.id,
                fingerprint=self._teller.fingerprint(why),
            ),
            cause,
        )

    # --- dev server -------------------------------------------------------------------------------------------

    async def dev_server(self, effect: RunDevServer, cause: Cause) -> None:
        """Until the dev server has ended, or the attempt has: this stays open as long as the preview lives."""

        async def run(preview: Preview, vm: Vm) -> None:
            if preview.found is None:
                return
            job = await self._dev_server_job(preview, preview.found, vm, effect.job_id)
            port = (await self._start(job)).port
            following = asyncio.create_task(self._follow(job))
            watching = asyncio.create_task(self._watcher.watch(job, preview.found.ready_path, port, cause))
            try:
                await asyncio.wait({following, watching}, return_when=asyncio.FIRST_COMPLETED)
                if watching.done():
                    watching.result()  # a watch that broke must not leave the preview waiting in silence
                status = await following
            finally:
                following.cancel()
                watching.cancel()
                await asyncio.gather(following, watching, return_exceptions=True)
            await self._report_exit(job, status, cause)

        await self._while_reachable(effect.preview_id, effect.attempt, cause, run)

    async def _dev_server_job(self, preview: Preview, found: Found, vm: Vm, job_id: str) -> Job:
        variables = await self._variables(preview)
        env = {**node_options(vm.memory_mb), **BASE_ENV, **found.dev_env, **variables}
        spec = JobSpec(argv=found.dev_command, cwd=found.app_root, env=env)
        return Job(preview, vm, job_id, DEV_SERVER, spec, masker(variables.values()))

    async def _report_exit(self, job: Job, status: JobStatus, cause: Cause) -> None:
        why, evidence = await self._explain(job, status, "dev_server")
        ended = RecordDevServerExited(
            preview_id=job.preview_id,
            attempt=job.attempt,
            exit_code=status.exit_code,
            signal=status.signal,
            code=why.code,
            message=why.message,
            hint=why.hint,
            evidence=evidence,
            fingerprint=self._teller.fingerprint(why),
        )
        await self._send(ended, cause)

    # --- both -------------------------------------------------------------------------------------------------

    async def _variables(self, preview: Preview) -> dict[str, str]:
        project = self._state().projects.get(preview.project_id)
        return await self._store.variables(preview.project_id, project.env) if project is not None else {}

    async def _while_reachable(
        self,
        preview_id: PreviewId,
        attempt: int,
        cause: Cause,
        run: Callable[[Preview, Vm], Coroutine[None, None, None]],
    ) -> None:
        """Run, and attach again after the agent was out of reach; the pool is told, and says when the VM is lost.
        While the preview is suspended nothing is attached: its agent is silent, and well."""
        silent = 0
        while (preview := self._teller.running(preview_id, attempt)) is not None and preview.vm is not None:
            if preview.status == "suspended":
                await self._changes.next(preview_id)
                continue
            vm = preview.vm
            try:
                if await self._until_suspended(preview, run(await self._teller.opened(preview), vm)):
                    return
            except (AgentUnreachable, AgentError) as error:
                if isinstance(error, AgentError) and error.code != JOB_UNKNOWN:
                    failure = FailPreview(
                        preview_id=preview_id,
                        attempt=attempt,
                        code=error.code,
                        message=error.message,
                        hint=error.body.hint,
                    )
                    await self._send(failure, cause)
                    return
                silent += 1
                if self._teller.running(preview_id, attempt) is None:
                    return
                check = began_anew(vm) if isinstance(error, AgentError) else unreachable(vm, error)
                await self._send(replace(check, id=f"{cause.causation_id}-{silent}"), cause)
                await asyncio.sleep(self._config.agent_retry_s)

    async def _until_suspended(self, preview: Preview, run: Coroutine[None, None, None]) -> bool:
        """Run until that has ended (True), or break it off as soon as the preview is suspended."""
        running = asyncio.ensure_future(run)
        suspended = asyncio.ensure_future(self._suspended(preview.preview_id, preview.attempt))
        try:
            await asyncio.wait({running, suspended}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
            return running.done()
        finally:
            running.cancel()
            suspended.cancel()
            await asyncio.gather(running, suspended, return_exceptions=True)

    async def _suspended(self, preview_id: PreviewId, attempt: int) -> None:
        while True:
            preview = self._teller.running(preview_id, attempt)
            if preview is not None and preview.status == "suspended":
                return
            await self._changes.next(preview_id)

    async def _start(self, job: Job) -> JobStatus:
        """Start or attach. A job that was begun with other variables or limits is this attempt's all the same. One that
        the VM has run must be known there: it is never started in what may be another VM's empty folder."""
        if job.served:
            return await self._workspace.wait_job(job.vm, job.id, 0.0)
        try:
            return await self._workspace.start_job(job.vm, job.id, job.spec)
        except AgentError as error:
            if error.code != "job_spec_conflict":
                raise
            return await self._workspace.wait_job(job.vm, job.id, 0.0)

    async def _follow(self, job: Job) -> JobStatus:
        """Start or attach, move the output into the log, and give the status once the job has ended."""
        status = await self._start(job)
        offset = await self._teller.next_offset(job.preview_id, job.attempt, job.step)
        pump = asyncio.create_task(self._teller.pump(job, self._workspace.read_log(job.vm, job.id, offset)))
        try:
            while status.state == "running":
                status = await self._workspace.wait_job(job.vm, job.id, WAIT_S)
            # The last lines are on their way; a process that left its pipe open must not hold the news of its end.
            await asyncio.wait({pump}, timeout=self._config.agent_retry_s)
        finally:
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)
        return status

    async def _explain(
        self, job: Job, status: JobStatus, step: Literal["install", "dev_server"]
    ) -> tuple[Explanation, tuple[int, ...]]:
        """Why the job has ended, and the offsets of the lines that show it. Asks the agent for what was not seen here."""
        preview = self._teller.running(job.preview_id, job.attempt)
        ended = Ended(
            step=step,
            exit_code=status.exit_code,
            signal=status.signal,
            timed_out=status.timed_out,
            ready=preview is not None and preview.status == "ready",
            limit_s=job.spec.timeout_s or 0.0,
        )
        lines = await self._last_lines(job, status)
        why = explain(ended, [job.mask(line.text) for line in lines])
        return why, tuple(lines[index].offset for index in why.evidence)

    async def _last_lines(self, job: Job, status: JobStatus) -> list[LogLine]:
        offset = max(0, status.log_next_offset - TAIL_LINES)
        lines = [line async for line in self._workspace.read_log(job.vm, job.id, offset)]
        return lines[-TAIL_LINES:]
