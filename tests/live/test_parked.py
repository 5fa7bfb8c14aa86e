"""A reaction that fails too often, on real NATS: it is parked with its reason, and `drape parked` has it tried again."""

import asyncio

import msgspec

from shared.events import ProjectFilesChanged
from shared.jetstream.connection import bus_on
from shared.ports import Bus
from tests.deploy.waiting import eventually
from tests.live.client import SERVER, Client, node_project
from tests.live.platform import Platform

PARKED_WITHIN_S = 70.0
ALERT_WITHIN_S = 60.0


async def test_a_parked_reaction_is_shown_tried_again_and_dropped(platform: Platform, client: Client) -> None:
    """The project's list of files is damaged in the store; once it is mended, the preview that waited gets ready."""
    project_id = await client.project(node_project(SERVER))
    name = next(
        event.event.manifest
        for event in await platform.events()
        if isinstance(event.event, ProjectFilesChanged) and event.event.project_id == project_id
    )
    async with platform.connected("gateway") as writer, platform.bus() as bus:
        objects = bus_on(writer, "live").objects
        whole = await objects.get(name)
        await objects.put(name, b"{ half")
        preview_id = await client.request_preview(project_id)

        async def is_parked() -> bool:
            return bool(await bus.parked.list())

        await eventually(is_parked, PARKED_WITHIN_S)
        [key] = [each.key for each in await bus.parked.list()]
        commands = (("parked", "ls"), ("parked", "show", key), ("doctor",))
        listed, shown, doctor = await asyncio.gather(*(platform.drape(*each, "--json") for each in commands))
        await objects.put(name, whole)
        await eventually(lambda: _alerts(bus, ["reactions_parked"]), ALERT_WITHIN_S)
    again = await platform.drape("parked", "replay", key, "--json")
    assert (again.code, again.last) == (0, {"type": "replayed", "key": key})
    assert (await client.ended(preview_id))["status"] == "ready"
    assert [line["key"] for line in listed.lines if line["type"] == "Parked"] == [key]
    assert (shown.last["event"]["type"], shown.last["event"]["data"]["preview_id"]) == ("PreviewRequested", preview_id)
    assert "DecodeError" in shown.last["reason"]
    assert [line["level"] for line in doctor.lines if line.get("check") == "parked"] == ["warning"]
    assert (await platform.drape("parked", "ls", "--json")).last == {"type": "parked", "count": 0}
    async with platform.bus() as bus:
        await eventually(lambda: _alerts(bus, []), ALERT_WITHIN_S)
    await client.stop(preview_id)


async def _alerts(bus: Bus, names: list[str]) -> bool:
    """Whether just these alerts of parked reactions are raised now."""
    told = msgspec.json.decode(await bus.commands.query("telemetry", "alerts"))
    raised = [each["alert"] for each in told["alerts"]]
    return [name for name in raised if name == "reactions_parked"] == names


async def test_wrong_names_of_parked_reactions(platform: Platform) -> None:
    """Nothing is dropped by a name that means more than one, or none."""
    unknown: list[tuple[str, ...]] = [("show", "pool.event.>"), ("replay", "pool.event.1"), ("drop", "nothing")]
    for arguments in unknown:
        ran = await platform.drape("parked", *arguments, "--json")
        assert (ran.code, ran.last["code"]) == (1, "parked_not_found"), arguments
    unclear: list[tuple[str, ...]] = [("replay",), ("drop", "--all", "pool.event.1")]
    for arguments in unclear:
        ran = await platform.drape("parked", *arguments, "--json")
        assert (ran.code, ran.last["code"]) == (1, "nothing_chosen"), arguments
