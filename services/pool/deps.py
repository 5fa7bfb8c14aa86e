"""Keeps what an install gave, and puts it into the next VM of the same owner that asks for the same.

Answers queries; never events. Only the preview that holds a VM may ask about it, so one owner's trees reach no other.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from services.pool.state import State, Vm
from shared.deps import DepsAnswer, DepsRequest
from shared.errors import UNREADABLE, Invalid, Refused
from shared.ids import OwnerId, ProjectId

log = logging.getLogger("drape.pool")

AT_ONCE_MAX = 2
"""Copies under way: they are bound by the disk."""

_request = msgspec.json.Decoder(DepsRequest)


class Platform(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What an install depends on beside the project. `abi`: of Node's native modules; `registry`: where packages come
    from; empty: the manager's own."""

    system: str
    machine: str
    libc: str
    node: str
    abi: str
    registry: str = ""


class DepsStore(Protocol):
    """Where installs are kept, and how they get in and out of a VM. All verbs block."""

    def publish(self, owner: OwnerId, key: str, asked: DepsRequest) -> DepsAnswer:
        """Keep the VM's `node_modules` folders under the key, where there is one, and what the manager has fetched; or
        the folders that are named."""
        ...

    def restore(self, owner: OwnerId, key: str, asked: DepsRequest) -> DepsAnswer:
        """Put what is kept under the key into the VM; where no install is, what the manager has fetched for the owner."""
        ...

    def prepare(self, owner: OwnerId, key: str) -> None:
        """Do ahead of the next restore what can be done."""
        ...

    def forget(self, project_id: ProjectId) -> int:
        """Remove what is this project's alone, and say how many entries that were."""
        ...


class Deps:
    """The pool's answers about dependencies. `platform`: found out while the pool starts, so that no preview waits for it;
    `prepare_after_s`: pause before the next restore is prepared, so that this
    one's dev server starts first."""

    def __init__(
        self, store: DepsStore, state: Callable[[], State], platform: asyncio.Future[Platform], prepare_after_s: float
    ) -> None:
        self._store = store
        self._state = state
        self._platform = platform
        self._prepare_after_s = prepare_after_s
        self._places = asyncio.Semaphore(AT_ONCE_MAX)
        self._preparing: dict[str, asyncio.Task[None]] = {}

    async def restore(self, body: bytes, _headers: Mapping[str, str]) -> bytes:
        """`DepsRequest` to `DepsAnswer`. Raises `Refused` where the preview does not hold the VM."""
        return await self._answer(body, self._store.restore)

    async def publish(self, body: bytes, _headers: Mapping[str, str]) -> bytes:
        """`DepsRequest` to `DepsAnswer`. Raises `Refused` where the preview does not hold the VM."""
        return await self._answer(body, self._store.publish)

    async def _answer(self, body: bytes, verb: Callable[[OwnerId, str, DepsRequest], DepsAnswer]) -> bytes:
        try:
            asked = _request.decode(body)
        except UNREADABLE as error:
            raise Invalid("bad_query", f"The request is not valid: {error}.") from error
        owner = self._holder(asked)
        async with self._places:
            begun = time.monotonic()
            platform = await asyncio.shield(self._platform)
            key = deps_key(owner, asked.key, platform) if asked.key else ""
            answer = await asyncio.to_thread(verb, owner, key, asked)
        if answer.done and not asked.trees and key not in self._preparing:
            self._preparing[key] = asyncio.create_task(self._prepare(owner, key))
        answer = msgspec.structs.replace(answer, took_s=round(time.monotonic() - begun, 4))
        log.debug("deps", extra={"vm_id": asked.vm_id, "verb": verb.__name__, "code": answer.code})
        return msgspec.json.encode(answer)

    async def forget(self, project_id: ProjectId) -> None:
        """The project was deleted: what holds code of its files goes with it."""
        count = await asyncio.to_thread(self._store.forget, project_id)
        log.debug("builds_forgotten", extra={"project_id": project_id, "count": count})

    async def _prepare(self, owner: OwnerId, key: str) -> None:
        try:
            await asyncio.sleep(self._prepare_after_s)
            async with self._places:
                await asyncio.to_thread(self._store.prepare, owner, key)
        finally:
            del self._preparing[key]

    async def close(self) -> None:
        """Prepare nothing more."""
        for task in list(self._preparing.values()):
            task.cancel()
        await asyncio.gather(*self._preparing.values(), return_exceptions=True)

    def _holder(self, asked: DepsRequest) -> OwnerId:
        vm: Vm | None = self._state().vms.get(asked.vm_id)
        if vm is None or vm.owner is None or vm.preview_id != asked.preview_id or vm.status != "acquired":
            raise Refused("vm_not_held", f"The preview {asked.preview_id[:64]} does not hold {asked.vm_id[:64]}.")
        return vm.owner


def deps_key(owner: OwnerId, fingerprint: str, platform: Platform) -> str:
    """SHA-256 over all that decides what an install gives. `fingerprint`: lockfile, manifests, manager, patches and
    registry settings, as detection read them."""
    return hashlib.sha256(msgspec.json.encode([owner, fingerprint, platform])).hexdigest()
