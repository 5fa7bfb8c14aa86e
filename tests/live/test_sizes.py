"""Two sizes of VMs on one machine: memory truly runs out, and the preview goes on in the bigger one."""

import json
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from shared.events import PreviewRestarted, PreviewWarningRaised, VmAcquired
from tests.live.conftest import running
from tests.live.platform import Platform

POOLS = {
    "small": {"memory_mb": 512, "target": 1, "minimum": 0, "maximum": 2},
    "large": {"memory_mb": 1024, "target": 1, "minimum": 0, "maximum": 2},
}
HUNGRY = """
const held = [];
for (let i = 0; i < 60; i++) held.push(new Array(1000000).fill(i + 0.5));
require("node:http").createServer((_, answer) => answer.end(`holds ${held.length}`)).listen(process.env.PORT, "127.0.0.1");
"""
"""480 MB of heap: more than three quarters of the small VM, and of the large one less."""


@pytest.fixture(scope="module")
def sized(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    home = tmp_path_factory.mktemp("sizes") / "home"
    yield from running(home, {"DRAPE_POOL_POOLS": json.dumps(POOLS)})


async def test_a_project_that_outgrows_its_vm_gets_a_bigger_one(sized: Platform, tmp_path: Path) -> None:
    """From Node's own heap limit to the page, with one wish; and the numbers are each pool's."""
    project = tmp_path / "hungry"
    project.mkdir()
    (project / "package.json").write_text(json.dumps({"name": "hungry", "scripts": {"dev": "node server.js"}}))
    (project / "server.js").write_text(HUNGRY)
    (project / "drape.toml").write_text("memory_mb = 128\n")

    shown = await sized.drape("preview", project, "--json")
    assert shown.code == 0, shown
    preview_id = shown.last["preview_id"]
    story = [each.event for each in await sized.events(preview_id)]
    assert [each.memory_mb for each in story if isinstance(each, VmAcquired)] == [512, 1024]
    assert [each.code for each in story if isinstance(each, PreviewWarningRaised)] == ["vm_out_of_memory"]
    assert [each.reason for each in story if isinstance(each, PreviewRestarted)] == ["out_of_memory"]

    resized = await sized.drape("pool", "resize", "small", "--target", "0", "--maximum", "1", "--json")
    assert resized.code == 0, resized
    async with aiohttp.ClientSession() as session, session.get(f"{sized.gateway}/health/pool") as answer:
        told = (await answer.json())["pool"]
    assert {each["name"]: (each["memoryMb"], each["target"], each["max"]) for each in told["pools"]} == {
        "small": (512, 0, 1),
        "large": (1024, 1, 2),
    }
