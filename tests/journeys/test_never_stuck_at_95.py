"""The old system's worst habit: a bar at 95 percent for ever. Each way there is played, and each has an end."""

import asyncio
from itertools import pairwise
from typing import Any

import pytest

from services.orchestrator.adapters.simulated import JobScript
from services.orchestrator.config import OrchestratorConfig
from shared.events import DevServerReady, PreviewFailed, PreviewReady
from shared.ports import Progress
from tests.journeys.rules import check_rules
from tests.journeys.stage import staged

pytestmark = pytest.mark.looptime


@pytest.mark.parametrize("gateway_dies", [False, True], ids=["gateway stays", "gateway was restarted"])
async def test_ready_while_the_client_was_away_is_seen_at_once_when_it_is_back(gateway_dies: bool) -> None:
    """The client leaves during the wait, the preview becomes ready, the client comes back with `since`."""
    async with staged() as stage:
        project_id = await stage.project()
        client = stage.client(project_id)
        await client.connect()
        preview_id = await stage.request(project_id)
        await client.until(lambda m: m.get("step") == "waiting_server", within_s=10)
        await client.leave()
        await stage.until(PreviewReady, preview_id, within_s=10)
        if gateway_dies:
            await stage.crash("gateway")
            await stage.start("gateway")
        await asyncio.sleep(60)
        heard = len(client.heard)
        back_at = stage.now()

        def is_ready(message: dict[str, Any]) -> bool:
            return [preview["status"] for preview in message["previews"]] == ["ready"]

        await client.connect()
        await client.until(lambda m: m["type"] == "state" and is_ready(m), within_s=0.1)

        assert stage.now() == back_at
        if not gateway_dies:
            await client.until(lambda m: m.get("step") == "server_ready", within_s=0.1)
        assert client.heard[heard][1]["previews"][0]["percent"] == 100
        if not gateway_dies:
            assert client.bar(preview_id)[-1][1:] == ("server_ready", 100.0)
        check_rules(stage)


async def test_a_client_gone_through_a_gateway_restart_misses_nothing() -> None:
    """The restarted gateway does not hold the old changes: it reads them from the log."""
    async with staged() as stage:
        project_id = await stage.project()
        client = stage.client(project_id)
        await client.connect()
        preview_id = await stage.request(project_id)
        await client.until(lambda m: m.get("step") == "waiting_server", within_s=10)
        await client.leave()
        await stage.until(PreviewReady, preview_id, within_s=10)
        await stage.crash("gateway")
        await stage.start("gateway")
        heard = len(client.heard)
        await client.connect()
        await asyncio.sleep(0.1)

        assert client.heard[heard][1]["missed"] is False
        assert [m["event"] for _, m in client.heard[heard + 1 :] if m["type"] == "preview"] == [
            each.type for each in stage.broker.records if each.type in ("DevServerReady", "PreviewReady", "HmrProbed")
        ]


CHATTER = tuple((float(second), "still compiling") for second in range(0, 200, 20))


@pytest.mark.parametrize("lines", [CHATTER, ()], ids=["chatty", "silent"])
@pytest.mark.parametrize("listens", [False, True], ids=["no port", "port without an answer"])
async def test_a_dev_server_that_never_answers_fails_at_its_limit(
    listens: bool, lines: tuple[tuple[float, str], ...]
) -> None:
    """The bar moves all the time, never reaches 100, and a limit ends it with a code that says what happened: one
    that says nothing either hangs, which is known sooner."""
    async with staged() as stage:
        stage.workspace.dev_server = JobScript(listens_s=1.0 if listens else None, lines=lines)
        project_id = await stage.project()
        client = stage.client(project_id)
        await client.connect()
        preview_id = await stage.request(project_id)
        failed = await stage.until(PreviewFailed, preview_id, within_s=140)

        assert failed.code == ("dev_server_timeout" if lines else "dev_server_hung")
        assert failed.step == "waiting_server"
        assert failed.message
        assert failed.hint
        config = stage.orchestrator_config
        limit_s = config.boot_limit_s if lines else config.hung_s
        bar = client.bar(preview_id)
        waiting = [(at, percent) for at, step, percent in bar if step == "waiting_server"]
        began = waiting[0][0]
        assert limit_s - 0.1 <= stage.at(PreviewFailed, preview_id) - began < limit_s + 0.5
        assert all(85 <= percent < 95 for _, percent in waiting)
        per_second = {int(at - began): percent for at, percent in waiting}
        assert set(range(int(limit_s))) <= set(per_second), "a tick in every second"
        moved = [per_second[second] for second in sorted(per_second)]
        assert all(later > earlier for earlier, later in pairwise(moved))
        percents = [percent for _, _, percent in bar]
        assert percents == sorted(percents)
        await asyncio.sleep(20)
        check_rules(stage)


async def test_a_hanging_install_fails_at_its_limit() -> None:
    """A registry that hangs is not waited for for ever."""
    async with staged() as stage:
        stage.workspace.install = JobScript()
        project_id = await stage.project()
        preview_id = await stage.request(project_id)
        failed = await stage.until(PreviewFailed, preview_id, within_s=140)

        assert failed.code == "install_timeout"
        assert failed.step == "installing"
        await asyncio.sleep(20)
        check_rules(stage)


async def test_a_preview_that_does_not_answer_through_the_gateway_fails_at_its_limit() -> None:
    """Ready means the browser's own path; what only the agent can see is not ready."""
    async with staged() as stage:
        project_id = await stage.project()
        await stage.crash("gateway")
        preview_id = await stage.request(project_id)
        failed = await stage.until(PreviewFailed, preview_id, within_s=60)
        await stage.start("gateway")

        assert failed.code == "gateway_unreachable"
        assert stage.events(PreviewReady) == []
        await asyncio.sleep(20)
        check_rules(stage)


async def test_a_server_error_through_the_gateway_is_not_ready_until_it_is_gone() -> None:
    """502s at first are tried again."""
    async with staged() as stage:
        stage.probe.faults.extend([502, 500, 503])
        project_id = await stage.project()
        preview_id = await stage.request(project_id)
        ready = await stage.until(PreviewReady, preview_id, within_s=10)

        assert 0.9 <= ready.steps["confirming"] < 1.2
        await asyncio.sleep(20)
        check_rules(stage)


async def test_a_dev_server_that_shows_an_error_is_shown_with_it_and_ready_once_it_is_mended() -> None:
    """A broken project is told as broken, long before the time limit, and nobody has to restart it."""
    async with staged() as stage:
        stage.workspace.dev_server = JobScript(listens_s=0.5, answers_s=1.0, status=500, mended_s=30.0)
        project_id = await stage.project()
        preview_id = await stage.request(project_id)
        ready = await stage.until(PreviewReady, preview_id, within_s=15)
        assert ready.with_errors
        await asyncio.sleep(30)
        await stage.change(project_id, {"src/main.js": b"mended"})
        mended = await stage.until(DevServerReady, preview_id, within_s=3, nth=2)

        assert not mended.with_errors
        assert not stage.state("orchestrator").previews[preview_id].with_errors
        await asyncio.sleep(20)
        check_rules(stage)


async def test_an_error_that_goes_away_by_itself_is_found_out_too() -> None:
    """A database that came late, say: without any edit, within the longest pause between two looks."""
    async with staged() as stage:
        stage.workspace.dev_server = JobScript(listens_s=0.5, answers_s=1.0, status=500, mended_s=100.0)
        preview_id = await stage.request(await stage.project())
        limit_s = 100.0 + stage.orchestrator_config.error_recheck_max_s + 5
        mended = await stage.until(DevServerReady, preview_id, within_s=limit_s, nth=2)

        assert not mended.with_errors
        check_rules(stage)


async def test_a_step_of_a_newer_service_reaches_the_client_and_turns_nothing_back() -> None:
    """A tick with an unknown step arrives unharmed; the bar that follows is not lower than before."""
    async with staged() as stage:
        stage.workspace.dev_server = JobScript(listens_s=4.0, answers_s=6.0)
        project_id = await stage.project()
        client = stage.client(project_id)
        await client.connect()
        preview_id = await stage.request(project_id)
        await client.until(lambda m: m.get("step") == "waiting_server" and m["elapsed"] > 4, within_s=10)
        tick = Progress(
            preview_id=preview_id,
            step="warming_the_flux",
            percent=94.0,
            message="Warming the flux",
            timestamp=stage.clock(),
            elapsed=4.0,
            details={"attempt": 1, "flux": "cold"},
        )
        await stage.bus.progress.publish(tick)
        told = await client.until(lambda m: m.get("step") == "warming_the_flux", within_s=1)
        assert told["message"] == "Warming the flux"
        assert told["details"]["flux"] == "cold"
        await stage.until(PreviewReady, preview_id, within_s=10)
        await asyncio.sleep(1)

        percents = [percent for _, step, percent in client.bar(preview_id)]
        assert percents == sorted(percents)
        assert percents[-1] == 100
        check_rules(stage)


async def test_progress_is_told_at_least_every_second_from_request_to_ready() -> None:
    """Through every step, also the wait for a VM."""
    async with staged(warm=False, boot_s=5.0, orchestrator=OrchestratorConfig()) as stage:
        stage.workspace.install = JobScript(lasts_s=7.0)
        stage.workspace.dev_server = JobScript(listens_s=3.0, answers_s=5.0)
        project_id = await stage.project()
        client = stage.client(project_id)
        await client.connect()
        preview_id = await stage.request(project_id)
        await stage.until(PreviewReady, preview_id, within_s=30)
        await asyncio.sleep(0.1)

        bar = client.bar(preview_id)
        gaps = [later[0] - earlier[0] for earlier, later in pairwise(bar)]
        assert max(gaps) <= 1.0
        assert [percent for _, _, percent in bar] == sorted(percent for _, _, percent in bar)
        check_rules(stage)
