"""A released VM is its owner's next one: with its dependencies where they are untouched, and with nothing else in it."""

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest

from shared.events import InstallSkipped, VmAcquired, VmCleaned, VmReleased, VmRetired
from tests.live.client import Client
from tests.live.conftest import running
from tests.live.platform import Platform

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="without a sandbox no VM is kept")

PACKAGE = b'{"private":true,"type":"module","scripts":{"dev":"node server.mjs"},"dependencies":{"is-odd":"3.0.1"}}'
CLEANED_IN_S = 20.0

LEAVING = """
import { spawn } from 'node:child_process'
import fs from 'node:fs'
import http from 'node:http'
import odd from 'is-odd'
const secret = process.env.SECRET ?? ''
console.log('log of the first', secret)
for (const folder of ['.', process.env.HOME, '/tmp', '/dev/shm', '/vm', '/vm/state', 'node_modules/.cache']) {
  fs.mkdirSync(folder, { recursive: true })
  fs.writeFileSync(`${folder}/left-behind`, 'of the first')
}
const script = `process.on('SIGTERM', () => 0)
  const server = require('http').createServer((_, answer) => answer.end('left'))
  server.listen(0, '127.0.0.1', () => require('fs').writeFileSync('port', String(server.address().port)))`
spawn(process.execPath, ['-e', script], { detached: true, stdio: 'ignore' }).unref()
const poison = () => { fs.appendFileSync('node_modules/is-odd/index.js', '// poisoned'); return 'poisoned' }
http.createServer((request, response) => {
  if (request.url === '/poison') response.end(poison())
  else if (request.url === '/port') response.end(fs.existsSync('port') ? fs.readFileSync('port', 'utf8') : '')
  else response.end(`${odd(3)} first`)
}).listen(process.env.PORT, '127.0.0.1')
"""
LOOKING = """
import fs from 'node:fs'
import http from 'node:http'
import odd from 'is-odd'
const found = []
// What the sandbox itself shows (an interpreter below /tmp) is nobody's file.
const mounts = fs.readFileSync('/proc/self/mountinfo', 'utf8').trim().split('\\n').map((line) => line.split(' ')[4])
const look = (folder) => {
  for (const each of fs.readdirSync(folder, { withFileTypes: true })) {
    const path = `${folder}/${each.name}`
    if (mounts.includes(path) && !path.startsWith('/vm')) continue
    if (/left-behind|port|first/.test(each.name)) found.push(path)
    if (each.isDirectory() && each.name !== 'is-odd') look(path)
  }
}
for (const folder of ['/vm', '/tmp', '/dev/shm']) look(folder)
const processes = fs.readdirSync('/proc').filter((name) => Number(name) > 0)
const commands = processes.map((pid) => { try { return fs.readFileSync(`/proc/${pid}/cmdline`, 'utf8') } catch { return '' } })
http.createServer((request, response) => {
  response.end(JSON.stringify({ odd: odd(3), found, strange: commands.filter((text) => text.includes('SIGTERM')),
    secret: process.env.SECRET ?? null, home: fs.readdirSync(process.env.HOME) }))
}).listen(process.env.PORT, '127.0.0.1')
"""
FIRST: dict[str, str | bytes] = {"package.json": PACKAGE, "server.mjs": LEAVING, "only-in-first.txt": "first"}
NEXT: dict[str, str | bytes] = {"package.json": PACKAGE, "server.mjs": LOOKING}


@pytest.fixture(scope="module")
def keeping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform of its own: nothing is kept yet."""
    yield from running(tmp_path_factory.mktemp("keeping") / "home", {})


@pytest.fixture
async def user(keeping: Platform) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as session:
        yield Client(keeping.gateway, session)


@pytest.fixture(scope="module")
def lock(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The lockfile of these dependencies."""
    folder = tmp_path_factory.mktemp("lock")
    (folder / "package.json").write_bytes(PACKAGE)
    made = subprocess.run(
        ["npm", "install", "--package-lock-only"], cwd=folder, capture_output=True, timeout=60, check=False
    )
    assert made.returncode == 0, made.stderr
    return (folder / "package-lock.json").read_text()


async def how(platform: Platform, preview_id: str) -> list[str]:
    """Why its installs were skipped; empty: they were not."""
    told = await platform.events(preview_id)
    return [each.event.reason for each in told if isinstance(each.event, InstallSkipped)]


async def vm_after(platform: Platform, preview_id: str) -> tuple[str, str]:
    """What became of the VM that the preview had: its id, and `cleaned` or why it was retired."""
    told = [each.event for each in await platform.events(preview_id)]
    [acquired] = [event for event in told if isinstance(event, VmAcquired)]
    released = await platform.event("VmReleased", preview_id)
    assert isinstance(released.event, VmReleased)
    assert released.event.keep, "it was not to be kept"
    async with asyncio.timeout(CLEANED_IN_S):
        while True:
            for event in [each.event for each in await platform.events() if each.seq > released.seq]:
                if isinstance(event, VmCleaned | VmRetired) and event.vm_id == acquired.vm_id:
                    return event.vm_id, "cleaned" if isinstance(event, VmCleaned) else event.detail


async def test_a_released_vm_is_its_owner_s_next_one(keeping: Platform, user: Client, lock: str) -> None:
    """Another project with the same dependencies finds them, and nothing else of the first: no file in any folder, no
    process, no port, no variable, no log."""
    project_id = await user.project({**FIRST, "package-lock.json": lock})
    stored = await user.call("PUT", f"/api/projects/{project_id}/env", json={"SECRET": "hush-hush-hush"})
    assert stored.status == 200, stored.text
    first = await user.request_preview(project_id)
    assert (await user.ended(first))["status"] == "ready"
    assert (await user.visit(first)).text == "true first"
    port = int((await user.visit(first, "/port")).text)
    await user.stop(first)
    vm_id, told = await vm_after(keeping, first)
    assert told == "cleaned"
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)

    view = await user.ready({**NEXT, "package-lock.json": lock})
    assert (view["vm_id"], await how(keeping, view["preview_id"])) == (vm_id, ["preserved"])
    page = (await user.visit(view["preview_id"])).json
    assert page == {"odd": True, "found": [], "strange": [], "secret": None, "home": page["home"]}
    assert not {"left-behind", ".npm"} & set(page["home"])
    logs = await user.call("GET", f"/api/previews/{view['preview_id']}/logs")
    assert "of the first" not in logs.text
    await user.stop(view["preview_id"])
    assert (await vm_after(keeping, view["preview_id"]))[1] == "cleaned"


async def test_a_project_that_wrote_into_its_dependencies_leaves_none(
    keeping: Platform, user: Client, lock: str
) -> None:
    first = (await user.ready({**FIRST, "package-lock.json": lock}))["preview_id"]
    assert (await user.visit(first, "/poison")).text == "poisoned"
    await user.stop(first)
    vm_id, told = await vm_after(keeping, first)
    assert told == "dependencies_changed"
    second = await user.ready({**NEXT, "package-lock.json": lock})
    assert await how(keeping, second["preview_id"]) == ["restored"]
    assert second["vm_id"] != vm_id
    await user.stop(second["preview_id"])
