"""The agent's HTTP side: routes, the token, errors as bodies, and the timer that ends an agent nobody calls.

Never: does work itself. Files are brought by files.py, jobs run in jobs.py, readiness is judged in readiness.py.
"""

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
from aiohttp import web

from .cleaning import Cleaner, Place
from .files import ProjectFiles
from .jobs import Job, JobLimits, JobSupervisor, JobWorld
from .processes import rss_bytes
from .protocol import (
    AGENT_VERSION,
    JOB_WAIT_S_MAX,
    LEASE_HEADER,
    PROTOCOLS,
    TRACE_HEADER,
    UNREADABLE,
    AgentProblem,
    CleanSpec,
    ErrorBody,
    Health,
    JobSpec,
    JobStatus,
    ReadinessFinal,
    ReadinessUpdate,
    Ready,
    ReadySpec,
)
from .readiness import ProbeLimits, wait_ready
from .spans import Spans
from .tunnel import TunnelLimits, Tunnels

log = logging.getLogger("drape.agent.server")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Body = TypeVar("Body")
Result = TypeVar("Result", bound=msgspec.Struct)
EXIT_ORPHANED = 75
_BODY_CHUNK_WAIT_S = 60.0
_READY_TIMEOUT_S_MAX = 3600.0


class ServerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Every bound of the HTTP side."""

    orphan_timeout_s: float = 180.0
    request_bytes_max: int = 1024 * 1024
    """Of JSON bodies; file syncs have bounds of their own."""
    log_lines_per_write: int = 256
    heartbeat_s: float = 10.0
    """A followed log that is silent sends an empty line this often, so that both ends notice a dead peer."""
    gone_check_s: float = 1.0
    """How soon a waiting handler notices that its client has gone."""
    grace_s_max: float = 30.0
    shutdown_grace_s: float = 3.0
    refused_body_bytes_max: int = 64 * 1024 * 1024
    """Read past after a refusal, so that the client gets the answer instead of a broken connection."""


class AgentServer:
    """One agent. `run_until_stopped` gives the process's exit code."""

    def __init__(
        self,
        *,
        vm_id: str,
        token: str,
        world: JobWorld,
        files: ProjectFiles,
        place: Place,
        job_limits: JobLimits | None = None,
        limits: ServerLimits | None = None,
        probe_limits: ProbeLimits | None = None,
        tunnel_limits: TunnelLimits | None = None,
    ) -> None:
        self._vm_id = vm_id
        self._expected = f"Bearer {token}".encode()
        self._files = files
        self._limits = limits or ServerLimits()
        self._probe_limits = probe_limits or ProbeLimits()
        self.jobs = JobSupervisor(world, job_limits or JobLimits())
        self._tunnels = Tunnels(self.jobs.everything, self._hear, tunnel_limits)
        self._cleaner = Cleaner(place, self.jobs, files)
        self._spans = Spans()
        self._started_s = time.monotonic()
        self._sync_lock = asyncio.Lock()
        self._active = 0
        self._idle_s = 0.0
        self._stop: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def application(self) -> web.Application:
        """The routes, behind the token."""
        app = web.Application(middlewares=[self._guard], client_max_size=self._limits.request_bytes_max)
        app.add_routes(
            [
                web.get("/health", self._health),
                web.put("/files", self._put_files),
                web.get("/files/{path:.*}", self._get_file),
                web.put("/jobs/{id}", self._put_job),
                web.get("/jobs/{id}", self._get_job),
                web.delete("/jobs/{id}", self._delete_job),
                web.get("/jobs/{id}/log", self._get_log),
                web.post("/jobs/{id}/ready", self._post_ready),
                web.post("/clean", self._post_clean),
                web.get("/tunnel/{port}", self._get_tunnel),
                web.post("/shutdown", self._post_shutdown),
            ]
        )
        return app

    def stop(self, exit_code: int) -> None:
        """Asks the agent to end; the first caller's exit code counts."""
        if not self._stop.done():
            self._stop.set_result(exit_code)

    async def run_until_stopped(self) -> int:
        """Waits for `stop`, then ends every job. Gives the exit code."""
        async with asyncio.TaskGroup() as group:
            orphan = group.create_task(self._watch_contact(), name="orphan timer")
            exit_code = await self._stop
            orphan.cancel()
        await self.jobs.close(self._limits.shutdown_grace_s)
        return exit_code

    async def _watch_contact(self) -> None:
        """Counts the time without contact. Not that in which it was frozen and could not be called."""
        tick_s = min(1.0, self._limits.orphan_timeout_s / 10)
        before_s = time.monotonic()
        while True:
            await asyncio.sleep(tick_s)
            now_s = time.monotonic()
            if not self._active:
                self._idle_s += min(now_s - before_s, 2 * tick_s)
            before_s = now_s
            if self._idle_s >= self._limits.orphan_timeout_s:
                log.error(
                    "nobody has called for too long; ending this VM",
                    extra={"vm_id": self._vm_id, "orphan_timeout_s": self._limits.orphan_timeout_s},
                )
                self.stop(EXIT_ORPHANED)
                return

    # --- every request ---------------------------------------------------------------------------------------------

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, self._expected):
            return _problem(401, ErrorBody(code="unauthorized", message="The token is missing or wrong."))
        self._active += 1
        self._idle_s = 0.0
        try:
            self._check_lease(request)
            return await handler(request)
        except AgentProblem as problem:
            return _problem(problem.status, problem.body)
        except web.HTTPException as error:
            return _problem(error.status, ErrorBody(code=_code_of(error), message=error.reason))
        except UNREADABLE as error:
            return _problem(400, ErrorBody(code="request_invalid", message=f"The request is not as expected: {error}"))
        except ConnectionError:
            raise  # the client has gone; aiohttp ends the connection
        except Exception as error:
            log.exception("a request failed", extra={"method": request.method, "route": _route_of(request)})
            message = f"The agent failed ({type(error).__name__}); its log has the details."
            return _problem(500, ErrorBody(code="internal_error", message=message))
        finally:
            self._active -= 1
            self._idle_s = 0.0

    def _check_lease(self, request: web.Request) -> None:
        """Refuses who held the VM before. Again where a request has waited meanwhile: it may have been emptied."""
        lease = request.headers.get(LEASE_HEADER, "")
        if lease and (not lease.isascii() or not lease.isdecimal() or int(lease[:20]) < self._cleaner.floor):
            raise AgentProblem(409, "lease_over", "This VM is no longer held by who asks.")

    # --- files and health ------------------------------------------------------------------------------------------

    async def _health(self, request: web.Request) -> web.Response:
        return _json(
            Health(
                vm_id=self._vm_id,
                agent_version=AGENT_VERSION,
                uptime_s=round(time.monotonic() - self._started_s, 3),
                orphan_in_s=self._limits.orphan_timeout_s,
                files_version=self._files.version,
                jobs=self.jobs.states(),
                protocols=PROTOCOLS,
                now=time.time(),
            )
        )

    async def _put_files(self, request: web.Request) -> web.Response:
        loop = asyncio.get_running_loop()

        def read() -> bytes:
            """Called in the thread that applies the sync; the event loop brings the next bytes."""
            return asyncio.run_coroutine_threadsafe(_next_chunk(request), loop).result()

        span = self._spans.begin("sync files", _trace_of(request))
        try:
            async with self._sync_lock:
                self._check_lease(request)
                result = await asyncio.to_thread(self._files.apply, read)
        except (AgentProblem, *UNREADABLE) as problem:
            span.end(problem.body.code if isinstance(problem, AgentProblem) else "request_invalid")
            await self._read_past(request)
            raise
        span.end(written=result.written, deleted=result.deleted, unchanged=result.unchanged)
        return _json(self._with_spans(request, result))

    async def _read_past(self, request: web.Request) -> None:
        left = self._limits.refused_body_bytes_max
        try:
            while left > 0 and (chunk := await _next_chunk(request)):
                left -= len(chunk)
        except AgentProblem:
            return  # it ended by itself

    async def _post_clean(self, request: web.Request) -> web.Response:
        spec = await _body(request, CleanSpec)
        span = self._spans.begin("clean vm", _trace_of(request))
        try:
            async with self._sync_lock:
                cleaned = await self._cleaner.clean(spec)
        except AgentProblem as problem:
            span.end(problem.body.code)
            raise
        span.end(bytes=cleaned.bytes)
        return _json(self._with_spans(request, cleaned))

    async def _get_file(self, request: web.Request) -> web.Response:
        data = await asyncio.to_thread(self._files.read, request.match_info["path"])
        return web.Response(body=data, content_type="application/octet-stream")

    # --- jobs ------------------------------------------------------------------------------------------------------

    async def _put_job(self, request: web.Request) -> web.Response:
        spec = await _body(request, JobSpec)
        self._check_lease(request)
        span = self._spans.begin(_job_name(request.match_info["id"]), _trace_of(request))
        job, fresh = await self.jobs.put(request.match_info["id"], spec)
        if fresh:
            self._spans.watch(job.id, job, span)
        return _json(job.status(), 201 if fresh else 200)

    async def _get_job(self, request: web.Request) -> web.Response:
        job = self._job(request)
        deadline_s = time.monotonic() + _number(request, "wait_s", 0.0, JOB_WAIT_S_MAX)
        while not job.exited.is_set() and _present(request) and (left_s := deadline_s - time.monotonic()) > 0:
            await _wait(job.exited, min(left_s, self._limits.gone_check_s))
        return _json(self._with_spans(request, await _status_of(job)))

    async def _delete_job(self, request: web.Request) -> web.Response:
        job = self._job(request)
        await self.jobs.stop(job, _number(request, "grace_s", 3.0, self._limits.grace_s_max))
        return _json(job.status())

    async def _get_log(self, request: web.Request) -> web.StreamResponse:
        log_buffer = self._job(request).log
        offset = int(_number(request, "offset", 0, 2**53))
        follow = request.query.get("follow", "0") == "1"
        response = _stream()
        await response.prepare(request)
        said_s = time.monotonic()
        while _present(request):
            ended = log_buffer.ended
            lines = log_buffer.read(offset, self._limits.log_lines_per_write)
            if lines:
                offset = lines[-1].offset + 1
                await response.write(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
                said_s = time.monotonic()
            elif not follow or ended:
                break
            elif time.monotonic() - said_s >= self._limits.heartbeat_s:
                await response.write(b"\n")
                said_s = time.monotonic()
            else:
                await log_buffer.wait_beyond(offset, self._limits.gone_check_s)
        await response.write_eof()
        return response

    async def _post_ready(self, request: web.Request) -> web.StreamResponse:
        job = self._job(request)
        spec = await _body(request, ReadySpec)
        if not spec.path.startswith("/") or not 0 < spec.timeout_s <= _READY_TIMEOUT_S_MAX:
            raise AgentProblem(
                400, "ready_spec_invalid", "`path` begins with '/', `timeout_s` is above 0, at most 3600."
            )
        await job.started.wait()
        span = self._spans.begin("probe dev server", _trace_of(request))
        response = _stream()
        await response.prepare(request)

        async def emit(update: ReadinessUpdate) -> None:
            if not _present(request):
                raise ConnectionResetError("the client has gone")
            if isinstance(update, Ready):
                self._spans.ready(job.id)
                span.end(status=update.status)
            elif isinstance(update, ReadinessFinal):
                span.end(f"dev_server_{update.__struct_config__.tag}")
            if isinstance(update, ReadinessFinal):
                update = self._with_spans(request, update)
            await response.write(msgspec.json.encode(update) + b"\n")

        try:
            await wait_ready(job, spec, emit, self._probe_limits)
        except* ConnectionError:
            log.debug("a client left before its job was ready", extra={"job_id": job.id})
        else:
            await response.write_eof()
        return response

    async def _post_shutdown(self, request: web.Request) -> web.Response:
        # After the answer has had the time to leave.
        asyncio.get_running_loop().call_later(0.05, self.stop, 0)
        return web.json_response({}, status=202)

    async def _get_tunnel(self, request: web.Request) -> web.StreamResponse:
        # What is asked for and sent through it is contact with the control plane; that it is open is not.
        self._active -= 1
        try:
            return await self._tunnels.serve(request, lambda: self._check_lease(request))
        finally:
            self._active += 1

    def _with_spans(self, request: web.Request, result: Result) -> Result:
        """The answer, and with it what was measured for the trace of who asks."""
        spans = self._spans.take(_trace_of(request))
        return msgspec.structs.replace(result, spans=spans) if spans else result

    def _hear(self) -> None:
        self._idle_s = 0.0

    def _job(self, request: web.Request) -> Job:
        return self.jobs.get(request.match_info["id"])


def _trace_of(request: web.Request) -> str:
    return request.headers.get(TRACE_HEADER, "")


def _job_name(job_id: str) -> str:
    """Of its span. The control plane's ids begin with what the job is."""
    return {"install": "run install", "dev": "start dev server"}.get(job_id.partition("-")[0], "run job")


async def _status_of(job: Job) -> JobStatus:
    if job.exited.is_set():
        return job.status()
    return job.status(await asyncio.to_thread(lambda: rss_bytes(job.members())))


async def _next_chunk(request: web.Request) -> bytes:
    """The next bytes of the body; AgentProblem when they do not come (400 body_broken_off)."""
    try:
        async with asyncio.timeout(_BODY_CHUNK_WAIT_S):
            return await request.content.readany()
    except (TimeoutError, ConnectionError, web.RequestPayloadError) as error:
        raise AgentProblem(400, "body_broken_off", "The body broke off; nothing was lost.", "Send it again.") from error


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return


async def _body(request: web.Request, kind: type[Body]) -> Body:
    return msgspec.json.decode(await request.read() or b"{}", type=kind)


def _number(request: web.Request, name: str, default: float, most: float) -> float:
    text = request.query.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise AgentProblem(400, "request_invalid", f"`{name}` has to be a number that is not negative.")
    return min(value, most)


def _present(request: web.Request) -> bool:
    """False once the client's connection has ended."""
    return request.transport is not None and not request.transport.is_closing()


def _json(value: msgspec.Struct, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")


def _problem(status: int, body: ErrorBody) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/problem+json")


def _stream() -> web.StreamResponse:
    return web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"})


def _code_of(error: web.HTTPException) -> str:
    codes = {404: "route_unknown", 405: "method_not_allowed", 413: "request_too_large"}
    return codes.get(error.status, "request_invalid")


def _route_of(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "?"
