"""What is left of a deleted project, removed: its previews' output, its objects, what is parked of it, and at last the key
that its personal texts in the log are read with."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from services.gateway.state import ENDED, State
from shared.commands import Command, RecordErasure
from shared.errors import Unavailable
from shared.events import PreviewRequested
from shared.ids import OwnerId, PreviewId, ProjectId, derive
from shared.ports import Bus, Cause

log = logging.getLogger("drape.gateway")

QUIET_WAIT_S = 60.0
"""So long its previews may take to end; then the reaction is tried again."""
LOOK_S = 0.2


class Eraser:
    """Everything here can be done twice, and a replica that dies in the middle leaves the rest to the next."""

    def __init__(
        self, bus: Bus, send: Callable[[Command, Cause], Awaitable[bytes]], state: Callable[[], State]
    ) -> None:
        self._bus = bus
        self._send = send
        self._state = state

    async def erase(self, project_id: ProjectId, owner: OwnerId, cause: Cause) -> None:
        """Once its previews have ended, so that nothing more is written. Raises `Unavailable`."""
        await self._until_quiet(project_id)
        previews = await self._previews(project_id)
        batches = sum([await self._bus.preview_logs.erase(preview_id) for preview_id in previews])
        objects = await self._bus.objects.erase(f"{owner}/{project_id}/")
        reactions = await self._drop_parked({project_id, *previews})
        await self._bus.seals.erase(project_id)
        done = RecordErasure(
            id=derive(cause.causation_id, "RecordErasure"),
            project_id=project_id,
            previews=len(previews),
            output_batches=batches,
            objects=objects,
            reactions=reactions,
        )
        await self._send(done, cause)
        log.info("project_erased", extra={"project_id": project_id, "previews": len(previews), "objects": objects})

    async def _until_quiet(self, project_id: ProjectId) -> None:
        try:
            async with asyncio.timeout(QUIET_WAIT_S):
                while self._runs(project_id):
                    await asyncio.sleep(LOOK_S)
        except TimeoutError as error:
            raise Unavailable(
                "previews_live", f"Previews of the deleted project {project_id} have not ended."
            ) from error

    def _runs(self, project_id: ProjectId) -> bool:
        previews = self._state().previews.values()
        return any(each.project_id == project_id and each.status not in ENDED for each in previews)

    async def _previews(self, project_id: ProjectId) -> list[PreviewId]:
        """All that it ever had, from the log: the state forgets those that ended long ago."""
        found: list[PreviewId] = []
        async for each in self._bus.log.read():
            if isinstance(each.event, PreviewRequested) and each.event.project_id == project_id:
                found.append(each.event.preview_id)
        return found

    async def _drop_parked(self, ids: set[str]) -> int:
        """Reasons of failures may quote the project."""
        parked = await self._bus.parked.list()
        about = [each for each in parked if ids & {*each.subject.split("."), *map(str, each.data.values())}]
        for each in about:
            await self._bus.parked.drop(each)
        return len(about)
