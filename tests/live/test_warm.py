"""Dependencies of an earlier install: restored instead of installed, never wrong, never another project's to write to."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from shared.events import InstallSkipped
from tests.deploy.waiting import eventually
from tests.live.client import Client
from tests.live.conftest import running
from tests.live.platform import Platform

READING = """
import fs from 'node:fs'
import http from 'node:http'
import odd from 'is-odd'
const path = 'node_modules/is-odd/index.js'
const poison = () => {
  for (const file of [path, 'node_modules/.package-lock.json']) {
    try { fs.chmodSync(file, 0o666); fs.appendFileSync(file, '// poisoned') } catch (error) { return error.code }
  }
  fs.symlinkSync('/etc/passwd', 'node_modules/is-odd/link')
  return 'poisoned'
}
http.createServer((request, response) => {
  if (request.url === '/poison') response.end(poison())
  else response.end(`${odd(3)} ${fs.readFileSync(path, 'utf8').includes('poisoned')}`)
}).listen(process.env.PORT, '127.0.0.1')
"""
PACKAGE = b'{"private":true,"type":"module","scripts":{"dev":"node server.mjs"},"dependencies":{"is-odd":"3.0.1"}}'
FILES: dict[str, str | bytes] = {"package.json": PACKAGE, "server.mjs": READING}
SAVED_IN_S = 20.0


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform of its own: nothing is in its cache yet."""
    # No VM is kept: each test is to find its dependencies on the disk.
    yield from running(tmp_path_factory.mktemp("warm") / "home", {"DRAPE_POOL_KEPT_MAX": "0"})


@pytest.fixture
async def user(warm: Platform) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as session:
        yield Client(warm.gateway, session)


def entries(platform: Platform) -> list[Path]:
    """The installs that are kept; what the package manager fetched is another kind of entry."""
    found = (platform.home.root / "cache" / "deps" / "entries").glob("*/manifest")
    return [each.with_name("data") for each in found if b"node_modules" in each.read_bytes()]


async def shown(client: Client, files: dict[str, str | bytes]) -> tuple[str, str]:
    """The preview's id and the text of its page."""
    view = await client.ready(files)
    return view["preview_id"], (await client.visit(view["preview_id"])).text


async def how(platform: Platform, preview_id: str) -> list[str]:
    """Why its installs were skipped; empty: they were not."""
    told = await platform.events(preview_id)
    return [each.event.reason for each in told if isinstance(each.event, InstallSkipped)]


async def kept(platform: Platform) -> Path:
    """The data of the only entry, once it is there."""
    await eventually(lambda: len(entries(platform)) == 1, SAVED_IN_S)
    return entries(platform)[0]


async def test_the_next_preview_gets_what_the_first_installed(warm: Platform, user: Client) -> None:
    """Another project with the same dependencies, in another VM; what a project then does to them stays in its VM."""
    first, text = await shown(user, FILES)
    assert (text, await how(warm, first)) == ("true false", [])
    await kept(warm)
    assert (await user.visit(first, "/poison")).text == "poisoned"
    second, text = await shown(user, FILES)
    assert (text, await how(warm, second)) == ("true false", ["restored"])
    assert (await user.visit(second, "/poison")).text == "poisoned"
    third, text = await shown(user, FILES)
    assert (text, await how(warm, third)) == ("true false", ["restored"])
    for preview_id in (first, second, third):
        await user.stop(preview_id)


async def test_a_damaged_install_is_dropped_and_made_anew(warm: Platform, user: Client) -> None:
    """Cut short on the disk: the preview is right all the same, and the cache is whole again afterwards."""
    preview_id, _ = await shown(user, FILES)
    data = await kept(warm)
    whole = data.stat().st_size
    with data.open("r+b") as file:
        file.truncate(whole // 2)
    again, text = await shown(user, FILES)
    assert (text, await how(warm, again)) == ("true false", [])
    assert (await kept(warm)).stat().st_size == whole
    await user.stop(preview_id)
    await user.stop(again)


async def test_what_install_scripts_write_elsewhere_is_never_left_out(warm: Platform, user: Client) -> None:
    """A project whose postinstall writes outside node_modules is installed every time."""
    script = """
import http from 'node:http'
import text from './made.mjs'
http.createServer((request, response) => response.end(text)).listen(process.env.PORT, '127.0.0.1')
"""
    make = "node -e \\\"require('fs').writeFileSync('made.mjs','export default \\\\'made\\\\'')\\\""
    package = PACKAGE.decode().replace('"dev":', f'"postinstall":"{make}","dev":').encode()
    for _ in range(2):
        preview_id, text = await shown(user, {"package.json": package, "server.mjs": script})
        assert (text, await how(warm, preview_id)) == ("made", [])
        await user.stop(preview_id)


WRONG_LOCK = {
    "name": "live",
    "lockfileVersion": 3,
    "requires": True,
    "packages": {
        "": {"name": "live", "dependencies": {"is-odd": "3.0.1"}},
        "node_modules/is-odd": {
            "version": "3.0.1",
            "integrity": f"sha512-{'A' * 86}==",
            "dependencies": {"is-number": "^6.0.0"},
        },
        "node_modules/is-number": {"version": "6.0.0"},
    },
}


async def test_a_lockfile_edited_by_hand_gets_no_earlier_install(warm: Platform, user: Client) -> None:
    """The same dependencies are kept, and fetched before; what the lockfile names is looked for all the same, and the
    failure says so."""
    preview_id, _ = await shown(user, FILES)
    await kept(warm)
    await user.stop(preview_id)

    project_id = await user.project({**FILES, "package-lock.json": json.dumps(WRONG_LOCK)})
    view = await user.ended(await user.request_preview(project_id))

    assert (view["status"], view["error"]["code"]) == ("failed", "integrity_mismatch")
    assert await how(warm, view["preview_id"]) == []


async def test_a_folder_of_dependencies_that_becomes_a_link(warm: Platform, user: Client) -> None:
    """By the project, while it runs: the page is right, nothing of it is kept, and the next preview installs."""
    package = PACKAGE.decode().replace("node server.mjs", "node link.mjs && node server.mjs")
    package = package.replace('"dependencies":{', '"dependencies":{"is-number":"7.0.0",')
    link = """
import fs from 'node:fs'
if (!fs.lstatSync('node_modules').isSymbolicLink()) {
  fs.renameSync('node_modules', '.modules')
  fs.symlinkSync('.modules', 'node_modules')
}
"""
    before = len(entries(warm))
    for _ in range(2):
        preview_id, text = await shown(user, {**FILES, "package.json": package, "link.mjs": link})
        assert (text, await how(warm, preview_id)) == ("true false", [])
        await user.stop(preview_id)
    assert len(entries(warm)) == before
