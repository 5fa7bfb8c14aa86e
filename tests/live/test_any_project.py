"""Projects as people have them: edits that need a restart, errors, variables, several apps, other managers and Nodes."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.deploy.waiting import eventually
from tests.live.client import Client, node_project
from tests.live.platform import Platform

Json = dict[str, Any]
ECHO = """
import http from 'node:http'
http.createServer((request, response) => response.end(TEXT)).listen(process.env.PORT, '127.0.0.1')
"""
VITE_PACKAGE = b'{"private":true,"type":"module","scripts":{"dev":"vite"},"devDependencies":{"vite":"7.1.2"}}'


async def until(client: Client, preview_id: str, condition: Callable[[Json], bool], timeout_s: float = 60.0) -> Json:
    """The preview's view, once it is so. Follows its events."""
    async with asyncio.timeout(timeout_s):
        async for _, _, message in client.sse(f"/api/previews/{preview_id}/events"):
            views = message.get("previews") or [message.get("preview")]
            if views[0] and condition(views[0]):
                return await client.preview(preview_id)
    raise AssertionError("the event stream ended")


def echo(text: str) -> dict[str, str | bytes]:
    return node_project(ECHO.replace("TEXT", text))


async def test_an_edit_of_a_server_that_does_not_watch_its_files_is_shown(client: Client) -> None:
    """Plain Node: it is started anew in its VM, without an install."""
    project_id = await client.project(echo("'before'"))
    preview_id = await client.request_preview(project_id)
    await client.ended(preview_id)
    changed = await client.patch(project_id, 1, {"server.mjs": ECHO.replace("TEXT", "'after'")})
    assert changed.status == 200, changed.text
    view = await until(client, preview_id, lambda seen: seen["attempt"] == 2 and seen["status"] == "ready")

    assert (await client.visit(preview_id)).text == "after"
    assert view["install"] == "skipped"
    await client.stop(preview_id)


async def test_a_server_that_node_watches_sees_every_edit(client: Client) -> None:
    """Not the first one only: Node watches the file that it has opened, which must stay the same file."""
    project_id = await client.project(node_project(ECHO.replace("TEXT", "'edit 0'"), "node --watch server.mjs"))
    preview_id = await client.request_preview(project_id)
    await client.ended(preview_id)
    for number in range(1, 4):
        changed = await client.patch(project_id, number, {"server.mjs": ECHO.replace("TEXT", f"'edit {number}'")})
        assert changed.status == 200, changed.text

        async def is_shown(text: str = f"edit {number}") -> bool:
            return (await client.visit(preview_id)).text == text

        await eventually(is_shown, 20.0)
    assert (await client.preview(preview_id))["attempt"] == 1
    await client.stop(preview_id)


async def test_new_dependencies_are_installed_where_the_preview_runs(client: Client, platform: Platform) -> None:
    """One VM, two installs; the page then shows what the new package does."""
    script = ECHO.replace("TEXT", "String(await import('is-odd').then((m) => m.default(3), () => 'missing'))").replace(
        "(request, response) =>", "async (request, response) =>"
    )
    project_id = await client.project(node_project(script))
    preview_id = await client.request_preview(project_id)
    await client.ended(preview_id)
    assert (await client.visit(preview_id)).text == "missing"
    package = b'{"private":true,"scripts":{"dev":"node server.mjs"},"dependencies":{"is-odd":"3.0.1"}}'
    changed = await client.patch(project_id, 1, {"package.json": package})
    assert changed.status == 200, changed.text
    await until(client, preview_id, lambda seen: seen["attempt"] == 2 and seen["status"] == "ready")

    assert (await client.visit(preview_id)).text == "true"
    types = [event.type for event in await platform.events(preview_id)]
    assert types.count("VmAcquired") == 1
    assert types.count("InstallCompleted") == 1
    await client.stop(preview_id)


async def test_a_syntax_error_is_shown_as_what_it_is_until_it_is_mended(client: Client) -> None:
    """Vite answers 200 around it: what the page loads first tells. The mend needs no restart."""
    files: dict[str, str | bytes] = {
        "package.json": VITE_PACKAGE,
        "index.html": '<div id="app"></div><script type="module" src="/main.js"></script>',
        "main.js": "import './part.js'",
        "part.js": "export const broken = (",
    }
    project_id = await client.project(files)
    preview_id = await client.request_preview(project_id)
    broken = await until(client, preview_id, lambda seen: seen["status"] in ("ready_with_errors", "ready", "failed"))
    assert broken["status"] == "ready_with_errors", broken
    assert "/part.js" in broken["message"]
    assert (await client.visit(preview_id)).status == 200
    changed = await client.patch(project_id, 1, {"part.js": "export const mended = 1"})
    assert changed.status == 200, changed.text
    mended = await until(client, preview_id, lambda seen: seen["status"] == "ready", 30)

    assert mended["attempt"] == 1
    await client.stop(preview_id)


async def test_variables_reach_the_project_and_nothing_else(client: Client, platform: Platform) -> None:
    """Not the log of events, not the output that is shown, not the API; a change restarts what runs with the old one."""
    secret, other = "sesame-open-1234567", "sesame-shut-7654321"
    script = "console.log('the key is ' + process.env.MY_KEY)\n" + ECHO.replace("TEXT", "process.env.MY_KEY")
    project_id = await client.project(node_project(script))
    stored = await client.call("PATCH", f"/api/projects/{project_id}/env", json={"MY_KEY": secret})
    assert stored.status == 200, stored.text
    assert secret not in stored.text
    preview_id = await client.request_preview(project_id)
    await client.ended(preview_id)
    assert (await client.visit(preview_id)).text == secret
    await client.call("PATCH", f"/api/projects/{project_id}/env", json={"MY_KEY": other})
    await until(client, preview_id, lambda seen: seen["attempt"] == 2 and seen["status"] == "ready")
    assert (await client.visit(preview_id)).text == other

    names = await client.call("GET", f"/api/projects/{project_id}/env")
    logs = await client.call("GET", f"/api/previews/{preview_id}/logs")
    assert "the key is ***" in logs.text
    told = names.text + logs.text + "".join(str(event) for event in await platform.events(preview_id))
    assert "MY_KEY" in names.text
    assert secret not in told
    assert other not in told
    await client.stop(preview_id)


async def test_a_project_of_several_apps_asks_which(client: Client) -> None:
    """The choices are in the answer, and one click away."""
    app = b'{"name":"NAME","private":true,"scripts":{"dev":"vite"},"devDependencies":{"vite":"7.1.2"}}'
    files: dict[str, str | bytes] = {"package.json": b'{"private":true,"workspaces":["apps/*"]}'}
    for name in ("shop", "docs"):
        files[f"apps/{name}/package.json"] = app.replace(b"NAME", name.encode())
        files[f"apps/{name}/index.html"] = f"<h1>{name}</h1>"
    preview_id = await client.request_preview(await client.project(files))
    failed = await client.ended(preview_id)
    assert failed["error"]["code"] == "app_choice_needed"
    assert [choice["path"] for choice in failed["error"]["choices"]] == ["apps/docs", "apps/shop"]
    restarted = await client.call("POST", f"/api/previews/{preview_id}/restart", json={"app": "apps/shop"})
    assert restarted.status == 202, restarted.text
    await until(client, preview_id, lambda seen: seen["attempt"] == 2 and seen["status"] == "ready", 120)

    assert "<h1>shop</h1>" in (await client.visit(preview_id)).text
    await client.stop(preview_id)


async def test_what_was_prepared_is_opened_without_an_install(client: Client) -> None:
    """Claimed, synced and installed when the project is opened; the dev server starts when it is wanted."""
    files: dict[str, str | bytes] = {
        "package.json": VITE_PACKAGE,
        "index.html": "<h1>prepared</h1>",
        ".npmrc": "; an install of its own\n",
    }
    project_id = await client.project(files)
    prepared = await client.call("POST", f"/api/projects/{project_id}/prepare", json={})
    assert prepared.status == 202, prepared.text
    preview_id = prepared.json["preview_id"]
    await until(client, preview_id, lambda seen: seen["status"] == "prepared")
    assert await client.request_preview(project_id) == preview_id
    ready = await until(client, preview_id, lambda seen: seen["status"] == "ready")

    assert "installing" in ready["steps"]
    assert ready["total_s"] < ready["steps"]["installing"] + ready["steps"]["waiting_server"] + 5
    assert "<h1>prepared</h1>" in (await client.visit(preview_id)).text
    await client.stop(preview_id)


MANAGERS = {
    "pnpm": {"packageManager": "pnpm@10.4.0"},
    "yarn": {"packageManager": "yarn@1.22.22"},
    "berry": {"packageManager": "yarn@4.9.1"},
    "bun": {"packageManager": "bun@1.2.20"},
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", list(MANAGERS))
async def test_each_package_manager_installs_by_its_own_version(client: Client, name: str) -> None:
    """The version that the project names; the page shows what was installed."""
    package = {
        "private": True,
        "scripts": {"dev": "node server.mjs"},
        "dependencies": {"is-odd": "3.0.1"},
        **MANAGERS[name],
    }
    script = "import isOdd from 'is-odd'\n" + ECHO.replace("TEXT", "String(isOdd(3))")
    files: dict[str, str | bytes] = {"package.json": msgspec.json.encode(package), "server.mjs": script}
    if name == "berry":
        files[".yarnrc.yml"] = "nodeLinker: node-modules\n"
    view = await client.ready(files)

    assert view["package_manager"] == name.replace("berry", "yarn")
    assert (await client.visit(view["preview_id"])).text == "true"
    await client.stop(view["preview_id"])


@pytest.mark.timeout(300)
async def test_a_project_runs_on_the_node_that_it_asks_for(client: Client) -> None:
    package = b'{"private":true,"engines":{"node":"22.x"},"scripts":{"dev":"node server.mjs"}}'
    script = ECHO.replace("TEXT", "process.version")
    view = await client.ready({"package.json": package, "server.mjs": script})

    assert (await client.visit(view["preview_id"])).text.startswith("v22.")
    await client.stop(view["preview_id"])
