"""Performs the gateway's effects through its ports."""

import logging
from collections.abc import Awaitable, Callable

import msgspec

from services.gateway.erasing import Eraser
from services.gateway.react import CollectEnv, CollectFiles, EraseProject
from services.gateway.state import State
from shared.commands import Command
from shared.definition import Effect
from shared.errors import NotFound
from shared.ports import Bus, Cause
from shared.project_files import Manifest

log = logging.getLogger("drape.gateway")

_manifest = msgspec.json.Decoder(Manifest)


class GatewayEffects:
    """Removes stored files and variables that nothing refers to any more."""

    def __init__(
        self, bus: Bus, send: Callable[[Command, Cause], Awaitable[bytes]], state: Callable[[], State]
    ) -> None:
        self._objects = bus.objects
        self._state = state
        self._eraser = Eraser(bus, send, state)

    async def perform(self, effect: Effect, cause: Cause) -> None:
        """Do what the effect says; idempotent."""
        match effect:
            case CollectFiles(project_id, manifest):
                await self._collect(project_id, manifest)
            case EraseProject(project_id, owner):
                await self._eraser.erase(project_id, owner, cause)
            case CollectEnv(project_id, env):
                project = self._state().projects.get(project_id)
                if project is None or project.env != env:
                    await self._objects.delete(env)
            case _:
                raise AssertionError(f"not an effect of the gateway: {type(effect).__name__}")

    async def _collect(self, project_id: str, manifest: str) -> None:
        project = self._state().projects.get(project_id)
        if project is not None and project.manifest == manifest:
            return  # it is the present one: the project went back to it
        old = await self._bundles(manifest)
        kept = await self._bundles(project.manifest) if project is not None else set()
        for name in sorted(old - kept):
            await self._objects.delete(name)
        await self._objects.delete(manifest)
        log.info("files_collected", extra={"project_id": project_id, "bundles": len(old - kept)})

    async def _bundles(self, manifest: str) -> set[str]:
        try:
            files = _manifest.decode(await self._objects.get(manifest)).files
        except NotFound:
            return set()
        return {entry.bundle for entry in files.values()}
