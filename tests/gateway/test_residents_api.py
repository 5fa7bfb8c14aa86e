"""A template's residents over HTTP: set, told, and shown nowhere else."""

import msgspec
import pytest

from services.gateway.adapters.feed import Feed
from services.gateway.config import GatewayConfig
from shared.events import PreviewRequested
from tests.builders import PREVIEW, preview_requested, preview_stopped, project_created
from tests.gateway.api_stage import api_stage

RESIDENT: PreviewRequested = msgspec.structs.replace(preview_requested(), resident=True)


async def test_a_project_is_made_a_template() -> None:
    async with api_stage() as stage:
        project_id = await stage.project()
        path = f"/api/projects/{project_id}/residents"
        told = {"project_id": project_id, "count": 2, "ready": 0, "starting": 0, "error": None}
        put = await stage.call("PUT", path, json={"count": 2})
        assert (put.status, put.json) == (200, told)
        assert (await stage.call("GET", path)).json == told
        assert (await stage.call("GET", f"/api/projects/{project_id}")).json["residents"] == 2
        assert (await stage.call("PUT", path, json={"count": 0})).json["count"] == 0


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"count": -1}, 400, "bad_count"),
        ({"count": 1_000_000}, 400, "bad_count"),
        ({"count": "two"}, 400, "bad_body"),
        ({}, 400, "bad_body"),
        ({"count": 1, "owner": "bob"}, 400, "bad_body"),
    ],
)
async def test_what_makes_no_sense_is_refused(body: object, status: int, code: str) -> None:
    async with api_stage() as stage:
        path = f"/api/projects/{await stage.project()}/residents"
        assert (await stage.call("PUT", path, json=body)).problem() == (status, code)


async def test_a_project_with_variables_and_an_unknown_one_are_no_templates() -> None:
    async with api_stage() as stage:
        project_id = await stage.project()
        await stage.call("PUT", f"/api/projects/{project_id}/env", json={"KEY": "value"})
        refused = await stage.call("PUT", f"/api/projects/{project_id}/residents", json={"count": 1})
        assert refused.problem() == (409, "template_with_env")
        unknown = await stage.call("PUT", "/api/projects/nothing/residents", json={"count": 1})
        assert unknown.problem() == (404, "project_not_found")


async def test_residents_are_nobodys_previews() -> None:
    """Not in the list, not in what clients are told first; who knows the id may look at one."""
    async with api_stage(project_created(), RESIDENT) as stage:
        assert (await stage.call("GET", "/api/previews")).json["previews"] == []
        feed = Feed(lambda: stage.runtime.state, lambda: stage.runtime.seq, GatewayConfig(), stage.bus.seals)
        stage.runtime.on_folded.append(feed.on_event)
        with feed.subscribe("alice") as subscriber:
            assert subscriber.queue.get_nowait()["previews"] == []
            await stage.record(preview_stopped(), project_created("project-2"))
            assert subscriber.queue.get_nowait()["type"] == "project"
        assert (await stage.call("GET", f"/api/previews/{PREVIEW}")).status == 200
