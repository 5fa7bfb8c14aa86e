"""Deleting a project over HTTP: once or twice, and how far it is; another owner's, or none, looks the same."""

import msgspec

from shared.events import PreviewRequested, PreviewStopped, ProjectCreated
from shared.output import LogLine
from shared.sealed import is_sealed
from tests.deploy.waiting import eventually
from tests.gateway.api_stage import PREVIEW, TOKEN, ApiStage, api_stage

OTHER_TOKEN = "token-of-bob-456789"

SPOKEN = LogLine(at=1.0, step="dev_server", stream="stdout", text="shop")


async def erased(stage: ApiStage, project_id: str) -> bool:
    return bool((await stage.call("GET", f"/api/projects/{project_id}/erasure")).json["erased"])


async def test_a_project_is_deleted_once() -> None:
    """What is left goes behind the answer; asked again, there is nothing more to do."""
    async with api_stage() as stage:
        project_id = await stage.project()
        await stage.record(PreviewRequested(preview_id=PREVIEW, project_id=project_id, owner="alice", files_version=1))
        await stage.say(SPOKEN)
        await stage.bus.objects.put(f"alice/{project_id}/left-behind", b"of an upload that broke off")
        assert (await stage.call("DELETE", f"/api/projects/{project_id}")).status == 204
        pending = (await stage.call("GET", f"/api/projects/{project_id}/erasure")).json
        assert (pending["erased"], pending["previews"]) == (False, None), "its preview runs"

        await stage.record(PreviewStopped(preview_id=PREVIEW, reason="project_deleted"))
        await eventually(lambda: erased(stage, project_id), 20.0)
        done = (await stage.call("GET", f"/api/projects/{project_id}/erasure")).json
        counts = {"previews": 1, "output_batches": 1, "objects": 1, "reactions": 0}
        assert done == {"project_id": project_id, "erased": True, **counts}
        assert (await stage.call("DELETE", f"/api/projects/{project_id}")).status == 204
        assert (await stage.call("GET", f"/api/projects/{project_id}")).problem() == (404, "project_not_found")
        assert stage.broker.objects == {}


async def test_nobody_else_s_project() -> None:
    """Before and after it was deleted; nor one that never was."""
    async with api_stage() as stage:
        project_id = await stage.project()
        paths = [("DELETE", f"/api/projects/{project_id}"), ("GET", f"/api/projects/{project_id}/erasure")]
        for method, path in (*paths, ("DELETE", "/api/projects/none"), ("GET", "/api/projects/none/erasure")):
            answer = await stage.call(method, path, token=OTHER_TOKEN)
            assert answer.problem() == (404, "project_not_found")
        assert project_id in stage.runtime.state.projects
        assert (await stage.call("GET", paths[1][1])).problem() == (404, "project_not_found"), "it is there"
        assert (await stage.call(*paths[0])).status == 204
        for method, path in paths:
            assert (await stage.call(method, path, token=OTHER_TOKEN)).problem() == (404, "project_not_found")


async def test_answers_show_what_the_state_holds_sealed() -> None:
    """Every route passes one door; streams open each message."""
    async with api_stage() as stage:
        project_id = await stage.project("Ann's shop")
        [created] = [each.event for each in stage.broker.records if isinstance(each.event, ProjectCreated)]
        assert is_sealed(created.name)
        assert is_sealed(stage.runtime.state.projects[project_id].name)
        listed = await stage.call("GET", "/api/projects")
        assert [each["name"] for each in listed.json["projects"]] == ["Ann's shop"]
        await stage.record(PreviewRequested(preview_id=PREVIEW, project_id=project_id, owner="alice", files_version=1))
        assert (await stage.view())["project_name"] == "Ann's shop"
        async for kind, message in stage.sse(f"/api/previews/{PREVIEW}/events"):
            assert (kind, message["previews"][0]["project_name"]) == ("state", "Ann's shop")
            break
        async with stage.session.ws_connect(f"{stage.url}/ws", headers={"Authorization": f"Bearer {TOKEN}"}) as socket:
            first = msgspec.json.decode(await socket.receive_str())
            assert first["projects"][0]["name"] == "Ann's shop"


async def test_a_line_that_looks_sealed_is_only_a_line() -> None:
    """A project may print what it likes: nobody's text is opened by it, and no stream breaks."""
    async with api_stage() as stage:
        project_id = await stage.project()
        [created] = [each.event for each in stage.broker.records if isinstance(each.event, ProjectCreated)]
        await stage.record(PreviewRequested(preview_id=PREVIEW, project_id=project_id, owner="alice", files_version=1))
        lines = ["sealed.v1.none.AAAA", "sealed.v1.>.AAAA", f"{created.name} "]
        await stage.say(*(LogLine(at=1.0, step="install", stream="stdout", text=text) for text in lines))
        page = await stage.call("GET", f"/api/previews/{PREVIEW}/logs")
        assert [line["text"] for line in page.json["lines"]] == lines
        async for _, message in stage.sse(f"/api/previews/{PREVIEW}/logs"):
            assert [line["text"] for line in message["lines"]] == lines
            break
