"""Performs the orchestrator's effects through its ports; what comes of them is a command. Every effect may come again
after a crash, and then finds its work under way or done."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from services.orchestrator.config import OrchestratorConfig
from services.orchestrator.idling import Changes, Idler
from services.orchestrator.jobs import JobRunner
from services.orchestrator.model import ENDED, Preview, Vm
from services.orchestrator.ports import DepsCache, GatewayProbe, ProjectStore, Workspace
from services.orchestrator.preparing import Preparer
from services.orchestrator.react import (
    ClaimVm,
    Confirm,
    KeepBuild,
    KeepDeps,
    Prepare,
    ProbeHmr,
    RunDevServer,
    RunInstall,
    SuspendIdle,
    SyncFiles,
)
from services.orchestrator.rules.builds import build_request
from services.orchestrator.rules.frameworks import FRAMEWORKS
from services.orchestrator.rules.steps import worth_restoring
from services.orchestrator.state import State
from services.orchestrator.syncing import Syncer
from services.orchestrator.telling import Teller
from shared.codec import Recorded
from shared.commands import Command, ConfirmPreview, FailPreview, RecordHmr
from shared.definition import Effect
from shared.deps import DepsRequest
from shared.errors import Unavailable
from shared.ids import PreviewId, derive
from shared.ports import Bus, Cause

KEEP_TRIES_MAX = 3


class OrchestratorEffects:
    """The effects of one replica."""

    def __init__(
        self,
        bus: Bus,
        workspace: Workspace,
        store: ProjectStore,
        probe: GatewayProbe,
        deps: DepsCache,
        send: Callable[[Command, Cause], Awaitable[bytes]],
        state: Callable[[], State],
        seq: Callable[[], int],
        *,
        config: OrchestratorConfig,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._probe = probe
        self._deps = deps
        self._send_command = send
        self._state = state
        self._seq = seq
        self._config = config
        self._clock = clock
        self._teller = Teller(bus, state, config, clock)
        self._preparer = Preparer(workspace, store, self._teller, self._send, send, state, config)
        self._syncer = Syncer(workspace, store, deps, self._teller, self._send, state, config, clock)
        self._changes = Changes()
        self._idler = Idler(self._send, state, config, clock)
        self._jobs = JobRunner(workspace, store, self._teller, self._changes, self._send, state, config)

    async def perform(self, effect: Effect, cause: Cause) -> None:
        """Do what the effect says."""
        match effect:
            case Prepare():
                await self._preparer.prepare(effect, cause)
            case ClaimVm():
                await self._preparer.claim(effect, cause)
            case SyncFiles():
                await self._syncer.sync(effect, cause)
            case RunInstall():
                await self._jobs.install(effect, cause)
            case RunDevServer():
                try:
                    await self._jobs.dev_server(effect, cause)
                finally:
                    self._forget_ended(effect.preview_id)
            case Confirm():
                await self._confirm(effect, cause)
            case ProbeHmr():
                await self._probe_hmr(effect, cause)
            case KeepDeps():
                await self._keep(effect, _deps_request)
            case KeepBuild():
                await self._keep(effect, build_request)
            case SuspendIdle():
                await self._idler.suspend_idle(cause)
            case _:
                raise AssertionError(f"not an effect of the orchestrator: {type(effect).__name__}")

    def on_folded(self, recorded: Recorded) -> None:
        """The state holds this event now."""
        self._changes.on_folded(recorded)

    def on_activity(self, preview_id: PreviewId) -> None:
        """Somebody uses the preview."""
        self._idler.note(preview_id)

    def _forget_ended(self, preview_id: PreviewId) -> None:
        preview = self._state().previews.get(preview_id)
        if preview is None or preview.status in ENDED:
            self._syncer.forget(preview_id)

    # --- confirm ----------------------------------------------------------------------------------------------

    async def _confirm(self, effect: Confirm, cause: Cause) -> None:
        """Ask through the gateway until it answers below 500, for as long as the step may take."""
        url = self._url_of(effect.preview_id)
        running = self._teller.running(effect.preview_id, effect.attempt)
        running = await self._teller.opened(running) if running is not None else None
        path = running.found.ready_path if running is not None and running.found is not None else "/"
        deadline = self._clock() + self._config.confirm_limit_s
        seen = "nothing"
        async with self._teller.telling(effect.preview_id, effect.attempt):
            while (left_s := deadline - self._clock()) > 0:
                preview = self._teller.running(effect.preview_id, effect.attempt)
                if preview is None or preview.status != "confirming":
                    return
                try:
                    status = await self._probe.page(effect.preview_id, url.rstrip("/") + path, self._seq(), left_s)
                except Unavailable as error:
                    seen = error.message
                else:
                    if status < 500 or preview.with_errors:
                        done = ConfirmPreview(preview_id=effect.preview_id, attempt=effect.attempt, url=url)
                        await self._send(done, cause)
                        return
                    seen = f"status {status}"
                await asyncio.sleep(self._config.agent_retry_s)
        message = f"The preview did not answer through the gateway within {self._config.confirm_limit_s:g} s: {seen}."
        await self._fail(
            effect.preview_id, effect.attempt, "gateway_unreachable", message, "Is the gateway running?", cause
        )

    def _url_of(self, preview_id: PreviewId) -> str:
        return self._config.preview_origin.replace("{id}", preview_id) + "/"

    async def _probe_hmr(self, effect: ProbeHmr, cause: Cause) -> None:
        """Once, after ready. That an editor's changes will not show by themselves is worth knowing, and no failure."""
        preview = self._teller.running(effect.preview_id, effect.attempt)
        if preview is None or preview.status != "ready" or preview.found is None or preview.hmr:
            return
        report = RecordHmr(preview_id=effect.preview_id, attempt=effect.attempt, state="none")
        framework = FRAMEWORKS.get(preview.found.framework)
        if framework is not None and framework.hmr.paths:
            hmr, url = framework.hmr, self._url_of(effect.preview_id)
            limit_s = self._config.hmr_timeout_s
            answer = await self._probe.socket(effect.preview_id, url, self._seq(), hmr.paths, hmr.protocol, limit_s)
            report = replace(report, state=answer.state, path=answer.path, detail=answer.detail)
        await self._send(report, cause)

    # --- dependencies -----------------------------------------------------------------------------------------

    async def _keep(self, effect: KeepDeps | KeepBuild, request: Callable[[Preview, Vm], DepsRequest | None]) -> None:
        """Again where the dev server was writing there: it does so while it warms up, and now and then."""
        for _ in range(KEEP_TRIES_MAX):
            preview = self._teller.running(effect.preview_id, effect.attempt)
            if preview is None or preview.status != "ready" or preview.vm is None:
                return
            asked = request(await self._teller.opened(preview), preview.vm)
            kept = await self._deps.publish(asked) if asked is not None else None
            if kept is None or kept.done or kept.code != "source_changed":
                return
            await asyncio.sleep(self._config.keep_retry_s)

    # --- commands ---------------------------------------------------------------------------------------------

    async def _fail(
        self, preview_id: PreviewId, attempt: int, code: str, message: str, hint: str, cause: Cause
    ) -> None:
        failure = FailPreview(preview_id=preview_id, attempt=attempt, code=code, message=message[:500], hint=hint)
        await self._send(failure, cause)

    async def _send(self, command: Command, cause: Cause) -> None:
        command_id = command.id or derive(cause.causation_id, type(command).__name__)
        await self._send_command(replace(command, id=command_id), cause)


def _deps_request(preview: Preview, vm: Vm) -> DepsRequest | None:
    if preview.found is None:
        return None
    return DepsRequest(
        vm_id=vm.vm_id,
        preview_id=preview.preview_id,
        key=preview.found.deps if worth_restoring(preview) else "",
        manager=preview.found.package_manager,
        unchanged_since=preview.installed_at,
    )
