"""The wait for a dev server: tells how it goes, and reports what it comes to."""

import asyncio
from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from services.orchestrator.config import OrchestratorConfig
from services.orchestrator.model import Preview
from services.orchestrator.ports import Workspace
from services.orchestrator.rules.failures import crashed
from services.orchestrator.telling import Job, Teller
from shared.agent.protocol import Answering, Exited, Listening, Ready, ReadySpec, ReadyTimeout, Unusable, Waiting
from shared.commands import Command, FailPreview, RecordDevServerReady
from shared.ports import Cause
from shared.ulids import new_id

COMPILING_FROM_S = 1.0
"""A first request that takes longer than this is a page that compiles."""
HINTS = {
    "hung": "Its last lines may say what it waits for; a resolver or a database that does not answer is a usual cause.",
    "wrong_interface": "Let it listen on 127.0.0.1 or 0.0.0.0 instead.",
    "redirect_loop": "See its base path, its trailing slashes, or what it does without a login.",
}


class Watcher:
    """Waits for the dev servers of this replica's previews."""

    def __init__(
        self,
        workspace: Workspace,
        teller: Teller,
        send: Callable[[Command, Cause], Awaitable[None]],
        config: OrchestratorConfig,
    ) -> None:
        self._workspace = workspace
        self._teller = teller
        self._send = send
        self._config = config

    async def watch(self, job: Job, path: str, port: int | None, cause: Cause) -> None:
        """Until it answers as it should, or has failed. A process that ends is reported by whoever waits for the job."""
        preview = self._running(job)
        if preview is not None and preview.status == "booting":
            async with self._teller.telling(job.preview_id, job.attempt):
                await self._until_answer(job, path, port, cause)
        await self._until_mended(job, path, port, cause)

    def _running(self, job: Job) -> Preview | None:
        return self._teller.running(job.preview_id, job.attempt)

    def _spec(self, path: str, port: int | None) -> ReadySpec:
        return ReadySpec(
            port=port,
            path=path,
            timeout_s=self._config.boot_limit_s,
            error_grace_s=self._config.steady_error_s,
            hung_s=self._config.hung_s,
        )

    async def _until_answer(self, job: Job, path: str, port: int | None, cause: Cause) -> None:
        preview, clock = self._running(job), asyncio.get_running_loop().time
        begun_s = clock()
        ran_before = preview is not None and preview.template is not None
        if ran_before:
            # It has yet to notice the files that came in under it.
            await asyncio.sleep(self._config.resident_settle_s)
        async for update in self._workspace.wait_ready(job.vm, job.id, self._spec(path, port)):
            match update:
                case Listening(port=open_port):
                    self._teller.note(job.preview_id, phase="starting", port=open_port)
                case Answering(status=status):
                    self._teller.note(job.preview_id, phase="erroring", status=status)
                case Waiting():
                    self._note_waiting(job, update)
                    if not update.listening and await self._fail_crashed(job, cause):
                        return
                case Ready():
                    boot_s = round(clock() - begun_s, 3) if ran_before else update.elapsed_s
                    await self._send(replace(_ready(job, update), boot_s=boot_s), cause)
                case Unusable() | ReadyTimeout():
                    await self._send(self._failure(job, update), cause)
                    # Its VM may be kept for the next try: what does not answer must not go on there.
                    await self._workspace.stop_job(job.vm, job.id)
                case Exited():
                    return

    def _note_waiting(self, job: Job, update: Waiting) -> None:
        compiling = update.asking_s >= COMPILING_FROM_S
        self._teller.note(
            job.preview_id,
            phase="compiling" if compiling else "starting",
            listening=update.listening,
            quiet_s=round(update.quiet_s, 1),
        )

    async def _fail_crashed(self, job: Job, cause: Cause) -> bool:
        """A watcher such as nodemon lives on when its program has crashed; nothing will answer until the next edit."""
        lines = list(job.recent)
        why = crashed([job.mask(line.text) for line in lines])
        if why is None:
            return False
        failure = FailPreview(
            preview_id=job.preview_id,
            attempt=job.attempt,
            code=why.code,
            message=why.message,
            hint=why.hint,
            evidence=tuple(lines[index].offset for index in why.evidence),
            fingerprint=self._teller.fingerprint(why),
        )
        await self._send(failure, cause)
        await self._workspace.stop_job(job.vm, job.id)
        return True

    async def _until_mended(self, job: Job, path: str, port: int | None, cause: Cause) -> None:
        """While the preview shows an error of its project: ask again after each edit, and now and then without one."""
        pause_s = self._config.error_recheck_s
        while (preview := self._running(job)) is not None:
            if preview.status == "ready" and not preview.with_errors:
                return
            if preview.status != "ready":
                await asyncio.sleep(self._config.tick_s)
                continue
            await self._until_edit(job, preview.files_version, pause_s)
            pause_s = min(2 * pause_s, self._config.error_recheck_max_s)
            async for update in self._workspace.wait_ready(job.vm, job.id, self._spec(path, port)):
                if isinstance(update, Ready) and not update.with_errors:
                    # Each is a report of its own: the first of this job was about the error.
                    await self._send(replace(_ready(job, update), id=new_id()), cause)

    async def _until_edit(self, job: Job, files_version: int, limit_s: float) -> None:
        waited_s = 0.0
        while waited_s < limit_s:
            preview = self._running(job)
            if preview is None or preview.files_version != files_version:
                return
            await asyncio.sleep(self._config.tick_s)
            waited_s += self._config.tick_s

    def _failure(self, job: Job, update: Unusable | ReadyTimeout) -> FailPreview:
        if isinstance(update, Unusable):
            code: str = "dev_server_hung" if update.cause == "hung" else update.cause
            message, hint = update.detail, HINTS[update.cause]
        else:
            code = "dev_server_timeout"
            message = f"The dev server did not answer within {update.elapsed_s:.0f} s: {update.reason}"
            hint = "Does its script start a web server, on localhost or on PORT?"
        tail = tuple(line.offset for line in list(job.recent)[-3:])
        return FailPreview(
            preview_id=job.preview_id,
            attempt=job.attempt,
            code=code,
            message=message[:500],
            hint=hint,
            evidence=tail,
        )


def _ready(job: Job, update: Ready) -> RecordDevServerReady:
    return RecordDevServerReady(
        preview_id=job.preview_id,
        attempt=job.attempt,
        host=update.host,
        port=update.port,
        status=update.status,
        boot_s=update.elapsed_s,
        with_errors=update.with_errors,
        detail=update.detail[:300],
    )
