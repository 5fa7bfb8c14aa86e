"""Known secrets go in; after a run they are in no log, event, parked reaction, trace, answer or command line."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import msgspec
import psutil
from aiohttp import web

from deploy.local import records
from deploy.nats.permissions import IDENTITIES
from shared.secrets import agent_token
from tests.deploy.waiting import eventually
from tests.live.client import Client, node_project
from tests.live.platform import Platform

OWNERS_TOKEN = "owners-t0ken-of-the-api-012345"
VARIABLE = "value-0f-a-variable-98765"
NPM_TOKEN = "npm_t0ken0fTheProjectsFile4711"
URL_TOKEN = "t0ken-in-an-address-31337"
EXPORT_WAIT_S = 30.0
SERVER = """
import http from 'node:http'
console.log('the key is ' + process.env.API_KEY)
http.createServer((request, response) => response.end('<title>live</title>')).listen(process.env.PORT, '127.0.0.1')
"""


class Recording(Client):
    """A user who keeps every answer."""

    answers: list[bytes]

    async def call(self, *arguments: object, **more: object):  # type: ignore[no-untyped-def]
        """The request, and its answer kept."""
        answer = await super().call(*arguments, **more)  # type: ignore[arg-type]
        self.answers.append(answer.body + str(answer.headers).encode())
        return answer


@asynccontextmanager
async def _answering(handler: object, path: str) -> AsyncIterator[str]:
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_route("*", path, handler)  # type: ignore[arg-type]
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def _nothing_here(_request: web.Request) -> web.Response:
    return web.json_response({"error": "not found"}, status=404)


async def test_secrets_stay_where_they_belong(tmp_path: Path) -> None:
    """Two previews, one that gets ready and one whose install fails on an address with a token; everything is told at the
    level DEBUG, and everything that was told is looked through."""
    traces: list[bytes] = []

    async def collect(request: web.Request) -> web.Response:
        traces.append(await request.read())
        return web.Response()

    async with _answering(collect, "/{path:.*}") as collector, _answering(_nothing_here, "/{path:.*}") as registry:
        platform = Platform(
            tmp_path / "home",
            {
                "DRAPE_API_TOKENS": f"{OWNERS_TOKEN}:alice",
                "DRAPE_LOG_LEVEL": "DEBUG",
                "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{collector}",
            },
        )
        try:
            await asyncio.to_thread(platform.up)
            told = await _run(platform, registry)
            secrets = _secrets(platform)
            told["events"] = b"".join([str(each).encode() for each in await platform.events()])
            told["stored messages"] = await _stored(platform)
        finally:
            await asyncio.to_thread(platform.down)
        await eventually(
            lambda: any(b"process drape.cmd.orchestrator.request" in each for each in traces), EXPORT_WAIT_S
        )
        told["traces"] = b"".join(traces)
    logs = {path.name: path.read_bytes() for path in platform.home.logs.iterdir()}
    assert all(told.values()), [where for where, text in told.items() if not text]
    assert b'"level": "debug"' in logs["orchestrator.log"]
    found = [
        (name, where) for where, text in {**told, **logs}.items() for name, secret in secrets.items() if secret in text
    ]
    assert found == []


async def _run(platform: Platform, registry: str) -> dict[str, bytes]:
    """What a user does, and what the machine shows meanwhile."""
    lines: list[bytes] = []
    async with aiohttp.ClientSession() as session:
        client = Recording(platform.gateway, session, OWNERS_TOKEN)
        client.answers = []
        project_id = await client.project(
            {**node_project(SERVER), ".npmrc": f"//{registry}/:_authToken={NPM_TOKEN}\n"}, name="with-secrets"
        )
        told = await client.call("PATCH", f"/api/projects/{project_id}/env", json={"API_KEY": VARIABLE})
        assert told.status == 200
        preview_id = await client.request_preview(project_id)
        assert (await client.ended(preview_id))["status"] == "ready"
        lines += _command_lines(platform)
        failing = {
            **node_project(SERVER),
            "package.json": json.dumps(
                {
                    "private": True,
                    "scripts": {"dev": "node server.mjs"},
                    "dependencies": {"secretly": f"http://user:{URL_TOKEN}@{registry}/secretly-1.0.0.tgz"},
                }
            ),
            ".npmrc": f"registry=http://{registry}/\n//{registry}/:_authToken={NPM_TOKEN}\n",
        }
        failed = await client.ended(await client.request_preview(await client.project(failing)))
        assert failed["status"] == "failed"
        lines += _command_lines(platform)
        for path in ("/api/projects", "/api/previews", f"/api/projects/{project_id}", "/health/pool", "/metrics/stats"):
            assert (await client.call("GET", path)).status == 200
        wrong = await client.call("POST", "/api/previews", json={"project_id": f"{OWNERS_TOKEN}", "more": 1})
        assert wrong.status in (400, 404)
        client.answers.pop()  # it repeats what was asked, which held the token in a place of its own
        await client.stop(preview_id)
    ran = await platform.drape("doctor", "--json")
    return {"answers": b"".join(client.answers), "command lines": b"\n".join(lines), "doctor": ran.out.encode()}


def _secrets(platform: Platform) -> dict[str, bytes]:
    """By name: what nobody may see."""
    folder = platform.home.secrets
    platforms = (folder / "platform").read_text().strip()
    vms = [path.parent.name for path in platform.home.vms.glob("*/vm.json")]
    assert vms
    found = {
        "the owner's token": OWNERS_TOKEN,
        "a variable": VARIABLE,
        "the token in .npmrc": NPM_TOKEN,
        "the token in an address": URL_TOKEN,
        "DRAPE_SECRET": platforms,
        "the operator's password": (folder / "nats_password").read_text(),
        "PostgreSQL's password": (folder / "postgres_password").read_text(),
        **{f"the seed of {each}": (folder / "nats" / f"{each}.nk").read_text() for each in IDENTITIES},
        **{f"the token of {vm}": agent_token(platforms, vm) for vm in (*vms, "vm-000001", "vm-000002")},
    }
    return {name: value.encode() for name, value in found.items()}


async def _stored(platform: Platform) -> bytes:
    """Every message of every stream but the files themselves, as it is stored; output of projects included."""
    parts: list[bytes] = []
    async with platform.bus() as bus:
        parts += [msgspec.json.encode(each) for each in await bus.parked.list()]
    async with platform.connected("operator") as client:
        js = client.jetstream(timeout=10)
        for name in ("DRAPE_EVENTS", "DRAPE_TIMERS", "DRAPE_LOGS", "DRAPE_PARKED"):
            state = (await js.stream_info(name)).state
            for seq in range(max(1, state.first_seq), state.last_seq + 1):
                with suppress(Exception):  # replaced or expired meanwhile
                    message = await js.get_msg(name, seq=seq)
                    parts.append(f"{message.subject} {message.headers} ".encode() + (message.data or b""))
    return b"\n".join(parts)


def _command_lines(platform: Platform) -> list[bytes]:
    """Of all that this platform started, VMs included; anybody on the machine can read them."""
    found = []
    for process in _processes(platform):
        with suppress(psutil.Error, OSError):  # it has ended
            found.append(Path(f"/proc/{process.pid}/cmdline").read_bytes())
    return found


def _processes(platform: Platform) -> Iterator[psutil.Process]:
    for record in records.read_all(platform.home):
        process = record.process()
        if process is not None:
            yield process
            with suppress(psutil.Error):
                yield from process.children(recursive=True)
    yield from platform.vm_processes()
