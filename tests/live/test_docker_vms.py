"""A whole platform whose VMs are containers: a preview's life from `drape preview` to the page, through sleep and deaths, and what
`drape down` leaves. Skipped where no engine answers."""

import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
from playwright.async_api import expect

from services.pool.adapters.docker_vm import name_of
from shared.events import PreviewRestarted, PreviewWarningRaised, VmAcquired
from tests.deploy.waiting import eventually
from tests.live.browser import chromium_path, page
from tests.live.client import Client
from tests.live.conftest import running
from tests.live.platform import EXAMPLES, Json, Platform
from tests.pool.docker_stage import IMAGE, build_image, docker, fresh_home, needs_engine, rules_of

pytestmark = [needs_engine, pytest.mark.timeout(300)]
BACK_S = 120.0
"""Until a preview whose VM has died is ready in another one; it installs anew."""
ASLEEP_S = 60.0
HEADING = "Drape example: Vite and React"
POOLS = {
    "small": {"memory_mb": 512, "target": 1, "minimum": 0, "maximum": 2},
    "large": {"memory_mb": 1024, "target": 1, "minimum": 0, "maximum": 3},
}
HUNGRY = """
const held = [];
for (let i = 0; i < 75; i++) held.push(Buffer.alloc(8 << 20, 1));
require("node:http").createServer((_, answer) => answer.end(`holds ${held.length}`)).listen(process.env.PORT, "127.0.0.1");
"""
"""600 MB that are none of Node's heap: its own limit does not stop it, only the container's."""
OLD = "RUN sed -i 's/^PROTOCOLS = .*/PROTOCOLS = (1, 1)/' /opt/drape/code/shared/agent/protocol.py"
"""An agent from before there were tunnels."""


@pytest.fixture(scope="module")
def key() -> Iterator[str]:
    build_image()
    yield from fresh_home("live")


@pytest.fixture(scope="module")
def contained(key: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    old = f"drape-test-old:{key}"
    docker("build", "--quiet", "--network", "none", "--tag", old, "-", text=f"FROM {IMAGE}\nUSER 0\n{OLD}\nUSER 1000\n")
    ancient = {"memory_mb": 512, "image": old, "target": 1, "minimum": 0, "maximum": 1}
    settings = {
        "DRAPE_POOL_PROVIDER": "docker",
        "DRAPE_POOL_DOCKER_HOME": key,
        "DRAPE_POOL_DOCKER_IMAGE": IMAGE,
        "DRAPE_POOL_POOLS": json.dumps({**POOLS, "old": ancient}),
        "DRAPE_ORCHESTRATOR_SUSPEND_AFTER_S": "3",
        "DRAPE_ORCHESTRATOR_IDLE_CHECK_S": "1",
        "DRAPE_GATEWAY_ACTIVITY_PERIOD_S": "0.5",
    }
    try:
        yield from running(tmp_path_factory.mktemp("contained") / "home", settings)
    finally:
        docker("rmi", "--force", old, check=False)


@pytest.fixture
async def user(contained: Platform) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as session:
        yield Client(contained.gateway, session)


async def _edited_in_the_open_page(user: Client, ready: Json) -> None:
    """The edit shows in the page that was open, through the tunnel's socket: what the window holds stays."""
    project_id = (await user.preview(ready["preview_id"]))["project_id"]
    source = (EXAMPLES / "vite-react" / "src" / "App.tsx").read_text()
    async with page() as opened:
        await opened.goto(ready["url"])
        await expect(opened.locator("#title")).to_have_text(HEADING)
        await opened.evaluate("window.drapeMark = 'still here'")
        changed = {"src/App.tsx": source.replace(HEADING, "Edited in a container")}
        assert (await user.patch(project_id, 1, changed)).status == 200
        await expect(opened.locator("#title")).to_have_text("Edited in a container")
        assert await opened.evaluate("window.drapeMark") == "still here"


@pytest.mark.skipif(chromium_path() is None, reason="no Chromium: install one, or set DRAPE_CHROMIUM")
async def test_a_preview_lives_sleeps_and_outlives_its_container(contained: Platform, key: str, user: Client) -> None:
    """Page, edit and output; frozen when nobody looks, awake for the next request; and in another VM, edit included, when its
    container is killed."""
    ran = await contained.drape("preview", EXAMPLES / "vite-react", "--memory-mb", "1024", "--json")
    assert ran.code == 0, ran.out + ran.err
    preview_id = ran.last["preview_id"]
    await _edited_in_the_open_page(user, ran.last)
    printed = await contained.drape("logs", preview_id)
    assert "VITE" in printed.out
    first = (await user.preview(preview_id))["vm_id"]
    container = name_of(key, first)

    await contained.event("PreviewSuspended", preview_id)
    await eventually(lambda: docker("inspect", "--format", "{{.State.Paused}}", container) == "true", ASLEEP_S)
    assert (await user.preview(preview_id))["status"] == "suspended"
    assert "Edited in a container" in (await user.visit(preview_id, "/src/App.tsx")).text
    assert (await user.preview(preview_id))["status"] == "ready"

    docker("kill", container)

    await user.visit(preview_id)  # should it have fallen asleep meanwhile, this finds the VM gone
    ready = (await contained.event("PreviewReady", preview_id)).seq
    await contained.event("PreviewReady", preview_id, after=ready, timeout_s=BACK_S)
    assert (await user.ended(preview_id))["status"] == "ready"
    assert "Edited in a container" in (await user.visit(preview_id, "/src/App.tsx")).text
    assert (await user.preview(preview_id))["vm_id"] != first
    kinds = [each.type for each in await contained.events(preview_id)]
    assert (kinds.count("VmLost"), kinds.count("PreviewFailed")) == (1, 0)
    await user.stop(preview_id)


async def test_the_kernel_kills_what_outgrows_a_container_and_a_bigger_one_takes_over(
    contained: Platform, tmp_path: Path
) -> None:
    """Memory beyond the container's limit, not Node's own: killed, warned of, and begun anew in the next size."""
    (tmp_path / "package.json").write_text(json.dumps({"name": "hungry", "scripts": {"dev": "node server.js"}}))
    (tmp_path / "server.js").write_text(HUNGRY)
    (tmp_path / "drape.toml").write_text("memory_mb = 128\n")

    shown = await contained.drape("preview", tmp_path, "--json")
    assert shown.code == 0, shown
    story = [each.event for each in await contained.events(shown.last["preview_id"])]
    assert [each.memory_mb for each in story if isinstance(each, VmAcquired)] == [512, 1024]
    assert [each.code for each in story if isinstance(each, PreviewWarningRaised)] == ["vm_out_of_memory"]
    assert [each.reason for each in story if isinstance(each, PreviewRestarted)] == ["out_of_memory"]
    await contained.drape("stop", shown.last["preview_id"])


async def test_an_image_whose_agent_is_too_old_is_told(contained: Platform) -> None:
    """Its VMs never become warm; the log says which of both sides is behind, and the others serve."""
    failed: list[Json] = []

    async def told() -> bool:
        ran = await contained.drape("events", "--type", "VmBootFailed", "--json")
        failed[:] = [each for each in ran.lines if each.get("type") == "VmBootFailed"]
        return bool(failed)

    await eventually(told, BACK_S)
    assert {each["data"]["code"] for each in failed} == {"agent_version_unsupported"}
    assert "deploy/workspace/build" in failed[0]["data"]["message"]


async def test_status_and_doctor_say_what_vms_are(contained: Platform) -> None:
    told = await contained.drape("status", "--json")
    assert told.last["provider"] == "docker"
    looked = await contained.drape("doctor", "--json")
    [booting] = [each for each in looked.lines if each.get("check") == "boots"]
    assert booting["code"] == "vm_boots_failing"
    assert "of old (" in booting["what"]
    assert "agent_version_unsupported" in booting["why"]
    vms = [each["detail"] for each in looked.lines if each.get("check") == "vms"]
    assert len(vms) == 1
    assert vms[0].startswith("the provider (docker) has ")


async def test_down_leaves_nothing_on_the_engine_even_after_a_crash(contained: Platform, key: str) -> None:
    """All processes killed, and an environment that says nothing of Docker: VMs, network and rules are gone all the same."""
    mine = ("--filter", f"label=drape.home={key}")
    assert docker("ps", "--quiet", *mine)
    assert rules_of(key)
    contained.kill_everything()

    later = Platform(contained.home.root, {"DOCKER_HOST": os.environ.get("DOCKER_HOST", "")})
    ran = await later.drape("down", "--json")

    assert (ran.code, ran.last["vms"] > 0) == (0, True), ran
    assert docker("ps", "--all", "--quiet", *mine) == ""
    assert docker("network", "ls", "--quiet", *mine) == ""
    assert rules_of(key) == []
    assert (await later.drape("down", "--json")).last["vms"] == 0
