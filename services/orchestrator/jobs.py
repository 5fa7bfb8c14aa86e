"""The two jobs of a preview, install and dev server: run or attach, watch, report how they end."""

import asyncio
from collections.abc import Awaitable, Callable

from services.orchestrator.config import OrchestratorConfig
from services.orchestrator.ports import Workspace
from services.orchestrator.react import RunDevServer, RunInstall
from services.orchestrator.rules.detection import BASE_ENV
from services.orchestrator.state import Preview, Vm
from services.orchestrator.telling import Teller
from shared.agent.client import AgentError, AgentUnreachable
from shared.agent.protocol import (
    Answering,
    Erroring,
    Exited,
    JobSpec,
    JobStatus,
    Listening,
    Ready,
    ReadySpec,
    ReadyTimeout,
)
from shared.commands import (
    CheckVm,
    Command,
    FailPreview,
    RecordDevServerExited,
    RecordDevServerReady,
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
}
INSTALL, DEV_SERVER = "install", "dev_server"

Send = Callable[[Command, Cause], Awaitable[None]]


class JobRunner:
    """Runs the jobs of this replica's previews. A job that runs already is attached to, never started twice."""

    def __init__(self, workspace: Workspace, teller: Teller, send: Send, config: OrchestratorConfig) -> None:
        self._workspace = workspace
        self._teller = teller
        self._send = send
        self._config = config

    async def install(self, effect: RunInstall, cause: Cause) -> None:
        """Until the package manager has ended, or the attempt has."""

        async def run(preview: Preview, vm: Vm) -> None:
            # In the last two an earlier try died with half of its report stored: the job is asked again how it ended.
            if preview.found is None or preview.status not in ("installing", "installed", "install_failed"):
                return
            spec = JobSpec(
                argv=preview.found.install_command,
                env=INSTALL_ENV,
                timeout_s=self._config.install_limit_s,
            )
            async with self._teller.telling(effect.preview_id, effect.attempt):
                status = await self._follow(effect.preview_id, effect.attempt, vm, effect.job_id, spec, INSTALL)
            await self._report_install(effect, status, cause)

        await self._while_reachable(effect.preview_id, effect.attempt, cause, run)

    async def dev_server(self, effect: RunDevServer, cause: Cause) -> None:
        """Until the dev server has ended, or the attempt has: this stays open as long as the preview lives."""

        async def run(preview: Preview, vm: Vm) -> None:
            if preview.found is None:
                return
            env = {**BASE_ENV, **preview.found.dev_env}
            spec = JobSpec(argv=preview.found.dev_command, env=env)
            port = (await self._workspace.start_job(vm, effect.job_id, spec)).port
            watching = asyncio.create_task(self._watch_ready(effect, vm, port, cause))
            try:
                status = await self._follow(effect.preview_id, effect.attempt, vm, effect.job_id, spec, DEV_SERVER)
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
            ended = RecordDevServerExited(
                preview_id=effect.preview_id,
                attempt=effect.attempt,
                exit_code=status.exit_code,
                signal=status.signal,
            )
            await self._send(ended, cause)

        await self._while_reachable(effect.preview_id, effect.attempt, cause, run)

    async def _while_reachable(
        self, preview_id: PreviewId, attempt: int, cause: Cause, run: Callable[[Preview, Vm], Awaitable[None]]
    ) -> None:
        """Run, and attach again after the agent was out of reach; the pool is told, and says when the VM is lost."""
        silent = 0
        while (preview := self._teller.running(preview_id, attempt)) is not None and preview.vm is not None:
            vm = preview.vm
            try:
                await run(preview, vm)
            except AgentUnreachable as error:
                silent += 1
                if self._teller.running(preview_id, attempt) is None:
                    return
                check = CheckVm(
                    vm_id=vm.vm_id, healthy=False, detail=str(error)[:200], id=f"{cause.causation_id}-{silent}"
                )
                await self._send(check, cause)
                await asyncio.sleep(self._config.agent_retry_s)
            except AgentError as error:
                failure = FailPreview(
                    preview_id=preview_id, attempt=attempt, code=error.code, message=error.message, hint=error.body.hint
                )
                await self._send(failure, cause)
                return
            else:
                return

    async def _follow(
        self, preview_id: PreviewId, attempt: int, vm: Vm, job_id: str, spec: JobSpec, step: str
    ) -> JobStatus:
        """Start or attach, move the output into the log, and give the status once the job has ended."""
        status = await self._workspace.start_job(vm, job_id, spec)
        offset = await self._teller.next_offset(preview_id, attempt, step)
        lines = self._workspace.read_log(vm, job_id, offset)
        pump = asyncio.create_task(self._teller.pump(preview_id, attempt, step, lines))
        try:
            while status.state == "running":
                status = await self._workspace.wait_job(vm, job_id, WAIT_S)
            # The last lines are on their way; a process that left its pipe open must not hold the news of its end.
            await asyncio.wait({pump}, timeout=self._config.agent_retry_s)
        finally:
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)
        return status

    async def _report_install(self, effect: RunInstall, status: JobStatus, cause: Cause) -> None:
        if status.exit_code == 0:
            took_s = round((status.exited_at or status.started_at) - status.started_at, 3)
            done = RecordInstallCompleted(preview_id=effect.preview_id, attempt=effect.attempt, install_s=took_s)
            await self._send(done, cause)
            return
        code, message, hint = install_failure(status, self._config.install_limit_s)
        await self._send(
            RecordInstallFailed(
                preview_id=effect.preview_id,
                attempt=effect.attempt,
                exit_code=status.exit_code,
                code=code,
                message=message,
                hint=hint,
            ),
            cause,
        )

    async def _watch_ready(self, effect: RunDevServer, vm: Vm, port: int | None, cause: Cause) -> None:
        """Tell how the wait goes; report its end. A process that ends is reported by whoever waits for the job."""
        preview = self._teller.running(effect.preview_id, effect.attempt)
        if preview is None or preview.status != "booting":
            return
        spec = ReadySpec(port=port, timeout_s=self._config.boot_limit_s, error_grace_s=self._config.steady_error_s)
        async with self._teller.telling(effect.preview_id, effect.attempt):
            updates = self._workspace.wait_ready(vm, effect.job_id, spec)
            async for update in updates:
                match update:
                    case Listening(port=port):
                        await self._teller.tick(effect.preview_id, effect.attempt, listening=True, port=port)
                    case Answering(status=status):
                        await self._teller.tick(effect.preview_id, effect.attempt, listening=True, status=status)
                    case Ready() | Erroring() | ReadyTimeout():
                        await self._send(_outcome(effect, update), cause)
                        return
                    case Exited():
                        return
                    case _:
                        continue


def _outcome(effect: RunDevServer, update: Ready | Erroring | ReadyTimeout) -> Command:
    preview_id, attempt = effect.preview_id, effect.attempt
    match update:
        case Ready(host=host, port=port, status=status, elapsed_s=elapsed_s):
            return RecordDevServerReady(
                preview_id=preview_id, attempt=attempt, host=host, port=port, status=status, boot_s=elapsed_s
            )
        case Erroring(status=status):
            return FailPreview(
                preview_id=preview_id,
                attempt=attempt,
                code="dev_server_erroring",
                message=f"The dev server answers, but only with status {status}.",
                hint="The project has an error that its dev server reports; the log names it.",
            )
        case ReadyTimeout(elapsed_s=elapsed_s, reason=reason):
            return FailPreview(
                preview_id=preview_id,
                attempt=attempt,
                code="dev_server_timeout",
                message=f"The dev server did not answer within {elapsed_s:.0f} s: {reason}",
                hint="Does its script start a web server, on localhost or on PORT?",
            )


def install_failure(status: JobStatus, limit_s: float) -> tuple[str, str, str]:
    """(code, message, hint) for an install that did not end with 0."""
    if status.timed_out:
        return (
            "install_timeout",
            f"The install had not ended after {limit_s:g} s.",
            "Is the package registry reachable?",
        )
    if status.exit_code == 127:
        return "package_manager_missing", "The package manager was not found in the VM.", "npm comes with Node."
    if status.signal or status.exit_code == 137:
        return (
            "install_killed",
            f"The install was ended by {status.signal or 'SIGKILL'}.",
            "It may have run out of memory.",
        )
    hint = "The log's last lines are the package manager's own words."
    return "install_failed", f"The package manager ended with code {status.exit_code}.", hint
