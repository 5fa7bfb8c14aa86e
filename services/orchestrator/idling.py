"""Notices which previews nobody uses, and lets effects wait for what happens to one."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from weakref import WeakValueDictionary

from services.orchestrator.config import OrchestratorConfig
from services.orchestrator.state import State
from shared.codec import Recorded
from shared.commands import Command, SuspendPreview
from shared.ids import PreviewId, derive
from shared.ports import Cause


class Changes:
    """What is waited for in one replica: the next event of a preview."""

    def __init__(self) -> None:
        self._awaited: WeakValueDictionary[PreviewId, asyncio.Event] = WeakValueDictionary()

    def on_folded(self, recorded: Recorded) -> None:
        """The state holds this event: whoever waits for one of its preview goes on."""
        awaited = self._awaited.pop(getattr(recorded.event, "preview_id", None) or "", None)
        if awaited is not None:
            awaited.set()

    async def next(self, preview_id: PreviewId) -> None:
        """Return after the next event that names the preview."""
        awaited = self._awaited.get(preview_id)
        if awaited is None:
            awaited = self._awaited[preview_id] = asyncio.Event()
        await awaited.wait()


class Idler:
    """When each preview was last used, as far as this replica has heard. All replicas hear all of it."""

    def __init__(
        self,
        send: Callable[[Command, Cause], Awaitable[None]],
        state: Callable[[], State],
        config: OrchestratorConfig,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._send = send
        self._state = state
        self._config = config
        self._clock = clock
        self._since = clock()
        """What was used before that is not known."""
        self._used_at: dict[PreviewId, float] = {}

    def note(self, preview_id: PreviewId) -> None:
        """Somebody uses this preview now."""
        previews = self._state().previews
        if preview_id in previews:
            self._used_at[preview_id] = self._clock()
        if len(self._used_at) > len(previews):
            self._used_at = {each: at for each, at in self._used_at.items() if each in previews}

    async def suspend_idle(self, cause: Cause) -> None:
        """Ask for the suspension of each preview that has been idle for long enough."""
        if not self._config.suspend_after_s:
            return
        for preview in list(self._state().previews.values()):
            used_at = max(preview.status_at, self._since, self._used_at.get(preview.preview_id, 0.0))
            idle_s = self._clock() - used_at
            if preview.status == "ready" and not preview.resident and idle_s >= self._config.suspend_after_s:
                command_id = derive(cause.causation_id, "suspend", preview.preview_id)
                wish = SuspendPreview(
                    id=command_id, preview_id=preview.preview_id, attempt=preview.attempt, idle_s=idle_s
                )
                await self._send(wish, cause)
