"""Wakes suspended previews: one wish at a time for each, shared by all requests that wait for it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

import msgspec

from services.gateway.adapters.activity import Activity
from services.gateway.config import GatewayConfig
from services.gateway.state import State
from shared.codec import Recorded
from shared.commands import Command, PreviewReply, ResumePreview
from shared.errors import DrapeError, Unavailable
from shared.events import PreviewSuspended
from shared.ids import PreviewId
from shared.ports import Cause
from shared.runtime import Runtime

log = logging.getLogger("drape.gateway")


class Waker:
    """The previews that this gateway is waking."""

    def __init__(
        self,
        runtime: Runtime[State],
        send: Callable[[Command, Cause], Awaitable[bytes]],
        activity: Activity,
        config: GatewayConfig,
    ) -> None:
        self._runtime = runtime
        self._send = send
        self._activity = activity
        self._config = config
        self._waking: dict[PreviewId, asyncio.Task[None]] = {}

    async def wake(self, preview_id: PreviewId) -> None:
        """Returns once our state has the preview awake, or after `wake_wait_s`."""
        if self._sleeps(preview_id):
            # Whoever waits may leave; the preview wakes all the same.
            await asyncio.wait({self._begin(preview_id)}, timeout=self._config.wake_wait_s)

    def on_folded(self, recorded: Recorded) -> None:
        """A preview that is in use here was taken for idle: what opened meanwhile could not be known."""
        event = recorded.event
        if isinstance(event, PreviewSuspended) and self._activity.in_use(event.preview_id):
            self._begin(event.preview_id)

    async def close(self) -> None:
        """Give up what is under way."""
        tasks = list(self._waking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _sleeps(self, preview_id: PreviewId) -> bool:
        preview = self._runtime.state.previews.get(preview_id)
        return preview is not None and preview.status == "suspended"

    def _begin(self, preview_id: PreviewId) -> "asyncio.Task[None]":
        task = self._waking.get(preview_id)
        if task is None:
            task = self._waking[preview_id] = asyncio.create_task(self._wake(preview_id), name=f"wake-{preview_id}")
            task.add_done_callback(lambda _: self._waking.pop(preview_id, None))
        return task

    async def _wake(self, preview_id: PreviewId) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._config.wake_wait_s):
                while self._sleeps(preview_id):
                    try:
                        reply = await self._send(ResumePreview(preview_id=preview_id), Cause(actor="gateway/proxy"))
                        await self._runtime.until(msgspec.json.decode(reply, type=PreviewReply).seq)
                    except Unavailable as error:
                        log.info("wake_unsent", extra={"preview_id": preview_id, "error": error.message})
                        await asyncio.sleep(self._config.wake_retry_s)
                    except DrapeError as error:
                        log.warning("wake_refused", extra={"preview_id": preview_id, "error": error.message})
                        return
