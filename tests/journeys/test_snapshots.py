"""Services that start from a snapshot: nobody can tell, but for the time that it takes."""

import logging

import msgspec
import pytest

from deploy.simulation.services import SERVICES
from services.gateway.state import SERVED
from shared.commands import RequestPreview
from shared.definition import digest, replay
from shared.events import PreviewReady, PreviewRequested
from shared.snapshot import Snapshot
from shared.snapshots import SnapshotKeeper
from tests.journeys.rules import check_rules
from tests.journeys.stage import OWNER, Stage, staged

pytestmark = pytest.mark.looptime


async def keep_all(stage: Stage) -> None:
    """Each service writes its state down now."""
    for name in SERVICES:
        assert await SnapshotKeeper(stage.replicas[name].runtime, events=1, period_s=1.0).keep()


async def restart_all(stage: Stage) -> None:
    for name in SERVICES:
        await stage.crash(name)
    for name in SERVICES:
        await stage.start(name)


def check_states(stage: Stage) -> None:
    """Every service's state is what the whole log leads to."""
    for name in SERVICES:
        runtime = stage.replicas[name].runtime
        assert runtime.seq == len(stage.broker.records)
        assert digest(runtime.state) == digest(replay(runtime.definition, stage.broker.records)), name


async def test_services_go_on_from_a_snapshot() -> None:
    """What came since is folded on top; what ran goes on, and a command that is sent again does its work once."""
    async with staged() as stage:
        first = await stage.request(await stage.project())
        await stage.until(PreviewReady, first, within_s=30)
        await keep_all(stage)
        kept_at = len(stage.broker.records)
        other = await stage.project()
        command = RequestPreview(id="01jd000000000000000000same", project_id=other, owner=OWNER)
        await stage.send(command)
        await keep_all(stage)
        await restart_all(stage)
        assert all(stage.replicas[name].runtime.snapshot_seq > kept_at for name in SERVICES)
        await stage.send(command)
        second = stage.events(PreviewRequested)[-1].preview_id
        await stage.until(PreviewReady, second, within_s=30)
        assert len(stage.events(PreviewRequested)) == 2
        assert stage.state("gateway").previews[first].status in SERVED
        check_states(stage)
        check_rules(stage)


async def test_a_snapshot_that_is_wrong_costs_a_replay_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    """Damaged, of a log that was made anew, of other code, of a log that went on otherwise: one warning each."""
    async with staged() as stage:
        preview_id = await stage.request(await stage.project())
        await stage.until(PreviewReady, preview_id, within_s=30)
        await keep_all(stage)
        changed = {
            "pool": {"sha256": "0" * 64},
            "orchestrator": {"log": "another"},
            "gateway": {"fingerprint": "another"},
            "telemetry": {"event_id": "another"},
        }
        for key, snapshot in list(stage.broker.snapshots.items.items()):
            head = msgspec.structs.replace(snapshot.head, **changed[key[0]])
            stage.broker.snapshots.items[key] = Snapshot(head, snapshot.body)
        with caplog.at_level(logging.WARNING, "drape.snapshots"):
            await restart_all(stage)
        ignored = [record for record in caplog.records if record.getMessage() == "snapshot_ignored"]
        assert [record.__dict__["service"] for record in ignored] == list(SERVICES)
        assert [stage.replicas[name].runtime.snapshot_seq for name in SERVICES] == [0, 0, 0, 0]
        check_states(stage)
        for name in SERVICES:  # each is written over, although no event has come since
            keeper = SnapshotKeeper(stage.replicas[name].runtime, events=1_000, period_s=1.0)
            assert await keeper.keep_if_due()
            assert not await keeper.keep_if_due()
        await restart_all(stage)
        assert all(stage.replicas[name].runtime.snapshot_seq for name in SERVICES)
        check_states(stage)
        check_rules(stage)
