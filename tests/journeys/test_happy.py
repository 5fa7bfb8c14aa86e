"""A folder becomes a preview."""

import asyncio

import pytest

from shared.events import FilesSynced, InstallSkipped, PreviewReady, VmAcquired, VmDestroyed
from tests.journeys.rules import check_rules
from tests.journeys.stage import NEXT_16, STATIC, VITE, staged

pytestmark = pytest.mark.looptime


async def test_a_vite_project_is_installed_and_shown_from_the_warm_pool() -> None:
    """With a warm VM the preview takes the install's and the dev server's own time, and hardly more."""
    async with staged() as stage:
        project_id = await stage.project()
        client = stage.client(project_id)
        await client.connect()
        preview_id = await stage.request(project_id)
        ready = await stage.until(PreviewReady, preview_id, within_s=10)

        story = stage.story(preview_id)
        assert set(story[1:3]) == {"VmAcquired", "ProjectDetected"}
        assert story[:1] + story[3:] == [
            "PreviewRequested",
            "FilesSynced",
            "InstallStarted",
            "InstallCompleted",
            "DevServerStarted",
            "DevServerReady",
            "PreviewReady",
        ]
        assert ready.from_pool
        assert ready.install == "completed"
        assert 2.6 <= ready.total_s < 2.8
        assert set(ready.steps) == {"acquiring_vm", "syncing_files", "installing", "waiting_server", "confirming"}
        assert abs(sum(ready.steps.values()) - ready.total_s) < 0.02
        await client.until(lambda m: m["type"] == "preview_progress" and m["percent"] == 100, within_s=1)
        await asyncio.sleep(20)
        assert [line.text for line in stage.log_of(preview_id)] == [
            "resolving",
            "added 42 packages in 2s",
            "dev server ready in 300 ms",
        ]
        check_rules(stage)


@pytest.mark.parametrize("warm", [True, False], ids=["warm pool", "empty pool"])
@pytest.mark.parametrize("files", [VITE, STATIC], ids=["vite", "static"])
async def test_every_kind_becomes_ready_from_a_warm_and_from_an_empty_pool(files: dict[str, bytes], warm: bool) -> None:
    """An empty pool costs one boot; a project without dependencies costs no install."""
    boot_s = 3.0
    async with staged(warm=warm, boot_s=boot_s) as stage:
        project_id = await stage.project(files)
        preview_id = await stage.request(project_id)
        ready = await stage.until(PreviewReady, preview_id, within_s=20)

        (acquired,) = stage.events(VmAcquired, preview_id)
        assert (ready.from_pool, acquired.from_pool) == (warm, warm)
        own_s = 2.6 if files is VITE else 0.6
        boots_s = 0 if warm else boot_s
        assert own_s + boots_s <= ready.total_s < own_s + boots_s + 0.3
        skipped = [event.reason for event in stage.events(InstallSkipped, preview_id)]
        assert skipped == ([] if files is VITE else ["no_dependencies"])
        assert len(stage.workspace.installs_run()) == (1 if files is VITE else 0)
        await asyncio.sleep(20)
        assert len(stage.provider.vms) == 4, "three warm ones beside the one in use"
        check_rules(stage)


async def test_a_troublesome_next_version_raises_a_warning_that_reaches_the_browser() -> None:
    """Next.js 16.0: the preview goes on, the client gets the message that front ends know."""
    async with staged() as stage:
        project_id = await stage.project(NEXT_16)
        client = stage.client(project_id)
        await client.connect()
        preview_id = await stage.request(project_id)
        await stage.until(PreviewReady, preview_id, within_s=10)

        warning = await client.until(lambda m: m["type"] == "nextjs_version", within_s=1)
        assert warning["version"] == "16.0.3"
        assert warning["recommendation"] == "15.3.0"
        assert warning["message"]
        assert warning["link"].startswith("https://")
        assert len(client.of_type("nextjs_version")) == 1
        await asyncio.sleep(20)
        check_rules(stage)


@pytest.mark.parametrize("when", ["InstallStarted", "PreviewReady"])
async def test_edits_reach_the_vm_once_each_and_in_order(when: str) -> None:
    """Whether the install still runs or the preview is ready: each version is written once, the later one later."""
    async with staged() as stage:
        project_id = await stage.project()
        preview_id = await stage.request(project_id)
        await stage.reached(when, preview_id)
        for number in range(3):
            await stage.change(project_id, {"index.html": f"edit {number}".encode()})
            await asyncio.sleep(0.2)
        await stage.until(PreviewReady, preview_id, within_s=10)
        await asyncio.sleep(20)

        (acquired,) = stage.events(VmAcquired, preview_id)
        assert [(acquired.vm_id, version) for version in (1, 2, 3, 4)] == stage.workspace.versions
        assert [event.files_version for event in stage.events(FilesSynced, preview_id)] == [1, 2, 3, 4]
        assert len(stage.workspace.installs_run()) == 1
        check_rules(stage)


async def test_edits_faster_than_a_sync_are_brought_in_together_and_never_go_back() -> None:
    """A burst of ten saves: the VM's version only goes up, and ends at the newest."""
    async with staged() as stage:
        project_id = await stage.project()
        preview_id = await stage.request(project_id)
        await stage.until(PreviewReady, preview_id, within_s=10)
        for number in range(10):
            await stage.change(project_id, {"index.html": f"edit {number}".encode()})
        await asyncio.sleep(20)

        versions = [version for _, version in stage.workspace.versions]
        assert versions == sorted(set(versions))
        assert versions[-1] == 11
        check_rules(stage)


async def test_a_stopped_preview_gives_its_vm_back() -> None:
    """The used VM is destroyed, not handed on; the pool is full again."""
    async with staged() as stage:
        project_id = await stage.project(STATIC)
        preview_id = await stage.request(project_id)
        await stage.until(PreviewReady, preview_id, within_s=10)
        (acquired,) = stage.events(VmAcquired, preview_id)
        await stage.stop(preview_id)
        await asyncio.sleep(20)

        assert acquired.vm_id in [event.vm_id for event in stage.events(VmDestroyed)]
        assert acquired.vm_id not in stage.provider.vms
        assert len(stage.provider.vms) == 3
        check_rules(stage)
