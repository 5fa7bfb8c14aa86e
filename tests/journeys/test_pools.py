"""Several pools: a preview gets the size that it needs, in its region, and a bigger one when memory runs out."""

import asyncio

import msgspec
import pytest

from services.orchestrator.adapters.simulated import DEV_SERVER, JobScript
from services.pool.shapes import PoolShape
from services.pool.views import summary
from shared.commands import PreviewReply, RequestPreview
from shared.events import (
    PreviewFailed,
    PreviewReady,
    PreviewRestarted,
    PreviewWarningRaised,
    VmAcquired,
    VmBootFailed,
    VmCreationStarted,
    VmDestroyed,
    VmRetired,
)
from tests.journeys.rules import check_rules
from tests.journeys.stage import OWNER, STATIC, Stage, staged

pytestmark = pytest.mark.looptime

NEXT = {
    "package.json": b'{"dependencies": {"next": "15.3.0"}, "scripts": {"dev": "next dev"}}',
    "package-lock.json": b"{}",
}
SIZES = {
    "small": PoolShape(memory_mb=1024, target=2, minimum=1, maximum=3),
    "large": PoolShape(memory_mb=2048, target=1, minimum=0, maximum=3),
}
OUT_OF_MEMORY = JobScript(
    lasts_s=1.0, exit_code=134, lines=((0.5, "FATAL ERROR: Reached heap limit - JavaScript heap out of memory"),)
)


async def _ask(stage: Stage, project_id: str, **wish: int | str) -> str:
    command = RequestPreview(project_id=project_id, owner=OWNER)
    reply = await stage.send(msgspec.structs.replace(command, **wish))
    return msgspec.json.decode(reply, type=PreviewReply).preview_id


def _pools(stage: Stage, preview_id: str) -> list[str]:
    """Of the VMs that the preview had, in order."""
    pool_of = {each.vm_id: each.pool for each in stage.events(VmCreationStarted)}
    return [pool_of[each.vm_id] for each in stage.events(VmAcquired, preview_id)]


async def test_each_framework_gets_the_size_that_it_needs() -> None:
    """On the first wish too, for which the claim waits until the project is known; and Node may use what its VM has."""
    async with staged(pools=SIZES) as stage:
        next_id = await stage.request(await stage.project(NEXT))
        await stage.until(PreviewReady, next_id, within_s=20)
        static_id = await stage.request(await stage.project(STATIC))
        await stage.until(PreviewReady, static_id, within_s=20)
        assert (_pools(stage, next_id), _pools(stage, static_id)) == (["large"], ["small"])
        assert [each.memory_mb for each in stage.events(VmAcquired)] == [2048, 1024]
        given = {each.vm_id: stage.provider.specs[each.vm_id] for each in stage.events(VmAcquired)}
        assert [spec.memory_mb for spec in given.values()] == [2048, 1024]
        options = [spec.env["NODE_OPTIONS"] for spec in stage.workspace.specs]
        assert options == ["--max-old-space-size=1536", "--max-old-space-size=1536", "--max-old-space-size=768"]
        assert not stage.events(PreviewWarningRaised)
        await asyncio.sleep(20)
        assert [(each.name, each.available) for each in summary(stage.state("pool")).pools] == [
            ("small", 2),
            ("large", 1),
        ]
        check_rules(stage)


async def test_who_runs_out_of_memory_goes_on_in_a_bigger_vm() -> None:
    """By itself, with a warning that says so; and the project's next preview begins there."""
    async with staged(pools=SIZES) as stage:
        stage.workspace.dev_servers.append(OUT_OF_MEMORY)
        project_id = await stage.project()
        preview_id = await stage.request(project_id)
        await stage.until(PreviewReady, preview_id, within_s=30)
        assert _pools(stage, preview_id) == ["small", "large"]
        (restarted,) = stage.events(PreviewRestarted, preview_id)
        assert (restarted.reason, restarted.memory_mb, restarted.in_place) == ("out_of_memory", 2048, False)
        (warning,) = stage.events(PreviewWarningRaised, preview_id)
        assert warning.code == "vm_out_of_memory"
        shown = stage.state("gateway").previews[preview_id]
        assert [each.code for each in shown.warnings] == ["vm_out_of_memory"]

        await stage.stop(preview_id)
        again = await stage.request(project_id)
        await stage.until(PreviewReady, again, within_s=30)
        assert _pools(stage, again) == ["large"]
        await asyncio.sleep(20)
        check_rules(stage)


@pytest.mark.parametrize("killed", [False, True], ids=["heap", "killed"])
async def test_there_is_an_end_at_the_biggest(killed: bool) -> None:
    """It fails with the cause, and the hint names the setting; also where the kernel ended an install or a server."""
    async with staged(pools=SIZES) as stage:
        script = JobScript(lasts_s=1.0, exit_code=None, signal="SIGKILL") if killed else OUT_OF_MEMORY
        stage.workspace.dev_server = DEV_SERVER if killed else script
        if killed:
            stage.workspace.install = script
        preview_id = await stage.request(await stage.project())
        failed = await stage.until(PreviewFailed, preview_id, within_s=60)
        assert _pools(stage, preview_id) == ["small", "large"]
        assert failed.code == ("install_killed" if killed else "out_of_memory")
        assert failed.hint.startswith("Its VM had 2048 MB")
        assert "DRAPE_POOL_POOLS" in failed.hint
        await asyncio.sleep(stage.orchestrator_config.failed_keep_s + 20)
        check_rules(stage)


async def test_a_need_that_no_pool_has_is_warned_of() -> None:
    """The largest is given, and said to be too small."""
    async with staged(pools=SIZES) as stage:
        preview_id = await _ask(stage, await stage.project(), memory_mb=8192)
        await stage.until(PreviewReady, preview_id, within_s=20)
        assert _pools(stage, preview_id) == ["large"]
        warning = await stage.until(PreviewWarningRaised, preview_id, within_s=1)
        assert (warning.code, "2048" in warning.message, "8192" in warning.message) == ("vm_too_small", True, True)
        check_rules(stage)


REGIONS = {
    "ams": PoolShape(memory_mb=1024, region="ams", image="node", target=0, maximum=3),
    "fra": PoolShape(memory_mb=1024, region="fra", image="node", target=0, maximum=3),
}


async def test_a_full_region_hands_on_and_stops_no_other() -> None:
    """Who did not ask for it goes elsewhere; who did waits until there is room."""
    async with staged(pools=REGIONS) as stage:
        stage.provider.full_regions.add("ams")
        anywhere = await stage.request(await stage.project(STATIC))
        await stage.until(PreviewReady, anywhere, within_s=20)
        assert _pools(stage, anywhere) == ["fra"]
        assert {each.code for each in stage.events(VmBootFailed)} == {"region_full"}
        there = await _ask(stage, await stage.project(STATIC), region="ams")
        await asyncio.sleep(10)
        assert not stage.events(VmAcquired, there)
        stage.provider.full_regions.clear()
        await stage.until(PreviewReady, there, within_s=70)
        assert _pools(stage, there) == ["ams"]
        await asyncio.sleep(20)
        check_rules(stage)


@pytest.mark.parametrize(("wish", "code"), [("region", "no_such_region"), ("image", "no_such_image")])
async def test_what_no_pool_is_ends_the_preview_at_once(wish: str, code: str) -> None:
    async with staged(pools=REGIONS) as stage:
        preview_id = await _ask(stage, await stage.project(STATIC), **{wish: "mars"})
        failed = await stage.until(PreviewFailed, preview_id, within_s=10)
        assert (failed.code, "mars" in failed.message) == (code, True)
        assert ("ams, fra" if wish == "region" else "node") in failed.hint
        check_rules(stage)


async def test_a_pool_that_is_removed_drains() -> None:
    """What is warm goes at once, what is held when it is given back; previews go on, and new ones use what is left."""
    async with staged(pools=SIZES) as stage:
        preview_id = await stage.request(await stage.project(NEXT))
        await stage.until(PreviewReady, preview_id, within_s=20)
        await asyncio.sleep(10)
        await stage.crash("pool")
        stage.pool_config = msgspec.structs.replace(stage.pool_config, pools={"small": SIZES["small"]})
        await stage.start("pool")
        await asyncio.sleep(20)
        assert [each.reason for each in stage.events(VmRetired)] == ["drained"]
        left = {each.name: each.total for each in summary(stage.state("pool")).pools}
        assert left == {"small": 2, "large": 1}
        await stage.stop(preview_id)
        await asyncio.sleep(20)
        assert [each.name for each in summary(stage.state("pool")).pools] == ["small"]
        assert len(stage.events(VmDestroyed)) == 2
        again = await stage.request(await stage.project(NEXT))
        await stage.until(PreviewReady, again, within_s=20)
        assert [each.code for each in stage.events(PreviewWarningRaised, again)] == ["vm_too_small"]
        check_rules(stage)
