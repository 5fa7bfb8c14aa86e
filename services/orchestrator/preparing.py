"""Before a preview's files can go anywhere: what the project is, and a VM for it, found side by side."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec
from msgspec.structs import replace

from services.orchestrator.config import OrchestratorConfig
from services.orchestrator.model import Preview
from services.orchestrator.ports import ProjectStore, Workspace
from services.orchestrator.react import ClaimVm, Prepare
from services.orchestrator.rules import detection, memory, residents
from services.orchestrator.state import State
from services.orchestrator.telling import Teller
from shared.agent.client import AgentError, AgentUnreachable
from shared.commands import AcquireVm, ClaimReply, Command, FailPreview, RecordProject
from shared.errors import Invalid, Refused, Unavailable
from shared.ids import derive
from shared.ports import Cause
from shared.project_files import Manifest

log = logging.getLogger("drape.orchestrator")

_claim_reply = msgspec.json.Decoder(ClaimReply)

Send = Callable[[Command, Cause], Awaitable[None]]


class Preparer:
    """Detection and the claim of this replica's previews."""

    def __init__(
        self,
        workspace: Workspace,
        store: ProjectStore,
        teller: Teller,
        send: Send,
        request: Callable[[Command, Cause], Awaitable[bytes]],
        state: Callable[[], State],
        config: OrchestratorConfig,
    ) -> None:
        self._workspace = workspace
        self._store = store
        self._teller = teller
        self._send = send
        self._request = request
        self._state = state
        self._config = config

    async def prepare(self, effect: Prepare, cause: Cause) -> None:
        """Until the project is known and a VM is held, or the attempt is over."""
        async with self._teller.telling(effect.preview_id, effect.attempt):
            detect = asyncio.create_task(self._detect(effect, cause))
            claim = asyncio.create_task(self._claim(effect, cause, detect))
            try:
                await asyncio.gather(detect, claim)
                while self._preparing(effect):
                    await asyncio.sleep(self._config.tick_s)
            finally:
                detect.cancel()
                claim.cancel()

    async def claim(self, effect: ClaimVm, cause: Cause) -> None:
        """Until the pool has taken the claim, or the attempt is over."""
        await self._ask(effect, cause)

    def _preparing(self, effect: Prepare) -> bool:
        preview = self._teller.running(effect.preview_id, effect.attempt)
        return preview is not None and preview.status == "preparing"

    async def _stop_earlier(self, effect: Prepare) -> None:
        """In a VM that was kept, whatever the attempt before has left running."""
        preview = self._teller.running(effect.preview_id, effect.attempt)
        if preview is None or not preview.in_place or preview.vm is None or preview.status != "preparing":
            return
        before = preview.attempt - 1
        try:
            jobs = (f"install-{before}", f"install-{before}-retry", f"dev-{before}")
            await asyncio.gather(*(self._workspace.stop_job(preview.vm, job_id) for job_id in jobs))
        except (AgentUnreachable, AgentError) as error:
            # Whether the VM can still be used shows in the next step, which says so to the pool.
            log.warning("earlier_job_not_stopped", extra={"preview_id": preview.preview_id, "error": str(error)[:200]})

    async def _detect(self, effect: Prepare, cause: Cause) -> None:
        """What comes of it begins the next step, so it is told once the VM is quiet."""
        outcome, _ = await asyncio.gather(self._outcome(effect), self._stop_earlier(effect))
        if outcome is not None:
            await self._send(outcome, cause)

    async def _outcome(self, effect: Prepare) -> RecordProject | FailPreview | None:
        preview = self._teller.running(effect.preview_id, effect.attempt)
        project = self._state().projects.get(preview.project_id) if preview is not None else None
        if preview is None or project is None:
            return None
        manifest = await self._store.manifest(project.manifest)
        try:
            opened = await self._teller.opened(preview)
            found = await detect_in(self._store, manifest, opened, self._config)
        except Refused as refusal:
            return _refusal(effect, refusal)
        return _record(effect, found)

    async def _claim(self, effect: Prepare, cause: Cause, detect: asyncio.Task[None]) -> None:
        """Ask until the pool has taken the claim; a pool that is away for a moment must not fail the preview."""
        await self._until_known(effect, detect)
        await self._ask(effect, cause)

    async def _ask(self, effect: Prepare | ClaimVm, cause: Cause) -> None:
        tries = 0
        while (preview := self._teller.running(effect.preview_id, effect.attempt)) is not None and preview.vm is None:
            resident = await self._fitting(preview)
            need = memory.need(self._state(), preview)
            claim = AcquireVm(
                preview_id=preview.preview_id,
                owner=preview.owner,
                timeout_s=self._config.acquire_limit_s,
                resident=resident.preview_id if resident is not None else "",
                key=preview.found.deps if preview.found is not None and preview.found.keeps else "",
                memory_mb=need.memory_mb,
                region=need.region,
                image=need.image,
            )
            tries += 1
            claim = replace(claim, id=derive(cause.causation_id, "AcquireVm", tries))
            try:
                reply = _claim_reply.decode(await self._request(claim, cause))
            except Unavailable as error:
                tries -= 1
                log.info("pool_unavailable", extra={"preview_id": effect.preview_id, "error": error.message})
            except Invalid as refusal:  # there is no such VM
                await self._send(_refusal(effect, refusal), cause)
                return
            else:
                if reply.vm_id is not None or reply.position > 0:
                    return
                # This very claim was made and has ended before (a restart withdrew it): it takes a new one.
            await asyncio.sleep(self._config.agent_retry_s)

    async def _fitting(self, preview: Preview) -> Preview | None:
        """Two projects' commands are sealed with two keys: only opened can they be compared."""
        candidates = list(residents.candidates(self._state(), preview))
        if not candidates:
            return None
        opened = [await self._teller.opened(each) for each in (preview, *candidates)]
        return residents.first_fitting(opened[1:], opened[0])

    async def _until_known(self, effect: Prepare, detect: asyncio.Task[None]) -> None:
        """Worth a wait only where a VM that fits may be there: one that was kept for the owner, or a resident's."""
        preview = self._teller.running(effect.preview_id, effect.attempt)
        if preview is None:
            return
        state = self._state()
        if memory.depends_on_detection(state, preview):
            await asyncio.wait({detect}, timeout=self._config.acquire_limit_s)
        elif preview.owner in state.kept.values() or residents.may_fit(state, preview):
            await asyncio.wait({detect}, timeout=self._config.key_wait_s)


async def detect_in(
    store: ProjectStore, manifest: Manifest, preview: Preview, config: OrchestratorConfig
) -> detection.Detection:
    """What detection says of this version. Raises `Refused` where it is nothing that can be shown."""
    wanted = [path for path in detection.wanted_files(manifest.files) if path in manifest.files]
    contents = await store.read(manifest, wanted)
    texts = {path: data[: detection.TEXT_BYTES_MAX].decode("utf-8", "replace") for path, data in contents.items()}
    return await asyncio.to_thread(
        detection.detect, manifest.files, texts, app=preview.app, default_node=config.default_node_major
    )


def _refusal(effect: Prepare | ClaimVm, refusal: Refused) -> FailPreview:
    return FailPreview(
        preview_id=effect.preview_id,
        attempt=effect.attempt,
        code=refusal.code,
        message=refusal.message[:500],
        hint=refusal.hint,
        choices=refusal.choices if isinstance(refusal, detection.AppChoiceNeeded) else (),
    )


def _record(effect: Prepare, found: detection.Detection) -> RecordProject:
    return RecordProject(
        preview_id=effect.preview_id,
        attempt=effect.attempt,
        framework=found.framework,
        version=found.version,
        package_manager=found.package_manager,
        package_manager_version=found.package_manager_version,
        app_root=found.app_root,
        install_root=found.install_root,
        dev_command=found.dev_command,
        dev_env=found.dev_env,
        install_command=found.install_command,
        install_retry_command=found.install_retry_command,
        install_env=found.install_env,
        node_version=found.node_version,
        deps=found.deps,
        keeps=found.keeps,
        ready_path=found.ready_path,
        restart_on=found.restart_on,
        memory_mb=found.memory_mb,
        warnings=found.warnings,
        evidence=found.evidence,
    )
