"""What went wrong, why it took long, and the whole story of a preview: over the API and through the CLI, on a real platform."""

import asyncio

from tests.deploy.waiting import eventually
from tests.live.client import SERVER, Client, node_project
from tests.live.platform import Platform

PROJECTED_WITHIN_S = 60.0
BROKEN = "throw new Error('no way ' + {})\n"


async def test_errors_are_grouped_by_cause_and_told_with_their_messages(platform: Platform, client: Client) -> None:
    """Two projects that fail alike are one group, one that fails otherwise with the same code is another; each occurrence
    names its preview, and its words can be read."""
    failed = []
    for number in (1, 2):
        preview_id = await client.request_preview(await client.project(node_project(BROKEN.format(number))))
        view = await client.ended(preview_id)
        assert view["status"] == "failed"
        failed.append(preview_id)
    other = await client.request_preview(await client.project(node_project("throw new TypeError('another thing')")))
    assert (await client.ended(other))["error"]["code"] == view["error"]["code"]
    code, message = view["error"]["code"], view["error"]["message"]

    async def all_are_there() -> bool:
        found = (await client.call("GET", f"/api/errors?code={code}")).json["errors"]
        return {failed[1], other} <= {each["last"]["preview_id"] for each in found}

    async def group() -> dict[str, object] | None:
        found = (await client.call("GET", f"/api/errors?code={code}")).json["errors"]
        return next((each for each in found if each["last"]["preview_id"] == failed[1]), None)

    await eventually(all_are_there, PROJECTED_WITHIN_S)
    known = await group()
    assert known is not None
    assert (known["type"], known["previews"], known["framework"]) == ("PreviewFailed", 2, view["framework"])
    listed, one, unknown = await asyncio.gather(
        platform.drape("errors", "--code", code, "--json"),
        platform.drape("errors", str(known["fingerprint"]), "--json"),
        platform.drape("errors", "0" * 16),
    )
    assert known["fingerprint"] in {each["fingerprint"] for each in listed.lines[:-1]}
    assert (listed.last["type"], listed.last["count"]) == ("errors", len(listed.lines) - 1)
    assert [(each["preview_id"], each["message"]) for each in one.lines[:-1]] == [
        (failed[1], message),
        (failed[0], one.lines[1]["message"]),
    ]
    assert unknown.code == 1
    assert "There is no error" in unknown.err


async def test_a_preview_s_story_is_told_from_the_log(platform: Platform, client: Client) -> None:
    """Each event of it with its cause, its VM among them, and what took how long; an unknown one has near matches."""
    view = await client.ready(node_project(SERVER))
    preview_id = view["preview_id"]

    async def timed() -> bool:
        answer = await client.call("GET", f"/api/previews/{preview_id}/timing")
        return answer.status == 200 and answer.json["status"] == "ready"

    await eventually(timed, PROJECTED_WITHIN_S)
    timing = (await client.call("GET", f"/api/previews/{preview_id}/timing")).json
    await client.stop(preview_id)
    machine, person, unknown = await asyncio.gather(
        platform.drape("explain", preview_id, "--json"),
        platform.drape("explain", preview_id),
        platform.drape("explain", preview_id[4:-4]),
    )
    own = [each.seq for each in await platform.events(preview_id)]
    *events, story = machine.lines
    told = {each["seq"]: each for each in events}
    by_event = {each["event"]: each for each in events}

    assert set(own) - set(told) <= {seq for seq in own if seq > events[-1]["seq"]}
    assert [each["since_s"] for each in events] == sorted(each["since_s"] for each in events)
    assert by_event["PreviewReady"]["because"] == {
        "command": "ConfirmPreview",
        "seq": by_event["DevServerReady"]["seq"],
        "event": "DevServerReady",
    }
    assert by_event["VmAcquired"]["decided"] == "pool"
    assert by_event["PreviewRequested"]["actor"] == "gateway/http"
    assert (story["type"], story["status"], story["cut"], story["why_missing"]) == ("story", "stopped", False, "")
    assert story["why"]
    assert story["total_s"] == timing["total_s"]
    assert {each["name"] for each in timing["attempts"][0]["steps"]} >= {"acquiring_vm", "syncing_files", "confirming"}
    assert f"READY after {view['total_s']:.1f} s" in person.out
    assert "sealed." not in person.out + machine.out
    assert unknown.code == 1
    assert preview_id in unknown.err
