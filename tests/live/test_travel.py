"""The log's past through the CLI, on the shared platform: states at a moment, differences, chosen events, a table."""

import asyncio
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest

from deploy.local.options import SERVICES
from deploy.travel.moments import written
from shared.errors import DrapeError
from tests.deploy.waiting import eventually
from tests.live.client import SERVER, Client, node_project
from tests.live.platform import Json, Platform

FOLLOW_WITHIN_S = 60.0


async def _preview(platform: Platform, client: Client) -> tuple[str, str]:
    """A project with a name that is sealed in the log, and a preview of it that has been ready and was stopped."""
    project_id = await client.project(node_project(SERVER), name="nightjar")
    preview_id = await client.request_preview(project_id)
    assert (await client.ended(preview_id))["status"] == "ready"
    await client.stop(preview_id)
    await platform.event("VmReleased", preview_id)
    return project_id, preview_id


async def test_what_was_at_a_moment(platform: Platform, client: Client) -> None:
    """At the newest event each state is the live one, by its digest; before that it is what it was then, by place and by time;
    a difference tells what lies between."""
    project_id, preview_id = await _preview(platform, client)
    ready = await platform.event("PreviewReady", preview_id)
    asked = await platform.event("PreviewRequested", preview_id)

    live: dict[str, Json] = {}
    async with platform.bus() as bus:

        async def all_agree() -> bool:
            for name in SERVICES:
                live[name] = msgspec.json.decode(await bus.commands.query(name, "digest"))
            return len({each["seq"] for each in live.values()}) == 1

        await eventually(all_agree, 60)
    [newest] = {each["seq"] for each in live.values()}
    commands: tuple[tuple[Any, ...], ...] = (
        ("replay", "--at", newest),
        ("replay", "--at", ready.seq, "--preview", preview_id),
        ("replay", "--at", written(asked.meta.at - 0.001), "--service", "gateway"),
        ("diff", asked.seq - 1, ready.seq),
    )
    now, then, timed, diff = await asyncio.gather(*(platform.drape(*map(str, each), "--json") for each in commands))

    assert {name: each["digest"] for name, each in now.last["services"].items()} == {
        name: each["digest"] for name, each in live.items()
    }
    states = {name: each["state"] for name, each in then.last["services"].items()}
    assert states["orchestrator"]["previews"][preview_id]["status"] == "ready"
    assert states["gateway"]["projects"][project_id]["name"] == "nightjar"
    assert [vm["preview_id"] for vm in states["pool"]["vms"].values()] == [preview_id]
    assert timed.last["seq"] < asked.seq
    assert preview_id not in timed.last["services"]["gateway"]["state"]["previews"]
    assert timed.last["services"].keys() == {"gateway"}

    *changes, whole = diff.lines
    assert (whole["from"], whole["to"], whole["left_out"]) == (asked.seq - 1, ready.seq, 0)
    assert sum(whole["events"].values()) == ready.seq - asked.seq + 1
    assert whole["events"]["PreviewReady"] >= 1
    added = {
        (each["service"], each["place"]) for each in changes if (each["type"], each["key"]) == ("added", preview_id)
    }
    assert added >= {("orchestrator", "previews"), ("gateway", "previews"), ("pool", "holders")}


async def test_what_there_is_not(platform: Platform) -> None:
    """A service or a preview that there is not: refused with a code, and with a hint that helps."""
    commands = {
        ("replay", "--at", "now", "--service", "pol"): "unknown_service",
        ("replay", "--at", "now", "--preview", "nope"): "unknown_preview",
        ("diff", "-10y", "now"): "bad_moment",
    }
    ran = await asyncio.gather(*(platform.drape(*each, "--json") for each in commands))

    assert {command: each.last["code"] for command, each in zip(commands, ran, strict=True)} == commands
    assert all(each.code == 1 and each.last["hint"] for each in ran)


async def test_chosen_events_and_the_table_of_them(platform: Platform, client: Client, tmp_path: Path) -> None:
    """By preview, project, VM and type, between two moments; the same in a file that DuckDB reads. Sealed texts are opened
    where that was asked for."""
    project_id, preview_id = await _preview(platform, client)
    log = await platform.events()
    [acquired] = [
        each.seq for each in log if each.type == "VmAcquired" and getattr(each.event, "preview_id", "") == preview_id
    ]
    released = await platform.event("VmReleased", preview_id)
    vm_id = released.key.rpartition(".")[2]
    sealed, opened = tmp_path / "sealed.parquet", tmp_path / "opened.ndjson"
    commands: tuple[tuple[Any, ...], ...] = (
        ("events", "--preview", preview_id),
        ("events", "--project", project_id, "--type", "ProjectCreated", "--type", "PreviewReady"),
        ("events", "--vm", vm_id, "--since", acquired - 1, "--until", released.seq),
        ("events", "--since", "5m ago", "--limit", 1),
        ("export", sealed),
        ("export", opened, "--open", "--type", "ProjectCreated"),
    )
    of_preview, of_project, of_vm, first, whole, part = await asyncio.gather(
        *(platform.drape(*map(str, each), "--json") for each in commands)
    )

    kinds = [each["type"] for each in of_preview.lines]
    assert kinds.index("PreviewRequested") < kinds.index("VmAcquired") < kinds.index("PreviewReady")
    assert kinds.index("PreviewReady") < kinds.index("PreviewStopped") < kinds.index("VmReleased")
    assert [each["type"] for each in of_project.lines] == ["ProjectCreated", "PreviewReady"]
    assert of_project.lines[0]["data"]["name"] == "nightjar"
    assert (of_vm.lines[0]["seq"], of_vm.last["seq"]) == (acquired, released.seq)
    assert {each["key"] for each in of_vm.lines} == {f"pool.vm.{vm_id}"}
    assert len(first.lines) == 1

    assert whole.last["events"] >= len(log)
    query = "SELECT type, data ->> 'name' FROM '{}' WHERE id = ? ORDER BY seq LIMIT 1"
    [(kind, name)] = duckdb.execute(query.format(sealed), [project_id]).fetchall()
    assert (kind, name.startswith(f"sealed.v1.{project_id}.")) == ("ProjectCreated", True)
    assert duckdb.execute(query.format(opened), [project_id]).fetchall() == [("ProjectCreated", "nightjar")]
    assert part.last["format"] == "ndjson"


async def test_events_as_they_come(platform: Platform, client: Client) -> None:
    """`--follow` with `--limit` ends after so many: those that were there, and those that come."""
    project_id = await client.project(node_project(SERVER))
    following = asyncio.create_task(
        platform.drape("events", "--follow", "--project", project_id, "--limit", "3", "--json")
    )
    assert (await client.patch(project_id, 1, {"more.txt": "more"})).status == 200

    lines = (await asyncio.wait_for(following, FOLLOW_WITHIN_S)).lines
    assert [each["type"] for each in lines] == ["ProjectCreated", "ProjectFilesChanged", "ProjectFilesChanged"]


async def test_streams_are_copied_by_the_archivist_alone(platform: Platform) -> None:
    """Not by a service, nor by who only reads; and the archivist reads and writes nothing else."""
    for identity, subject in (
        ("gateway", "$JS.API.STREAM.SNAPSHOT.KV_drape_keys"),
        ("observer", "$JS.API.STREAM.SNAPSHOT.DRAPE_EVENTS"),
        ("operator", "$JS.API.STREAM.RESTORE.DRAPE_EVENTS"),
        ("archivist", "$JS.API.STREAM.SNAPSHOT.DRAPE_LOGS"),
        ("archivist", "$JS.API.CONSUMER.CREATE.DRAPE_EVENTS.any"),
    ):
        async with platform.connected(identity, denied=True) as client:
            with pytest.raises(DrapeError) as refused:
                await client.request(subject, b"{}", timeout=30)
        assert refused.value.code == "nats_denied", (identity, subject)
