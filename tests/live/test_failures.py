"""Every cause of failure, produced for real: small projects that fail in a VM, and what the platform says of each."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import aiohttp
import psutil
import pytest

from tests.live.client import SERVER, Client, node_project
from tests.live.conftest import running
from tests.live.platform import Json, Platform

INSTALL_LIMIT_S = 15
"""Longer than the installs of these projects take, and what a registry that never answers costs the test."""
HUNG_S = 4
OUTSIDE = [
    each.address
    for found in psutil.net_if_addrs().values()
    for each in found
    if each.family == socket.AF_INET and not each.address.startswith("127.")
]
Files = dict[str, str | bytes]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform with short limits; the tests of this file share it."""
    limits = {
        "DRAPE_ORCHESTRATOR_INSTALL_LIMIT_S": str(INSTALL_LIMIT_S),
        "DRAPE_ORCHESTRATOR_BOOT_LIMIT_S": "30",
        "DRAPE_ORCHESTRATOR_HUNG_S": str(HUNG_S),
        "DRAPE_ORCHESTRATOR_FAILED_KEEP_S": "1",
        "DRAPE_POOL_TARGET": "2",
    }
    yield from running(tmp_path_factory.mktemp("failures") / "home", limits)


@pytest.fixture
async def client(platform: Platform) -> AsyncIterator[Client]:
    """A user of that platform."""
    async with aiohttp.ClientSession() as session:
        yield Client(platform.gateway, session)


def package(**fields: object) -> str:
    """package.json of a project whose dev server would work."""
    return json.dumps({"name": "live", "private": True, "scripts": {"dev": "node server.mjs"}, **fields})


def installing(more: Files | None = None, **fields: object) -> Files:
    """A project that has something to install, and a dev server that works."""
    return {"package.json": package(**fields), "server.mjs": SERVER, **(more or {})}


async def failure(client: Client, files: Files, env: dict[str, str] | None = None) -> Json:
    """Preview the project; gives its view, once it has failed."""
    project_id = await client.project(files)
    if env:
        stored = await client.call("PUT", f"/api/projects/{project_id}/env", json=env)
        assert stored.status == 200, stored.text
    view = await client.ended(await client.request_preview(project_id))
    assert view["status"] == "failed", view
    return view


def check(view: Json, code: str, message: str, shown: str) -> None:
    """The failure has this code, a message and a line of evidence that match, and a hint."""
    error = view["error"]
    assert error["code"] == code, (error, view["log_tail"])
    assert re.search(message, error["message"]), error
    assert error["hint"]
    assert any(re.search(shown, line) for line in error["evidence"]) or not shown, error


# --- the dev server -----------------------------------------------------------------------------------------------

THROWS = "console.log('starting'); throw new Error('kaboom')"
HEAP = "const kept = []; for (;;) kept.push(new Array(1e5).fill(1).map((x) => ({ x })))"
DISK = "import fs from 'node:fs'; fs.writeFileSync('/dev/full', 'x')"
KILLS = "process.kill(process.pid, 'SIGKILL')"
NEEDS = "if (!process.env.SESSION_SECRET) throw new Error('Missing required environment variable: SESSION_SECRET')"
BROKEN = "import http from 'node:http'\nconst port = \nhttp.createServer(() => {}).listen(port\n"
WATCHED = node_project("import 'express'", "node --watch server.mjs")

DEV_SERVERS: dict[str, tuple[Files, str, str, str]] = {
    "missing script": (node_project("", "npm run serve"), "no_dev_script", "no script `serve`", "Missing script"),
    "missing module": (node_project("import 'express'"), "module_not_found", "module express was not found", "express"),
    "syntax error": (node_project(BROKEN), "syntax_error", r"server\.mjs, line 3: missing \)", "SyntaxError"),
    "missing variable": (node_project(NEEDS), "env_variable_missing", "SESSION_SECRET is missing", "SESSION_SECRET"),
    "command not found": (node_project("", "vitte --host"), "dev_command_not_found", "command was not found", "vitte"),
    "permission denied": (
        {**node_project("", "./start.sh && true"), "start.sh": "#!/bin/sh\n"},
        "permission_denied",
        r"\./start\.sh may not be run",
        "Permission denied",
    ),
    "disk full": (node_project(DISK), "disk_full", "disk .* is full", "ENOSPC"),
    "out of memory": (
        node_project(HEAP, "node --max-old-space-size=20 server.mjs"),
        "out_of_memory",
        "heap ran out of memory",
        "heap out of memory",
    ),
    "code 137": (node_project(KILLS, "node server.mjs && true"), "out_of_memory", "code 137", "Killed"),
    "killed": (node_project(KILLS), "dev_server_killed", "SIGKILL before it answered", ""),
    "crash loop": (
        node_project(THROWS, "node --watch server.mjs"),
        "crash_loop",
        "its watcher waits for a change: Error: kaboom",
        "kaboom",
    ),
    "crash loop of a known cause": (WATCHED, "module_not_found", "module express was not found", "express"),
    "not recognised": (node_project("process.exit(3)"), "dev_server_exited", "code 3 .* does not know", ""),
    "ends well": (node_project("console.log('done')"), "dev_server_exited", "code 0 before it answered", "done"),
}


@pytest.mark.parametrize("cause", DEV_SERVERS)
async def test_a_dev_server_that_fails_is_explained(client: Client, cause: str) -> None:
    """The preview fails with the cause's code, its words, and the lines of the log that show it."""
    files, code, message, shown = DEV_SERVERS[cause]

    check(await failure(client, files), code, message, shown)


async def test_a_port_that_is_taken_is_named(client: Client) -> None:
    """A project that insists on a port which somebody else listens on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        script = SERVER.replace("process.env.PORT", str(port))
        view = await failure(client, node_project(script))

    check(view, "port_in_use", rf"Port {port}\b.* is taken", "EADDRINUSE")


async def test_a_resolver_that_never_answers_is_named(client: Client) -> None:
    """The dev server asks a resolver that swallows every question."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        script = f"""
        import {{ Resolver }} from 'node:dns/promises'
        const resolver = new Resolver({{ timeout: 200, tries: 1 }})
        resolver.setServers(['127.0.0.1:{silent.getsockname()[1]}'])
        console.log(await resolver.resolve4('db.example'))
        """
        view = await failure(client, node_project(script))

    check(view, "resolver_silent", r"db\.example could not be looked up", "ETIMEOUT")


async def test_a_crashed_program_under_nodemon_is_explained(client: Client) -> None:
    """nodemon stays alive, and nothing will answer until the next edit: known at once, not at a time-out."""
    files = node_project(THROWS)
    files["package.json"] = package(scripts={"dev": "nodemon server.mjs"}, devDependencies={"nodemon": "3.1.10"})

    check(await failure(client, files), "crash_loop", "Error: kaboom", "kaboom")


async def test_a_redirect_to_itself_is_found(client: Client) -> None:
    """`/` sends the browser to `/`, for ever."""
    script = SERVER.replace(
        "response.end(", "response.statusCode = 302; response.setHeader('location', '/'); response.end("
    )

    check(await failure(client, node_project(script)), "redirect_loop", ".", "")


# --- the install --------------------------------------------------------------------------------------------------

ODD = {"is-number": "6.0.0"}
NPMRC = "registry=http://127.0.0.1:{port}/\n"
ONE_TRY = {"npm_config_fetch_retries": "0"}
WRONG_HASH = {
    "name": "live",
    "lockfileVersion": 3,
    "requires": True,
    "packages": {
        "": {"name": "live", "dependencies": ODD},
        "node_modules/is-number": {"version": "6.0.0", "integrity": f"sha512-{'A' * 86}=="},
    },
}
EMPTY_LOCK = {"name": "live", "lockfileVersion": 3, "requires": True, "packages": {"": {"name": "live"}}}

INSTALLS: dict[str, tuple[Files, str, str, str]] = {
    "wrong Node": (
        installing({".npmrc": "engine-strict=true\n"}, engines={"node": ">=99"}, dependencies=ODD),
        "node_version_unsupported",
        "needs Node >=99; it runs on ",
        "EBADENGINE",
    ),
    "peer conflict": (
        installing(dependencies={"react": "16.14.0", "react-dom": "18.3.1"}),
        "peer_conflict",
        r"react-dom@18\.3\.1 needs react@.* has react@16\.14\.0",
        "peer react",
    ),
    "integrity": (
        installing({"package-lock.json": json.dumps(WRONG_HASH)}, dependencies=ODD),
        "integrity_mismatch",
        "downloaded package is not the one that the lockfile names",
        "EINTEGRITY",
    ),
    "no such version": (
        installing(dependencies={"is-number": "99.0.0"}),
        "package_not_found",
        r"no is-number@99\.0\.0",
        "No matching version",
    ),
    "install script": (
        installing(
            {"setup.js": "process.exit(3)"},
            dependencies=ODD,
            scripts={"dev": "node server.mjs", "postinstall": "node setup.js"},
        ),
        "install_script_failed",
        "script of the install failed: node setup.js",
        "command failed",
    ),
    "install script that downloads": (
        installing(
            {"setup.js": "fetch"},
            dependencies=ODD,
            scripts={
                "dev": "node server.mjs",
                "postinstall": "node -e \"require('dns').lookup('h.invalid',e=>{throw e})\"",
            },
        ),
        "install_script_failed",
        r"needs h\.invalid, which can't be reached",
        "ENOTFOUND",
    ),
    "install killed": (
        installing(dependencies=ODD, scripts={"dev": "node server.mjs", "preinstall": "kill -9 $PPID"}),
        "install_killed",
        "ended by SIGKILL",
        "",
    ),
    "not recognised": (
        installing(dependencies={"x": "workspace:*"}),
        "install_failed",
        "code 1, .* does not know",
        "EUNSUPPORTEDPROTOCOL",
    ),
    "no such tool": (
        installing(packageManager="pnpm@77.0.0", dependencies=ODD),
        "toolchain_failed",
        r"pnpm 77\.0\.0 could not be fetched",
        "could not fetch",
    ),
}


@pytest.mark.parametrize("cause", INSTALLS)
async def test_an_install_that_fails_is_explained(client: Client, cause: str) -> None:
    """The preview fails with the cause's code, its words, and the lines of the log that show it."""
    files, code, message, shown = INSTALLS[cause]
    view = await failure(client, files)

    check(view, code, message, shown)
    assert view["error"]["step"] == "installing"


async def test_a_lockfile_that_does_not_fit_is_a_warning(client: Client) -> None:
    """The install is tried once more without freezing it: the preview is ready, and a warning says so."""
    view = await client.ready(installing({"package-lock.json": json.dumps(EMPTY_LOCK)}, dependencies=ODD))

    assert "lockfile_mismatch" in [warning["type"] for warning in view["warnings"]]
    await client.stop(view["preview_id"])


async def test_a_registry_that_refuses_connections_is_named(client: Client) -> None:
    """The project's .npmrc names a port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    view = await failure(client, installing({".npmrc": NPMRC.format(port=port)}, dependencies=ODD), ONE_TRY)

    check(view, "registry_unreachable", rf"127\.0\.0\.1:{port} could not be reached: ECONNREFUSED", "ECONNREFUSED")


@asynccontextmanager
async def registry(status: int) -> AsyncIterator[int]:
    """A registry that answers everything with this status, or, 0, nothing at all; gives its port."""
    held: list[asyncio.StreamWriter] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        if status:
            head = f"HTTP/1.1 {status} No\r\ncontent-type: application/json\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}"
            writer.write(head.encode())
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in held:
            writer.close()


async def test_a_registry_that_wants_credentials_is_named(client: Client) -> None:
    """Status 401 from the registry that the project's .npmrc names."""
    async with registry(401) as port:
        view = await failure(client, installing({".npmrc": NPMRC.format(port=port)}, dependencies=ODD), ONE_TRY)

    check(view, "registry_unauthorized", "refuses", "E401")


# --- what takes its time: all at once -------------------------------------------------------------------------------


async def _hangs(client: Client) -> None:
    """It lives, prints nothing and never listens."""
    check(await failure(client, node_project("setInterval(() => {}, 1000)")), "dev_server_hung", ".", "")


async def _listens_elsewhere(client: Client, address: str) -> None:
    """It listens where the gateway can't reach it; what it prints meanwhile keeps it from counting as hung."""
    script = SERVER.replace("'127.0.0.1'", f"'{address}'") + "setInterval(() => console.log('here'), 500)"
    check(await failure(client, node_project(script)), "wrong_interface", ".", "")


async def _waits_for_a_registry(client: Client) -> None:
    """It takes connections and says nothing: the install's limit ends it."""
    async with registry(0) as port:
        view = await failure(client, installing({".npmrc": NPMRC.format(port=port)}, dependencies=ODD), ONE_TRY)
    check(view, "install_timeout", rf"not ended after {INSTALL_LIMIT_S} s", "")


async def test_what_waits_in_vain_is_found(client: Client) -> None:
    """A server that hangs, one that listens elsewhere, a registry that never answers: each ends by its own limit."""
    elsewhere = [_listens_elsewhere(client, address) for address in OUTSIDE[:1]]
    await asyncio.gather(_hangs(client), _waits_for_a_registry(client), *elsewhere)

    if not OUTSIDE:
        pytest.skip("this machine has no address but loopback's: nothing can listen elsewhere; the others have ended")
