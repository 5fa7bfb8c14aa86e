"""The control plane's side of the wire: one typed method for each of the agent's routes.

Every call has a time-out. A refusal by the agent is an AgentError with its code; anything that keeps the answer from
coming is AgentUnreachable. Never retries: the caller knows how long it wants to
try (all of it is idempotent, by id or version).
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec
from aiohttp.http_exceptions import HttpProcessingError

from .protocol import (
    JOB_WAIT_S_MAX,
    LEASE_HEADER,
    SYNC_HEADER_NAME,
    TRACE_HEADER,
    UNREADABLE,
    Cleaned,
    CleanSpec,
    ErrorBody,
    FileSync,
    Health,
    JobSpec,
    JobStatus,
    LogLine,
    ReadinessUpdate,
    ReadySpec,
    SpanReport,
    SyncResult,
)
from .tarstream import TAR_END, header_of, padding_of

Result = TypeVar("Result")
Contents = AsyncIterator[tuple[str, bytes | AsyncIterator[bytes]]]

_LINE_BYTES_MAX = 1024 * 1024
_WRITE_BYTES = 256 * 1024
_IN_BETWEEN = (502, 503, 504)
"""What a proxy says of an agent that it can't reach."""
_SILENCE_S_MAX = 30.0
"""Streams say something at least every ten seconds; three times that without a byte means that the agent has gone."""


class AgentError(Exception):
    """The agent refused: its stable `code`, a `message` to show, the HTTP `status`, and the whole `body`."""

    def __init__(self, code: str, message: str, status: int, body: ErrorBody | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status
        self.body = body if body is not None else ErrorBody(code=code, message=message)


class AgentUnreachable(Exception):
    """The agent did not answer, or its answer broke off. Asking again may help."""


class AgentClient:
    """Speaks to one agent at `base_url` ("http://127.0.0.1:4711"). The session is the caller's, and may be shared.
    `lease`: of the hold on the VM for which it speaks; 0: for none. `headers`: sent with each request beside its own.
    `trace`: gives the `traceparent` of the moment; `on_spans`: gets that of a request, and what the agent has measured."""

    def __init__(
        self,
        base_url: str,
        token: str,
        session: aiohttp.ClientSession,
        *,
        connect_timeout_s: float = 5.0,
        request_timeout_s: float = 30.0,
        sync_timeout_s: float = 300.0,
        lease: int = 0,
        headers: Iterable[tuple[str, str]] = (),
        trace: Callable[[], str] = str,
        on_spans: Callable[[str, Sequence[SpanReport]], None] | None = None,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        own = {"Authorization": f"Bearer {token}", **({LEASE_HEADER: str(lease)} if lease else {})}
        self._headers = {**dict(headers), **own}
        self._trace = trace
        self._on_spans = on_spans
        self._session = session
        self._connect_timeout_s = connect_timeout_s
        self._request_timeout_s = request_timeout_s
        self._sync_timeout_s = sync_timeout_s

    async def health(self) -> Health:
        """What the agent says of itself; also keeps it alive."""
        return await self._call("GET", "/health", Health)

    async def sync_files(self, sync: FileSync, contents: Contents) -> SyncResult:
        """Brings the project's folder to `sync.version`. `contents` gives (path, bytes) of files that `sync` lists.

        Raises AgentError, among others files_version_conflict (`body.current`) and content_missing (`body.paths`).
        """
        stream = _SyncStream(sync, contents)
        try:
            return await self._call("PUT", "/files", SyncResult, data=stream.chunks(), total_s=self._sync_timeout_s)
        except AgentUnreachable:
            if stream.error is not None:
                raise stream.error from None
            raise

    async def read_file(self, path: str) -> bytes:
        """A file of the project, at most 1 MiB."""
        async with self._request("GET", f"/files/{quote(path)}", total_s=self._request_timeout_s) as response:
            return await response.read()

    async def start_job(self, job_id: str, spec: JobSpec) -> JobStatus:
        """Starts the job, or attaches to the one that has this id and spec."""
        return await self._call("PUT", f"/jobs/{job_id}", JobStatus, data=msgspec.json.encode(spec))

    async def job(self, job_id: str, wait_s: float = 0.0) -> JobStatus:
        """Its status, as soon as it has ended or after `wait_s` (at most 60)."""
        total_s = self._request_timeout_s + min(wait_s, JOB_WAIT_S_MAX)
        return await self._call("GET", f"/jobs/{job_id}", JobStatus, params={"wait_s": str(wait_s)}, total_s=total_s)

    async def wait_job(self, job_id: str) -> JobStatus:
        """Waits until it has ended, however long that takes; put a time-out around it, or into the spec."""
        while (status := await self.job(job_id, JOB_WAIT_S_MAX / 2)).state == "running":
            continue
        return status

    async def log(self, job_id: str, offset: int = 0, *, follow: bool = False) -> AsyncGenerator[LogLine, None]:
        """Its lines from `offset` on; with `follow` until it has ended. Continue a broken stream at last offset + 1."""
        params = {"offset": str(offset), "follow": "1" if follow else "0"}
        async with self._request("GET", f"/jobs/{job_id}/log", params=params) as response:
            async for raw in _lines(response):
                yield msgspec.json.decode(raw, type=LogLine)

    async def stop_job(self, job_id: str, grace_s: float = 3.0) -> JobStatus:
        """Ends its whole process tree. Harmless when that has ended."""
        total_s = self._request_timeout_s + grace_s
        return await self._call(
            "DELETE", f"/jobs/{job_id}", JobStatus, params={"grace_s": str(grace_s)}, total_s=total_s
        )

    async def ready(self, job_id: str, spec: ReadySpec) -> AsyncGenerator[ReadinessUpdate, None]:
        """Updates while the agent waits for the job to answer; the last one is a ReadinessFinal."""
        async with self._request("POST", f"/jobs/{job_id}/ready", data=msgspec.json.encode(spec)) as response:
            async for raw in _lines(response):
                update: ReadinessUpdate = msgspec.json.decode(raw, type=ReadinessUpdate)
                self._take(response, update)
                yield update

    async def clean(self, spec: CleanSpec) -> Cleaned:
        """Empties the VM of all but dependencies. After a refusal (see `CleanSpec`) it is only good for being destroyed."""
        return await self._call("POST", "/clean", Cleaned, data=msgspec.json.encode(spec))

    async def shutdown(self) -> None:
        """Asks the agent to end its jobs and itself."""
        async with self._request("POST", "/shutdown", total_s=self._request_timeout_s):
            return

    async def _call(
        self,
        method: str,
        path: str,
        kind: type[Result],
        *,
        data: Any = None,
        params: dict[str, str] | None = None,
        total_s: float | None = None,
    ) -> Result:
        total_s = total_s if total_s is not None else self._request_timeout_s
        async with self._request(method, path, data=data, params=params, total_s=total_s) as response:
            result = msgspec.json.decode(await response.read(), type=kind)
            self._take(response, result)
            return result

    def _take(self, response: aiohttp.ClientResponse, result: object) -> None:
        spans = getattr(result, "spans", ())
        if spans and self._on_spans is not None:
            self._on_spans(response.request_info.headers.get(TRACE_HEADER, ""), spans)

    def _traced(self) -> dict[str, str]:
        traceparent = self._trace()
        return {TRACE_HEADER: traceparent} if traceparent else {}

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        *,
        data: Any = None,
        params: dict[str, str] | None = None,
        total_s: float | None = None,
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        """`total_s` None: a stream, bounded by its silence instead."""
        timeout = aiohttp.ClientTimeout(
            total=total_s,
            sock_connect=self._connect_timeout_s,
            sock_read=_SILENCE_S_MAX if total_s is None else None,
        )
        try:
            async with self._session.request(
                method,
                self._base_url + path,
                data=data,
                params=params,
                headers={**self._headers, **self._traced()},
                timeout=timeout,
                allow_redirects=False,
                read_bufsize=_LINE_BYTES_MAX,
            ) as response:
                if response.status >= 300:
                    raise _error_of(response.status, await response.read())
                yield response
        except (aiohttp.ClientError, OSError, TimeoutError, HttpProcessingError, *UNREADABLE) as error:
            # HttpProcessingError: a line that is longer than the stream's buffer.
            reason = str(error) or type(error).__name__
            raise AgentUnreachable(f"{method} {path}: the agent did not answer in full: {reason}") from error


class _SyncStream:
    """The body of a sync, made as it is sent. `error` is what went wrong on this side."""

    def __init__(self, sync: FileSync, contents: Contents) -> None:
        self._sync = sync
        self._contents = contents
        self.error: Exception | None = None

    async def chunks(self) -> AsyncIterator[bytes]:
        """The tar stream, in pieces that are worth a system call."""
        buffer = bytearray()
        try:
            async for part in self._parts():
                buffer += part
                if len(buffer) >= _WRITE_BYTES:
                    yield bytes(buffer)
                    buffer.clear()
            yield bytes(buffer)
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except Exception as error:
            self.error = error
            raise

    async def _parts(self) -> AsyncIterator[bytes]:
        header = msgspec.json.encode(self._sync)
        yield header_of(SYNC_HEADER_NAME, len(header)) + header + padding_of(len(header))
        async for path, content in self._contents:
            entry = self._sync.files.get(path)
            if entry is None:
                raise AgentError("content_unexpected", f"{path!r} is not listed in the sync.", 400)
            yield header_of(path, entry.size)
            sent = 0
            if isinstance(content, bytes):
                sent = len(content)
                yield content
            else:
                async for part in content:
                    sent += len(part)
                    yield part
            if sent != entry.size:
                raise AgentError("content_damaged", f"{path!r} has {sent} bytes instead of {entry.size}.", 400)
            yield padding_of(entry.size)
        yield TAR_END


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The lines of a stream, without the empty ones that only show that it lives."""
    while raw := await response.content.readline():
        if raw.strip():
            yield raw


def _error_of(status: int, data: bytes) -> AgentError | AgentUnreachable:
    try:
        body = msgspec.json.decode(data, type=ErrorBody)
    except UNREADABLE:
        if status in _IN_BETWEEN:
            return AgentUnreachable(f"what stands before the agent answered with status {status}")
        body = ErrorBody(code="agent_answer_unknown", message=f"Something answered with status {status}.")
    return AgentError(body.code, body.message, status, body)
