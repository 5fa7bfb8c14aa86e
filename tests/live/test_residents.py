"""A template's dev server runs ahead of need, for real: a project that differs in its files alone starts in it."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from time import perf_counter

import aiohttp
import pytest

from shared.events import DevServerReady, InstallSkipped, VmAcquired
from tests.deploy.waiting import eventually
from tests.live.client import Client, Json
from tests.live.conftest import running
from tests.live.platform import Platform

EXAMPLE = Path(__file__).parents[2] / "examples" / "vite-react"
TEMPLATE = {
    path.relative_to(EXAMPLE).as_posix(): path.read_bytes()
    for path in EXAMPLE.rglob("*")
    if path.is_file() and "node_modules" not in path.parts
}
"""What a user would upload."""
READY_IN_S = 90.0


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    yield from running(tmp_path_factory.mktemp("residents") / "home", {})


@pytest.fixture
async def user(platform: Platform) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as session:
        yield Client(platform.gateway, session)


def edited(word: str) -> dict[str, str | bytes]:
    """The template as a project that somebody has begun to change."""
    app = TEMPLATE["src/App.tsx"].decode() + f"\nexport const word = {word!r}\n"
    return {**TEMPLATE, "src/App.tsx": app, "src/more.ts": f"export default {word!r}\n"}


async def residents_of(user: Client, project_id: str) -> Json:
    answer: Json = (await user.call("GET", f"/api/projects/{project_id}/residents")).json
    return answer


async def test_a_project_starts_in_a_resident(platform: Platform, user: Client) -> None:
    """What it shows is its own, from the first answer on; the next project gets another VM; nothing is left at the end."""
    template = await user.project(TEMPLATE, "template")
    put = await user.call("PUT", f"/api/projects/{template}/residents", json={"count": 1})
    assert put.status == 200, put.text
    vms = []
    for word in ("first", "second"):

        async def ready() -> bool:
            return bool((await residents_of(user, template))["ready"])

        await eventually(ready, READY_IN_S)
        begun = perf_counter()
        view = await user.ready(edited(word))
        took_s = perf_counter() - begun
        preview_id = view["preview_id"]
        assert word in (await user.visit(preview_id, "/src/App.tsx")).text
        assert word in (await user.visit(preview_id, "/src/more.ts")).text
        assert "/src/main.tsx" in (await user.visit(preview_id)).text
        story = await platform.events(preview_id)
        assert [e.event.reason for e in story if isinstance(e.event, InstallSkipped)] == ["resident"]
        [booted] = [e.event for e in story if isinstance(e.event, DevServerReady)]
        assert 0 < booted.boot_s <= took_s
        [acquired] = [e.event for e in story if isinstance(e.event, VmAcquired)]
        assert acquired.resident
        vms.append(acquired.vm_id)
    assert len(set(vms)) == 2
    assert {view["status"] for view in (await user.call("GET", "/api/previews")).json["previews"]} == {"ready"}


async def test_an_edit_reaches_a_preview_that_took_a_resident_over(user: Client) -> None:
    """It is a preview like any other: its dev server sees what is saved."""
    preview = (await user.call("GET", "/api/previews")).json["previews"][-1]
    changed = await user.patch(preview["project_id"], 1, {"src/more.ts": "export default 'edited'\n"})
    assert changed.status == 200, changed.text

    async def shown() -> bool:
        return "edited" in (await user.visit(preview["preview_id"], "/src/more.ts")).text

    await eventually(shown, 10.0)


CONFIG = """
import { readFileSync } from 'node:fs'
import { defineConfig, loadEnv } from 'vite'
import react from '@vitejs/plugin-react'
export default defineConfig(({ mode }) => {
  process.env = { ...process.env, ...loadEnv(mode, process.cwd(), '') }
  const said = readFileSync('./title.txt', 'utf8').trim() + ' ' + (process.env.MY_KEY ?? 'none')
  return { plugins: [react()], define: { __SAID__: JSON.stringify(said) } }
})
"""
APP = "export default function App() { return <h1>{__SAID__}</h1> }\n"


async def test_what_the_template_was_started_with_is_not_shown(platform: Platform, user: Client) -> None:
    """A file that its configuration reads, and its own .env, which has gone into the process: neither is the project's."""
    base: dict[str, str | bytes] = {**TEMPLATE, "vite.config.ts": CONFIG, "src/App.tsx": APP}
    template = await user.project(
        {**base, "title.txt": "template", ".env": "MY_KEY=secret-of-template\n"}, "configured"
    )
    await user.call("PUT", f"/api/projects/{template}/residents", json={"count": 1})

    async def ready() -> bool:
        return bool((await residents_of(user, template))["ready"])

    await eventually(ready, READY_IN_S)
    view = await user.ready({**base, "title.txt": "mine"})
    shown = (await user.visit(view["preview_id"], "/@vite/env")).text
    assert "mine none" in shown
    assert "template" not in shown
    acquired = [each.event for each in await platform.events(view["preview_id"]) if isinstance(each.event, VmAcquired)]
    assert [bool(each.resident) for each in acquired] == [True]
    await user.call("PUT", f"/api/projects/{template}/residents", json={"count": 0})
