"""Performs the orchestrator's effects through its ports; what comes of them is a command. Every effect may come again
after a crash, and then finds its work under way or done."""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable

import msgspec
from msgspec.structs import replace

from services.orchestrator.config import OrchestratorConfig
from services.orchestrator.jobs import JobRunner
from services.orchestrator.ports import GatewayProbe, ProjectStore, Workspace
from services.orchestrator.react import Confirm, Prepare, RunDevServer, RunInstall, SyncFiles
from services.orchestrator.rules import detection
from services.orchestrator.state import Preview, State, Vm
from services.orchestrator.telling import Teller
from shared import telemetry
from shared.agent.client import AgentError, AgentUnreachable
from shared.agent.protocol import FileEntry, FileSync, SyncResult
from shared.commands import (
    AcquireVm,
    CheckVm,
    ClaimReply,
    Command,
    ConfirmPreview,
    FailPreview,
    RecordFilesSynced,
    RecordProject,
)
from shared.definition import Effect
from shared.errors import Refused, Unavailable
from shared.ids import PreviewId, derive
from shared.ports import Bus, Cause
from shared.project_files import Manifest

log = logging.getLogger("drape.orchestrator")

_claim_reply = msgspec.json.Decoder(ClaimReply)

SYNC_ROUNDS_MAX = 50
"""Versions that one sync effect follows an editor through; the next change starts another."""


class OrchestratorEffects:
    """The effects of one replica."""

    def __init__(
        self,
        bus: Bus,
        workspace: Workspace,
        store: ProjectStore,
        probe: GatewayProbe,
        send: Callable[[Command, Cause], Awaitable[bytes]],
        state: Callable[[], State],
        seq: Callable[[], int],
        *,
        config: OrchestratorConfig,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._workspace = workspace
        self._store = store
        self._probe = probe
        self._send_command = send
        self._state = state
        self._seq = seq
        self._config = config
        self._clock = clock
        self._teller = Teller(bus, state, config, clock)
        self._jobs = JobRunner(workspace, self._teller, self._send, config)
        self._sync_locks: dict[PreviewId, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._synced: dict[PreviewId, tuple[str, Manifest]] = {}

    async def perform(self, effect: Effect, cause: Cause) -> None:
        """Do what the effect says."""
        match effect:
            case Prepare():
                await self._prepare(effect, cause)
            case SyncFiles():
                await self._sync(effect, cause)
            case RunInstall():
                await self._jobs.install(effect, cause)
            case RunDevServer():
                try:
                    await self._jobs.dev_server(effect, cause)
                finally:
                    self._forget(effect.preview_id)
            case Confirm():
                await self._confirm(effect, cause)
            case _:
                raise AssertionError(f"not an effect of the orchestrator: {type(effect).__name__}")

    # --- prepare ----------------------------------------------------------------------------------------------

    async def _prepare(self, effect: Prepare, cause: Cause) -> None:
        async with self._teller.telling(effect.preview_id, effect.attempt):
            detect = asyncio.create_task(self._detect(effect, cause))
            claim = asyncio.create_task(self._claim(effect, cause))
            try:
                await asyncio.gather(detect, claim)
                while self._preparing(effect):
                    await asyncio.sleep(self._config.tick_s)
            finally:
                detect.cancel()
                claim.cancel()

    def _preparing(self, effect: Prepare) -> bool:
        preview = self._teller.running(effect.preview_id, effect.attempt)
        return preview is not None and preview.status == "preparing"

    async def _detect(self, effect: Prepare, cause: Cause) -> None:
        preview = self._teller.running(effect.preview_id, effect.attempt)
        project = self._state().projects.get(preview.project_id) if preview is not None else None
        if preview is None or project is None or preview.found is not None:
            return
        manifest = await self._store.manifest(project.manifest)
        texts = await self._store.read(
            manifest, [p for p in ("package.json", "package-lock.json") if p in manifest.files]
        )
        package = texts.get("package.json")
        lockfile = texts.get("package-lock.json")
        try:
            found = detection.detect(
                manifest.files,
                package.decode("utf-8", "replace") if package is not None else None,
                lockfile.decode("utf-8", "replace") if lockfile is not None else None,
            )
        except Refused as refusal:
            await self._fail(effect.preview_id, effect.attempt, refusal.code, refusal.message, refusal.hint, cause)
            return
        await self._send(
            RecordProject(
                preview_id=effect.preview_id,
                attempt=effect.attempt,
                framework=found.framework,
                version=found.version,
                package_manager=found.package_manager,
                app_root=found.app_root,
                dev_command=found.dev_command,
                dev_env=found.dev_env,
                install_command=found.install_command,
                evidence=found.evidence,
            ),
            cause,
        )

    async def _claim(self, effect: Prepare, cause: Cause) -> None:
        """Ask until the pool has taken the claim; a pool that is away for a moment must not fail the preview."""
        tries = 0
        while (preview := self._teller.running(effect.preview_id, effect.attempt)) is not None and preview.vm is None:
            claim = AcquireVm(
                preview_id=preview.preview_id, owner=preview.owner, timeout_s=self._config.acquire_limit_s
            )
            tries += 1
            claim = replace(claim, id=derive(cause.causation_id, "AcquireVm", tries))
            try:
                reply = _claim_reply.decode(await self._send_command(claim, cause))
            except Unavailable as error:
                tries -= 1
                log.info("pool_unavailable", extra={"preview_id": effect.preview_id, "error": error.message})
            else:
                if reply.vm_id is not None or reply.position > 0:
                    return
                # This very claim was made and has ended before (a restart withdrew it): it takes a new one.
            await asyncio.sleep(self._config.agent_retry_s)

    # --- files ------------------------------------------------------------------------------------------------

    async def _sync(self, effect: SyncFiles, cause: Cause) -> None:
        """Until the VM holds the newest version; one sync of a preview at a time."""
        async with self._sync_locks[effect.preview_id], self._teller.telling(effect.preview_id, effect.attempt):
            for _ in range(SYNC_ROUNDS_MAX):
                preview = self._teller.running(effect.preview_id, effect.attempt)
                project = self._state().projects.get(preview.project_id) if preview is not None else None
                if preview is None or preview.vm is None or project is None:
                    return
                # In these the saga waits for this effect's report: it may have died with half of it stored.
                waited_for = preview.status in ("syncing", "synced", "installed")
                if not waited_for and preview.files_version >= project.files_version:
                    return
                manifest = await self._store.manifest(project.manifest)
                if not await self._sync_version(preview, preview.vm, manifest, cause):
                    return

    async def _sync_version(self, preview: Preview, vm: Vm, manifest: Manifest, cause: Cause) -> bool:
        begun = self._clock()
        try:
            result = await self._bring(preview, vm, manifest)
        except AgentUnreachable as error:
            await self._send(CheckVm(vm_id=vm.vm_id, healthy=False, detail=str(error)[:200]), cause)
            raise Unavailable("agent_unreachable", f"The agent of {vm.vm_id} does not answer.") from error
        except AgentError as error:
            if preview.status != "syncing":
                # An edit that could not be brought in is no reason to end a preview that runs.
                log.warning("edit_not_synced", extra={"preview_id": preview.preview_id, "code": error.code})
                return False
            await self._fail(preview.preview_id, preview.attempt, error.code, error.message, error.body.hint, cause)
            return False
        self._synced[preview.preview_id] = (vm.vm_id, manifest)
        recorded = RecordFilesSynced(
            preview_id=preview.preview_id,
            attempt=preview.attempt,
            files_version=manifest.files_version,
            written=result.written,
            deleted=result.deleted,
            sync_s=round(self._clock() - begun, 4),
        )
        await self._send(replace(recorded, id=derive(cause.causation_id, "synced", manifest.files_version)), cause)
        return True

    async def _bring(self, preview: Preview, vm: Vm, manifest: Manifest) -> SyncResult:
        """Only the changes where it is known what the VM holds, else everything."""
        known = self._synced.get(preview.preview_id)
        if known is not None and known[0] == vm.vm_id:
            before = known[1]
            changed = {p: e for p, e in manifest.files.items() if p not in before.files or before.files[p] != e}
            delta = FileSync(
                version=manifest.files_version,
                base_version=before.files_version,
                files=_entries(manifest, list(changed)),
                delete=tuple(p for p in before.files if p not in manifest.files),
            )
            try:
                return await self._workspace.sync(vm, delta, await self._store.read(manifest, list(changed)))
            except AgentError as error:
                if error.code not in ("files_version_conflict", "content_missing"):
                    raise
        paths = list(manifest.files)
        full = FileSync(version=manifest.files_version, files=_entries(manifest, paths))
        return await self._workspace.sync(vm, full, await self._store.read(manifest, paths))

    def _forget(self, preview_id: PreviewId) -> None:
        self._synced.pop(preview_id, None)
        self._sync_locks.pop(preview_id, None)

    # --- confirm ----------------------------------------------------------------------------------------------

    async def _confirm(self, effect: Confirm, cause: Cause) -> None:
        """Ask through the gateway until it answers below 500, for as long as the step may take."""
        url = self._config.preview_origin.replace("{id}", effect.preview_id) + "/"
        deadline = self._clock() + self._config.confirm_limit_s
        seen = "nothing"
        async with self._teller.telling(effect.preview_id, effect.attempt):
            while (left_s := deadline - self._clock()) > 0:
                preview = self._teller.running(effect.preview_id, effect.attempt)
                if preview is None or preview.status != "confirming":
                    return
                try:
                    status = await self._probe(effect.preview_id, url, self._seq(), left_s)
                except Unavailable as error:
                    seen = error.message
                else:
                    if status < 500:
                        done = ConfirmPreview(preview_id=effect.preview_id, attempt=effect.attempt, url=url)
                        await self._send(done, cause)
                        _measure(preview, self._clock())
                        return
                    seen = f"status {status}"
                await asyncio.sleep(self._config.agent_retry_s)
        message = f"The preview did not answer through the gateway within {self._config.confirm_limit_s:g} s: {seen}."
        await self._fail(
            effect.preview_id, effect.attempt, "gateway_unreachable", message, "Is the gateway running?", cause
        )

    # --- commands ---------------------------------------------------------------------------------------------

    async def _fail(
        self, preview_id: PreviewId, attempt: int, code: str, message: str, hint: str, cause: Cause
    ) -> None:
        failure = FailPreview(preview_id=preview_id, attempt=attempt, code=code, message=message[:500], hint=hint)
        await self._send(failure, cause)

    async def _send(self, command: Command, cause: Cause) -> None:
        command_id = command.id or derive(cause.causation_id, type(command).__name__)
        await self._send_command(replace(command, id=command_id), cause)


def _measure(preview: Preview, now: float) -> None:
    framework = preview.found.framework if preview.found is not None else "unknown"
    attributes: dict[str, str | bool] = {"drape.framework": framework, "drape.from_pool": preview.from_pool}
    telemetry.preview_ready_duration.record(now - preview.attempt_at, attributes)


def _entries(manifest: Manifest, paths: list[str]) -> dict[str, FileEntry]:
    files = manifest.files
    return {p: FileEntry(sha256=files[p].sha256, size=files[p].size, mode=files[p].mode) for p in paths}
