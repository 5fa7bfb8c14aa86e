"""An idle preview is frozen for real, and wakes for the next request: right bytes, sockets, edits, and lines of its log."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from hashlib import sha256
from urllib.parse import urlsplit

import aiohttp
import psutil
import pytest

from services.pool.adapters import local_vm
from shared.ids import VmId
from tests.deploy.waiting import eventually
from tests.live.client import Client, node_project
from tests.live.conftest import running
from tests.live.platform import EXAMPLES, Platform

SUSPEND_AFTER_S = 2
ROUNDS = 3
"""Times that one preview is frozen and woken."""
WAKE_S = 20.0
"""Far more than waking takes, and far less than it would if the request were refused and tried again."""

SERVER = """
import crypto from 'node:crypto'
import fs from 'node:fs'
import http from 'node:http'
let count = 0
setInterval(() => console.log(`line ${count++}`), 50)
const server = http.createServer((request, response) => {
  if (request.method === 'POST') {
    const hash = crypto.createHash('sha256')
    request.on('data', (part) => hash.update(part))
    request.on('end', () => response.end(hash.digest('hex')))
  } else {
    response.setHeader('content-type', 'text/html')
    response.end('<title>live</title>' + fs.readFileSync('note.txt', 'utf8') + 'x'.repeat(300000))
  }
})
const sockets = new Set()
fs.watch('.', (kind, name) => { if (name === 'note.txt') for (const socket of sockets) socket.write(frame('changed')) })
const frame = (text) => Buffer.concat([Buffer.from([0x81, text.length]), Buffer.from(text)])
server.on('upgrade', (request, socket) => {
  const key = request.headers['sec-websocket-key'] + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11'
  const accept = crypto.createHash('sha1').update(key).digest('base64')
  socket.write('HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n' +
    `Sec-WebSocket-Accept: ${accept}\\r\\n\\r\\n`)
  sockets.add(socket)
  socket.on('close', () => sockets.delete(socket))
  socket.on('error', () => sockets.delete(socket))
  socket.on('data', () => {})
})
server.listen(process.env.PORT, '127.0.0.1')
"""
FILES: dict[str, str | bytes] = {**node_project(SERVER), "note.txt": "first"}
PAGE = "<title>live</title>first" + "x" * 300_000


@pytest.fixture(scope="module")
def sleepy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform whose previews fall asleep after two seconds."""
    settings = {
        "DRAPE_ORCHESTRATOR_SUSPEND_AFTER_S": str(SUSPEND_AFTER_S),
        "DRAPE_ORCHESTRATOR_IDLE_CHECK_S": "1",
        "DRAPE_GATEWAY_ACTIVITY_PERIOD_S": "0.5",
    }
    yield from running(tmp_path_factory.mktemp("sleepy") / "home", settings)


@pytest.fixture
async def user(sleepy: Platform) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as session:
        yield Client(sleepy.gateway, session)


def stands_still(platform: Platform, vm_id: VmId) -> bool:
    """Whether the kernel says so: the VM's group is frozen, or its processes are stopped."""
    vm = local_vm.load(platform.home.vms / vm_id)
    assert vm is not None
    return vm.group.frozen() or psutil.Process(vm.init.pid).status() == psutil.STATUS_STOPPED


async def asleep(platform: Platform, vm_id: VmId) -> None:
    await eventually(lambda: stands_still(platform, vm_id), 20.0)


async def numbers(client: Client, preview_id: str) -> list[int]:
    """The numbered lines that the dev server has printed, as the log has them."""
    found: list[int] = []
    after = 0
    while True:
        page = (await client.call("GET", f"/api/previews/{preview_id}/logs?step=dev_server&since={after}")).json
        found += [int(line["text"].removeprefix("line ")) for line in page["lines"] if line["text"].startswith("line ")]
        if page["next"] == after:
            return found
        after = page["next"]


@pytest.mark.timeout(180)
async def test_a_request_wakes_it_and_gets_the_whole_page(sleepy: Platform, user: Client) -> None:
    """Again and again; its output goes on without a gap, and nothing has begun anew."""
    view = await user.ready(FILES)
    preview_id, took_s = view["preview_id"], []
    for _ in range(ROUNDS):
        await asleep(sleepy, view["vm_id"])
        assert (await user.preview(preview_id))["status"] == "suspended"
        begun = time.perf_counter()
        answer = await user.visit(preview_id)
        took_s.append(time.perf_counter() - begun)
        assert (answer.status, answer.text == PAGE) == (200, True)
    assert max(took_s) < WAKE_S

    before = len(await numbers(user, preview_id))

    async def went_on() -> bool:
        return len(await numbers(user, preview_id)) > before

    await eventually(went_on)
    told = await numbers(user, preview_id)
    assert told == list(range(len(told)))
    kinds = [each.type for each in await sleepy.events(preview_id)]
    assert kinds.count("PreviewSuspended") >= ROUNDS
    assert not {"VmLost", "PreviewRestarted", "PreviewFailed", "DevServerExited"} & set(kinds)
    await user.stop(preview_id)


@pytest.mark.timeout(120)
async def test_a_post_that_wakes_it_arrives_whole_and_once(sleepy: Platform, user: Client) -> None:
    """Ten at once, half a megabyte each: every answer is the hash of what was sent, and it is woken once."""
    view = await user.ready(FILES)
    await asleep(sleepy, view["vm_id"])
    headers = {"Host": f"{view['preview_id']}.preview.localhost:{urlsplit(sleepy.gateway).port}"}
    body = bytes(range(256)) * 2048

    answers = await asyncio.gather(*(user.call("POST", "/", data=body, headers=headers) for _ in range(10)))

    assert {answer.text for answer in answers} == {sha256(body).hexdigest()}
    kinds = [each.type for each in await sleepy.events(view["preview_id"])]
    assert kinds.count("PreviewResumed") == 1
    await user.stop(view["preview_id"])


@pytest.mark.timeout(120)
async def test_a_socket_wakes_it_keeps_it_awake_and_hears_of_the_next_edit(sleepy: Platform, user: Client) -> None:
    view = await user.ready(FILES)
    preview_id = view["preview_id"]
    await asleep(sleepy, view["vm_id"])
    headers = {"Host": f"{preview_id}.preview.localhost:{urlsplit(sleepy.gateway).port}"}
    async with user.session.ws_connect(sleepy.gateway, headers=headers) as socket:
        assert (await user.preview(preview_id))["status"] == "ready"
        with pytest.raises(TimeoutError):
            await socket.receive(timeout=3 * SUSPEND_AFTER_S)
        assert (await user.preview(preview_id))["status"] == "ready"

        await user.patch(view["project_id"], 1, {"note.txt": "second"})

        assert (await socket.receive(timeout=10)).data == "changed"
    assert "second" in (await user.visit(preview_id)).text
    await user.stop(preview_id)


@pytest.mark.timeout(120)
async def test_an_edit_wakes_it_and_a_stop_does_not(sleepy: Platform, user: Client) -> None:
    view = await user.ready(FILES)
    preview_id = view["preview_id"]
    await asleep(sleepy, view["vm_id"])
    await user.patch(view["project_id"], 1, {"note.txt": "second"})

    async def arrived() -> bool:
        return bool((await user.preview(preview_id))["files_version"] == 2)

    await eventually(arrived)
    await asleep(sleepy, view["vm_id"])
    processes = sleepy.vm_processes(view["vm_id"])
    await user.stop(preview_id)
    await eventually(lambda: not any(process.is_running() for process in processes))
    kinds = [each.type for each in await sleepy.events(preview_id)]
    assert kinds.count("PreviewResumed") == 1


@pytest.mark.timeout(240)
async def test_vites_socket_comes_back_and_tells_of_the_next_edit(sleepy: Platform, user: Client) -> None:
    """The page's client dials again, as after any break, and an edit is an update to it, not a reload."""
    source = EXAMPLES / "vite-react"
    files: dict[str, str | bytes] = {
        str(path.relative_to(source)): path.read_bytes()
        for path in source.rglob("*")
        if path.is_file() and not {"node_modules", "dist"} & set(path.parts)
    }
    view = await user.ready(files)
    preview_id = view["preview_id"]
    headers = {"Host": f"{preview_id}.preview.localhost:{urlsplit(sleepy.gateway).port}"}
    client = (await user.visit(preview_id, "/@vite/client", accept="*/*")).text
    token = re.search(r'wsToken = "([^"]+)"', client)
    assert token is not None
    url = f"{sleepy.gateway}/?token={token[1]}"
    for _ in range(2):
        await asleep(sleepy, view["vm_id"])
        async with user.session.ws_connect(url, headers=headers, protocols=("vite-hmr",)) as socket:
            assert (await socket.receive_json(timeout=10))["type"] == "connected"
    await asleep(sleepy, view["vm_id"])
    async with user.session.ws_connect(url, headers=headers, protocols=("vite-hmr",)) as socket:
        assert (await socket.receive_json(timeout=10))["type"] == "connected"
        for path in ("/src/main.tsx", "/src/App.tsx"):  # what nobody has loaded is not watched
            assert (await user.visit(preview_id, path, accept="*/*")).status == 200
        app = (source / "src" / "App.tsx").read_text().replace("Drape example", "Edited example")
        await user.patch(view["project_id"], 1, {"src/App.tsx": app})
        told = await socket.receive_json(timeout=20)
        assert (told["type"], told["updates"][0]["path"]) == ("update", "/src/App.tsx")
    await user.stop(preview_id)
