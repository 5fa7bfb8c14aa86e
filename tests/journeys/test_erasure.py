"""A deleted project: everything of it goes, and what the log says of it by name can't be read any more, by anybody."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest

from deploy.simulation.services import SERVICES
from services.gateway.decide import project_id_of
from services.orchestrator.adapters.simulated import JobScript
from shared.commands import CreateProject, DeleteProject, ProjectReply
from shared.definition import digest, replay
from shared.events import (
    InstallStarted,
    PreviewFailed,
    PreviewReady,
    PreviewRequested,
    PreviewStopped,
    ProjectDeleted,
    ProjectDetected,
    ProjectErased,
    VmDestroyed,
)
from shared.output import LogLine
from shared.ports import TimerFired
from shared.sealed import ERASED, is_sealed
from tests.journeys.rules import check_rules
from tests.journeys.stage import OWNER, SECRET, VITE, Stage, staged

pytestmark = pytest.mark.looptime

NAME, FOLDER, SCRIPT = "Operation Nightingale", "nightingale-wing", "nightingale-vite"
FILES = {
    "package.json": b'{"workspaces": ["nightingale-wing"]}',
    "nightingale-wing/package.json": b'{"scripts": {"dev": "vite --mode nightingale"}, "devDependencies": {"vite": "^7.0.0"}}',
    "package-lock.json": VITE["package-lock.json"],
    "nightingale-wing/index.html": b"<h1>vite</h1>",
}
SPOKEN = b"nightingale"


async def named(stage: Stage) -> str:
    """A project whose name, folder and command are somebody's."""
    reply = msgspec.json.decode(await stage.send(CreateProject(owner=OWNER, name=NAME)), type=ProjectReply)
    await stage.change(reply.project_id, FILES)
    return reply.project_id


async def delete(stage: Stage, project_id: str) -> ProjectErased:
    await stage.send(DeleteProject(project_id=project_id, owner=OWNER))
    return await stage.until(ProjectErased, within_s=60)


def written(stage: Stage) -> bytes:
    """All that is stored, as its bytes: the log, objects, output, what is parked; and the states, as a snapshot has them."""
    broker = stage.broker
    states = [stage.replicas[name].runtime.state for name in stage.replicas if stage.replicas[name].alive]
    log = msgspec.json.encode([each.event for each in broker.records])
    parked, output = msgspec.json.encode(broker.parked.items), msgspec.json.encode(broker.preview_logs)
    return b"\n".join([log, msgspec.json.encode(states), parked, output, *broker.objects.values()]).lower()


@contextmanager
def replays_alike(stage: Stage) -> Iterator[None]:
    """After the block each replica's state is what the log gives."""
    yield
    for name, replica in stage.replicas.items():
        if replica.alive:
            again = replay(replica.runtime.definition, stage.broker.records)
            assert digest(again) == digest(replica.runtime.state), name


async def test_the_log_never_holds_a_name() -> None:
    """Neither do the states; the texts are there for those who show them, and for the jobs."""
    async with staged() as stage:
        project_id = await named(stage)
        preview_id = await stage.request(project_id)
        await stage.until(PreviewReady, preview_id, within_s=30)

        log = msgspec.json.encode([each.event for each in stage.broker.records]).lower()
        assert SPOKEN not in log
        [detected] = stage.events(ProjectDetected, preview_id)
        assert (await stage.bus.seals.opened(detected)).app_root == FOLDER
        assert all(is_sealed(each) for each in (detected.app_root, *detected.dev_command, *detected.evidence))
        assert stage.workspace.specs[-1].cwd == FOLDER
        assert "nightingale" in stage.workspace.specs[-1].argv
        shown = await stage.bus.seals.opened(stage.state("gateway").projects[project_id])
        assert shown.name == NAME


async def test_a_deleted_project_leaves_nothing() -> None:
    """A preview that runs, one that has ended long ago, what is parked: the event says how much that was."""
    async with staged() as stage:
        project_id = await named(stage)
        old = await stage.request(project_id)
        await stage.until(PreviewReady, old, within_s=30)
        await stage.stop(old)
        await stage.bus.preview_logs.append(old, [LogLine(at=1.0, step="dev_server", stream="stdout", text=NAME)])
        await asyncio.sleep(2 * 3600.0)
        live = await stage.request(project_id)
        await stage.until(PreviewReady, live, within_s=30)
        assert old not in stage.state("gateway").previews
        timer = TimerFired(name="step", id=live, key="k", data={})
        stage.broker.parked.park("orchestrator", timer, 12, f"Invalid: {FOLDER}")
        assert SPOKEN in written(stage)

        with replays_alike(stage):
            erased = await delete(stage, project_id)
            assert (erased.previews, erased.reactions, erased.output_batches >= 1) == (2, 1, True)
            assert erased.objects >= 2
            assert stage.events(PreviewStopped, live)
            assert stage.broker.preview_logs.get(old) is None
            assert SPOKEN not in written(stage)
            assert stage.broker.keys[project_id] == b""
            await asyncio.sleep(300)
        assert stage.forgotten == [project_id]
        assert len(stage.events(ProjectErased)) == 1
        [detected, *_] = stage.events(ProjectDetected)
        assert (await stage.bus.seals.opened(detected)).dev_command == (ERASED,)
        check_rules(stage)


async def test_what_came_late_goes_too() -> None:
    """An upload and a line of output that were on their way while everything was removed."""
    async with staged() as stage:
        project_id = await named(stage)
        preview_id = await stage.request(project_id)
        await stage.until(PreviewReady, preview_id, within_s=30)
        await delete(stage, project_id)
        await stage.bus.objects.put(f"{OWNER}/{project_id}/late", SPOKEN)
        await stage.bus.preview_logs.append(preview_id, [LogLine(at=1.0, step="install", stream="stdout", text=NAME)])
        await asyncio.sleep(200)
        assert SPOKEN not in written(stage)


async def test_a_failed_preview_s_vm_goes_and_its_words_too() -> None:
    """Its VM was held for the next try."""
    async with staged() as stage:
        stage.workspace.install = JobScript(lasts_s=1.0, exit_code=1, lines=((0.5, f"npm error {FOLDER}"),))
        project_id = await named(stage)
        preview_id = await stage.request(project_id)
        await stage.until(PreviewFailed, preview_id, within_s=60)
        with replays_alike(stage):
            await delete(stage, project_id)
            await stage.until(VmDestroyed, within_s=60)
            await asyncio.sleep(200)
        assert SPOKEN not in written(stage)


@pytest.mark.parametrize("service", SERVICES)
async def test_a_replica_that_starts_afterwards_has_the_same_state(service: str) -> None:
    """It replays texts that nobody can read any more."""
    async with staged() as stage:
        project_id = await named(stage)
        await stage.until(PreviewReady, await stage.request(project_id), within_s=30)
        await delete(stage, project_id)
        await asyncio.sleep(200)
        await stage.start(f"{service}/1")
        await asyncio.sleep(30)
        assert digest(stage.state(f"{service}/1")) == digest(stage.state(service))
        assert stage.replicas[f"{service}/1"].runtime.seq == stage.replicas[service].runtime.seq
        check_rules(stage)


async def test_a_replica_that_dies_leaves_the_rest_to_the_next() -> None:
    """The gateway is killed as the deletion is stored, and another does the work."""
    async with staged() as stage:
        project_id = await named(stage)
        await stage.until(PreviewReady, await stage.request(project_id), within_s=30)
        dead = stage.crash_when("gateway", "ProjectDeleted")
        deleting = asyncio.create_task(stage.send(DeleteProject(project_id=project_id, owner=OWNER)))
        await dead
        await stage.start("gateway/1")
        await deleting
        await stage.until(ProjectErased, within_s=60)
        assert SPOKEN not in written(stage)


async def test_two_projects_two_keys() -> None:
    """One goes, the other stays readable, also to a replica that has never asked for its key."""
    async with staged() as stage:
        gone, stays = await named(stage), await named(stage)
        await delete(stage, gone)
        await stage.start("gateway/1")
        shown = await stage.replicas["gateway/1"].runtime.bus.seals.opened(stage.state("gateway/1").projects[stays])
        assert shown.name == NAME
        assert stage.broker.keys[stays] not in (b"", SECRET.encode())


async def test_no_new_key_after_the_deletion() -> None:
    """What is still said of the project is said without its words."""
    async with staged() as stage:
        project_id = await named(stage)
        preview_id = await stage.request(project_id)
        await stage.until(InstallStarted, preview_id, within_s=30)
        await delete(stage, project_id)
        await asyncio.sleep(200)
        [deleted] = stage.events(ProjectDeleted)
        assert deleted.project_id == project_id
        assert stage.broker.keys == {project_id: b""}
        assert len(stage.events(PreviewRequested)) == 1


def test_the_id_is_known_before() -> None:
    """A key belongs to the id that the command will give, so that the first event can be sealed."""
    command = CreateProject(id="01jd0000000000000000000cmd", owner=OWNER, name=NAME)
    assert project_id_of(command) == project_id_of(msgspec.structs.replace(command, name="another"))
