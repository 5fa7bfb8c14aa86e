"""Brings a VM up to the newest version of its project's files, and sees what an edit asks for beside that."""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection

import msgspec
from msgspec.structs import replace

from services.orchestrator.config import OrchestratorConfig
from services.orchestrator.model import Preview, Vm
from services.orchestrator.ports import DepsCache, ProjectStore, Workspace
from services.orchestrator.preparing import detect_in
from services.orchestrator.react import SyncFiles
from services.orchestrator.rules.builds import build_cache, build_request
from services.orchestrator.rules.edits import needs_restart
from services.orchestrator.rules.residents import takes_in
from services.orchestrator.state import State
from services.orchestrator.telling import Teller, began_anew, unreachable
from shared.agent.client import AgentError, AgentUnreachable
from shared.agent.protocol import FileEntry, FileSync, SyncResult
from shared.commands import Command, FailPreview, RecordFilesSynced
from shared.deps import DepsAnswer, DepsRequest
from shared.errors import NotFound, Refused, Unavailable
from shared.ids import PreviewId, ProjectId, VmId, derive
from shared.ports import Cause
from shared.project_files import Entry, Manifest

log = logging.getLogger("drape.orchestrator")

SYNC_ROUNDS_MAX = 50
"""Versions that one sync effect follows an editor through; the next change starts another."""


class VmBeganAnew(Exception):
    """A VM that held files has none: it has booted again."""


class _Held(msgspec.Struct, frozen=True):
    """The files of this project that a VM holds."""

    vm_id: VmId
    project_id: ProjectId
    manifest: Manifest


class Syncer:
    """File syncs of this replica's previews: one of a preview at a time."""

    def __init__(
        self,
        workspace: Workspace,
        store: ProjectStore,
        deps: DepsCache,
        teller: Teller,
        send: Callable[[Command, Cause], Awaitable[None]],
        state: Callable[[], State],
        config: OrchestratorConfig,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._workspace = workspace
        self._store = store
        self._deps = deps
        self._teller = teller
        self._send = send
        self._state = state
        self._config = config
        self._clock = clock
        self._locks: dict[PreviewId, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._synced: dict[PreviewId, _Held] = {}

    def forget(self, preview_id: PreviewId) -> None:
        """The preview needs no more syncs for now; the next one sends the whole list."""
        self._synced.pop(preview_id, None)
        self._locks.pop(preview_id, None)

    async def sync(self, effect: SyncFiles, cause: Cause) -> None:
        """Until the VM holds the newest version."""
        async with self._locks[effect.preview_id], self._teller.telling(effect.preview_id, effect.attempt):
            for _ in range(SYNC_ROUNDS_MAX):
                preview = self._teller.running(effect.preview_id, effect.attempt)
                project = self._state().projects.get(preview.project_id) if preview is not None else None
                if preview is None or preview.vm is None or project is None or preview.status == "suspended":
                    return  # the last: it is woken for what it lacks
                # In these the saga waits for this effect's report: it may have died with half of it stored.
                waited_for = preview.status in ("syncing", "synced", "installed")
                if not waited_for and preview.files_version >= project.files_version:
                    return
                manifest = await self._store.manifest(project.manifest)
                if not await self._sync_version(await self._teller.opened(preview), preview.vm, manifest, cause):
                    return

    async def _sync_version(self, preview: Preview, vm: Vm, manifest: Manifest, cause: Cause) -> bool:
        begun = self._clock()
        held = await self._held(preview, vm)
        changed = _changed(held.manifest, manifest) if held is not None else set()
        restoring = asyncio.create_task(self._restore(preview, vm))
        try:
            result = await self._bring(preview, vm, manifest, held)
            restored = await restoring
            build = await self._restore_build(preview, vm, restored)
        except VmBeganAnew:
            await self._send(began_anew(vm), cause)
            return False  # the pool gives it up, and the preview begins again in another
        except AgentUnreachable as error:
            await self._send(unreachable(vm, error), cause)
            raise Unavailable("agent_unreachable", f"The agent of {vm.vm_id} does not answer.") from error
        except AgentError as error:
            await self._refused(preview, error, cause)
            return False
        finally:
            # It must have ended before anything else is done with the VM, whatever came of the files.
            await asyncio.wait({restoring})
        self._synced[preview.preview_id] = _Held(vm.vm_id, preview.project_id, manifest)
        recorded = RecordFilesSynced(
            preview_id=preview.preview_id,
            attempt=preview.attempt,
            files_version=manifest.files_version,
            written=result.written,
            deleted=result.deleted,
            sync_s=round(self._clock() - begun, 4),
            restored=preview.found.deps if preview.found is not None and restored.done else "",
            restore_s=restored.took_s if restored.done else 0.0,
            build=build,
            needs_restart=await self._needs_restart(preview, manifest, changed),
        )
        await self._send(replace(recorded, id=derive(cause.causation_id, "synced", manifest.files_version)), cause)
        return True

    async def _restore(self, preview: Preview, vm: Vm) -> DepsAnswer:
        """In a new VM, beside the files: the dependencies of an earlier install, where it is kept."""
        found = preview.found
        if found is None or not found.install_command or preview.status != "syncing":
            return DepsAnswer(done=False)
        if preview.in_place or preview.template is not None:
            return DepsAnswer(done=False)
        if preview.installed:
            return DepsAnswer(done=False)  # the VM was kept for them
        key = found.deps if found.keeps else ""
        return await self._deps.restore(
            DepsRequest(vm_id=vm.vm_id, preview_id=preview.preview_id, key=key, manager=found.package_manager)
        )

    async def _restore_build(self, preview: Preview, vm: Vm, restored: DepsAnswer) -> bool:
        """After the files, which sweep away what they don't list, and only beside dependencies that it was made with."""
        new_to_it = preview.status == "syncing" and not preview.in_place and preview.template is None
        asked = build_request(preview, vm) if new_to_it and (restored.done or preview.installed) else None
        return asked is not None and (await self._deps.restore(asked)).done

    async def _refused(self, preview: Preview, error: AgentError, cause: Cause) -> None:
        if preview.status != "syncing":
            # An edit that could not be brought in is no reason to end a preview that runs.
            log.warning("edit_not_synced", extra={"preview_id": preview.preview_id, "code": error.code})
            return
        failure = FailPreview(
            preview_id=preview.preview_id,
            attempt=preview.attempt,
            code=error.code,
            message=error.message[:500],
            hint=error.body.hint,
        )
        await self._send(failure, cause)

    async def _needs_restart(self, preview: Preview, manifest: Manifest, changed: Collection[str]) -> bool:
        """Of a first sync only where the files may be newer than what was detected: nothing has read them yet."""
        if preview.found is None:
            return False
        if preview.status == "syncing" and preview.template is not None and not takes_in(preview.found, changed):
            return True
        if preview.status == "syncing" and preview.template is None:
            changed = ()
            if manifest.files_version == preview.files_version:
                return False
        try:
            now = await detect_in(self._store, manifest, preview, self._config)
        except Refused as refusal:
            # Half-way through an edit, as likely as not; a restart would turn it into a failure.
            log.info("edit_not_detected", extra={"preview_id": preview.preview_id, "code": refusal.code})
            now = None
        return needs_restart(preview.found, now, changed)

    async def _held(self, preview: Preview, vm: Vm) -> _Held | None:
        """What the VM holds: remembered, or as the log has it for a replica that comes new to the preview."""
        held = self._synced.get(preview.preview_id)
        if held is not None and held.vm_id == vm.vm_id:
            return held
        if preview.template is not None and preview.status == "syncing":
            project_id, name = preview.template.project_id, preview.template.manifest
        elif preview.status != "syncing" and preview.manifest:
            project_id, name = preview.project_id, preview.manifest
        else:
            return None
        try:
            return _Held(vm.vm_id, project_id, await self._store.manifest(name))
        except NotFound:
            return None  # replaced, and collected since: the whole list puts everything right

    async def _bring(self, preview: Preview, vm: Vm, manifest: Manifest, held: _Held | None) -> SyncResult:
        """Only the changes where it is known what the VM holds, else everything."""
        project_id = preview.project_id
        if held is not None:
            before = held.manifest
            changed = [p for p in _changed(before, manifest) if p in manifest.files]
            delta = FileSync(
                version=manifest.files_version,
                project=project_id,
                base_version=before.files_version,
                base_project=held.project_id,
                files=_entries(manifest, changed),
                delete=tuple(p for p in before.files if p not in manifest.files),
            )
            try:
                return await self._workspace.sync(vm, delta, await self._store.read(manifest, changed))
            except AgentError as error:
                if error.code not in ("files_version_conflict", "content_missing"):
                    raise
                if error.body.current == 0:
                    raise VmBeganAnew(vm.vm_id) from error
        paths = list(manifest.files)
        build = build_cache(preview)
        full = FileSync(
            version=manifest.files_version,
            project=project_id,
            files=_entries(manifest, paths),
            keep=build.trees if build is not None else (),
        )
        return await self._workspace.sync(vm, full, await self._store.read(manifest, paths))


def _changed(before: Manifest, after: Manifest) -> set[str]:
    """The paths that were written or deleted in between."""
    paths = before.files.keys() | after.files.keys()
    return {path for path in paths if _content(before.files.get(path)) != _content(after.files.get(path))}


def _content(entry: Entry | None) -> tuple[str, int] | None:
    """What makes two files the same, wherever their bytes are stored."""
    return (entry.sha256, entry.mode) if entry is not None else None


def _entries(manifest: Manifest, paths: list[str]) -> dict[str, FileEntry]:
    files = manifest.files
    return {p: FileEntry(sha256=files[p].sha256, size=files[p].size, mode=files[p].mode) for p in paths}
