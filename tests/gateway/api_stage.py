"""A stage for the API's tests: the gateway as a process runs it, on a real socket, with the log in memory. The
orchestrator is another process: what it would write is written by the test."""

import asyncio
import io
import tarfile
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec

from services.gateway.app import wiring
from services.gateway.config import GatewayConfig
from services.gateway.react import REACTS_TO
from services.gateway.state import State
from shared.commands import Command, PreviewReply, RequestPreview, RestartPreview, ResumePreview
from shared.errors import DrapeError
from shared.events import Event, PreviewRequested, PreviewRestarted, PreviewResumed, PreviewWanted
from shared.memory import MemoryBroker
from shared.output import LogLine
from shared.ports import Bus, Progress
from shared.runtime import Runtime
from shared.service import running
from shared.settings import Common
from tests.builders import OWNER, PREVIEW, PROJECT
from tests.gateway.proxy_stage import LOOPBACK, free_port_refusing

SECRET = "5e" * 32
TOKEN = "token-of-alice-0123"
TIMEOUT_S = 20.0
TAR = {"Content-Type": "application/x-tar"}

Json = dict[str, Any]


class Answer(msgspec.Struct, frozen=True):
    """An HTTP answer with its whole body."""

    status: int
    text: str

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.text)

    def problem(self) -> tuple[int, str]:
        """(status, code) of problem JSON."""
        assert self.json["status"] == self.status
        return self.status, self.json["code"]


class ApiStage:
    """What a test holds: the gateway's state, the log to write facts into, and a client with alice's token."""

    def __init__(
        self, runtime: Runtime[State], broker: MemoryBroker, bus: Bus, session: aiohttp.ClientSession, port: int
    ) -> None:
        self.runtime = runtime
        self.broker = broker
        self.bus = bus
        self.session = session
        self.url = f"http://{LOOPBACK}:{port}"
        self.commands: list[Command] = []
        self.faults: list[DrapeError] = []
        """Answers to the next commands, instead of what they lead to."""
        self.may_wake = asyncio.Event()
        self.may_wake.set()

    async def call(
        self, method: str, path: str, *, json: Any = None, data: bytes | None = None, token: str = TOKEN
    ) -> Answer:
        headers = {"Authorization": f"Bearer {token}"}
        if json is not None:
            data, headers["Content-Type"] = msgspec.json.encode(json), "application/json"
        elif data is not None:
            headers.update(TAR)
        body = io.BytesIO(data) if data is not None else None
        async with self.session.request(method, self.url + path, data=body, headers=headers) as response:
            return Answer(response.status, await response.text())

    async def project(self, name: str = "shop") -> str:
        """A new project of alice's, without files; gives its id."""
        made = await self.call("POST", "/api/projects", json={"name": name})
        assert made.status == 201, made.text
        return str(made.json["project_id"])

    async def record(self, *events: Event) -> None:
        """Facts of other services; returns once the gateway has read them."""
        for event in events:
            self.broker.record(event)
        await self.runtime.until(len(self.broker.records))

    async def say(self, *lines: LogLine, preview: str = PREVIEW) -> None:
        """What a preview prints, as one batch."""
        await self.bus.preview_logs.append(preview, lines)

    async def tick(self, progress: Progress) -> None:
        await self.bus.progress.publish(progress)

    async def view(self, preview: str = PREVIEW) -> Json:
        answer = await self.call("GET", f"/api/previews/{preview}")
        assert answer.status == 200, answer.text
        return dict(answer.json)

    async def sse(self, path: str, last_id: str = "") -> AsyncGenerator[tuple[str, Json], None]:
        """Server-sent events as (event, data), until the test has enough."""
        headers = {"Accept": "text/event-stream", "Authorization": f"Bearer {TOKEN}", "Last-Event-ID": last_id}
        async with self.session.get(self.url + path, headers=headers) as response:
            assert response.status == 200, await response.text()
            kind = ""
            async for raw in response.content:
                name, _, value = raw.decode().rstrip("\n").partition(": ")
                if name == "event":
                    kind = value
                elif name == "data":
                    yield kind, msgspec.json.decode(value)

    async def orchestrate(self, body: bytes, kind: type[Command]) -> bytes:
        """The orchestrator's side of a command: it is noted, and what it leads to is written."""
        command = msgspec.json.decode(body, type=kind)
        self.commands.append(command)
        if self.faults:
            raise self.faults.pop(0)
        match command:
            case RequestPreview(prepare=False) if PREVIEW in self.runtime.state.previews:
                self.broker.record(PreviewWanted(preview_id=PREVIEW, attempt=1))
                reply = PreviewReply(preview_id=PREVIEW, status="booting", seq=len(self.broker.records))
            case RequestPreview():
                wanted = PreviewRequested(
                    preview_id=PREVIEW,
                    project_id=command.project_id,
                    owner=command.owner,
                    files_version=1,
                    app=command.app,
                    prepare=command.prepare,
                )
                self.broker.record(wanted)
                seq = len(self.broker.records)
                reply = PreviewReply(preview_id=PREVIEW, status="preparing", created=True, seq=seq)
            case RestartPreview(preview_id=preview_id, app=app):
                attempt = self.runtime.state.previews[preview_id].attempt + 1
                self.broker.record(
                    PreviewRestarted(
                        preview_id=preview_id, attempt=attempt, reason="asked", files_version=1, in_place=True, app=app
                    )
                )
                reply = PreviewReply(preview_id=preview_id, status="preparing", seq=len(self.broker.records))
            case ResumePreview(preview_id=preview_id):
                await self.may_wake.wait()
                self.broker.record(PreviewResumed(preview_id=preview_id))
                reply = PreviewReply(preview_id=preview_id, status="ready", seq=len(self.broker.records))
            case _:
                raise AssertionError(f"not expected here: {command}")
        return msgspec.json.encode(reply)


@asynccontextmanager
async def api_stage(*past: Event, **knobs: Any) -> AsyncIterator[ApiStage]:
    """The gateway after these facts, and nobody else. `knobs`: of its config."""
    broker = MemoryBroker()
    for event in past:
        broker.record(event)
    bus = broker.bus({"gateway": REACTS_TO})
    port = free_port_refusing()
    config = GatewayConfig(port=port, **knobs)
    tokens = f"{TOKEN}:{OWNER},token-of-bob-456789:bob"
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with (
        running(wiring(config, tokens), bus, Common(drape_secret=SECRET)) as runtime,
        aiohttp.ClientSession(timeout=timeout) as session,
    ):
        stage = ApiStage(runtime, broker, bus, session, port)
        kinds: Sequence[type[Command]] = (RequestPreview, RestartPreview, ResumePreview)
        served = {kind.verb: _handler(stage, kind) for kind in kinds}
        subscription = await bus.commands.serve("orchestrator", served, {})
        try:
            yield stage
        finally:
            await subscription.stop()


def _handler(stage: ApiStage, kind: type[Command]) -> Any:
    async def handle(body: bytes, _headers: Mapping[str, str]) -> bytes:
        return await stage.orchestrate(body, kind)

    return handle


async def until(condition: Any) -> None:
    """Returns when the condition holds, which the loop's other tasks bring about."""
    async with asyncio.timeout(TIMEOUT_S):
        while not condition():
            await asyncio.sleep(0)


def tar_of(files: Mapping[str, str | bytes], modes: Mapping[str, int] | None = None) -> bytes:
    """A tar of {path: content}."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(path)
            info.size, info.mode = len(data), (modes or {}).get(path, 0o644)
            tar.addfile(info, io.BytesIO(data))
    return raw.getvalue()


__all__ = ["PREVIEW", "PROJECT", "SECRET", "TOKEN", "Answer", "ApiStage", "api_stage", "tar_of", "until"]
