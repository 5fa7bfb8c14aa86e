"""A project's variables over HTTP: names come back, values never do."""

import asyncio
import logging

import pytest

from shared.events import ProjectEnvChanged
from shared.project_env import unseal
from tests.gateway.api_stage import SECRET, ApiStage, api_stage, until

SESAME = "sesame-open-123"


def kept(stage: ApiStage, project_id: str) -> dict[str, str]:
    """The project's variables, as the orchestrator will find them."""
    name = stage.runtime.state.projects[project_id].env
    return unseal(SECRET, project_id, stage.broker.objects[name]) if name else {}


def sealed(stage: ApiStage) -> list[str]:
    return [name for name in stage.broker.objects if "/env/" in name]


async def test_variables_are_set_changed_and_taken_away() -> None:
    """PUT replaces all, PATCH sets some and null takes one away; a GET tells the names."""
    async with api_stage() as stage:
        project_id = await stage.project()
        path = f"/api/projects/{project_id}/env"
        assert (await stage.call("GET", path)).json == {"project_id": project_id, "names": []}
        put = await stage.call("PUT", path, json={"B": SESAME, "A": ""})
        assert (put.status, put.json["names"]) == (200, ["A", "B"])
        assert kept(stage, project_id) == {"A": "", "B": SESAME}
        patch = await stage.call("PATCH", path, json={"A": None, "C": "3", "NEVER_THERE": None})
        assert (patch.status, patch.json["names"]) == (200, ["B", "C"])
        assert kept(stage, project_id) == {"B": SESAME, "C": "3"}
        assert (await stage.call("GET", path)).json["names"] == ["B", "C"]
        assert (await stage.call("PUT", path, json={})).json["names"] == []
        assert stage.runtime.state.projects[project_id].env == ""


async def test_values_are_nowhere_in_clear(caplog: pytest.LogCaptureFixture) -> None:
    """Not in answers, events, objects or logs, whether the variables are taken or refused."""
    caplog.set_level(logging.DEBUG)
    async with api_stage() as stage:
        path = f"/api/projects/{await stage.project()}/env"
        told = [
            (await stage.call(method, path, json=body)).text
            for method in ("PUT", "PATCH")
            for body in (
                {"KEY": SESAME},
                {"KEY": SESAME, "PORT": SESAME},
                {"KEY": [SESAME]},
                {"KEY": f"{SESAME}\0"},
                {"KEY": SESAME * 3000},
                [SESAME],
                {f"K{number}": SESAME for number in range(101)},
            )
        ]
        broken = await stage.session.put(
            stage.url + path,
            data=f'{{"KEY": "{SESAME}',
            headers={"Content-Type": "application/json", "Authorization": "Bearer token-of-alice-0123"},
        )
        told += [await broken.text(), str(stage.broker.records), str(stage.broker.objects), caplog.text]
        assert broken.status == 400
        assert SESAME not in "".join(told)
        assert "KEY" in told[0]


@pytest.mark.parametrize(
    ("method", "body", "code"),
    [
        ("PUT", {"PORT": "1"}, "env_name_refused"),
        ("PATCH", {"9": "1"}, "bad_env_name"),
        ("PUT", {"A": None}, "bad_body"),
        ("PATCH", {"A": 1}, "bad_body"),
        ("PATCH", [], "bad_body"),
        ("PUT", {f"K{number}": "" for number in range(101)}, "too_many_variables"),
        ("PUT", {"A": "x" * 33_000}, "env_too_large"),
    ],
)
async def test_what_is_not_fit_is_refused_whole(method: str, body: object, code: str) -> None:
    """What was there stays as it was, and nothing is left in the store."""
    async with api_stage() as stage:
        project_id = await stage.project()
        path = f"/api/projects/{project_id}/env"
        await stage.call("PUT", path, json={"KEPT": "1"})
        assert (await stage.call(method, path, json=body)).problem() == (400, code)
        assert kept(stage, project_id) == {"KEPT": "1"}
        assert len(sealed(stage)) == 1


async def test_changes_at_the_same_time_are_all_kept() -> None:
    """Each is made from what the other one left."""
    async with api_stage() as stage:
        project_id = await stage.project()
        path = f"/api/projects/{project_id}/env"
        changes = (stage.call("PATCH", path, json={f"K{number}": str(number)}) for number in range(4))
        assert [answer.status for answer in await asyncio.gather(*changes)] == [200] * 4
        assert kept(stage, project_id) == {f"K{number}": str(number) for number in range(4)}


async def test_anothers_project_has_no_variables_to_see() -> None:
    async with api_stage() as stage:
        path = f"/api/projects/{await stage.project()}/env"
        for method, body in (("GET", None), ("PUT", {}), ("PATCH", {"A": "1"})):
            answer = await stage.call(method, path, json=body, token="token-of-bob-456789")
            assert answer.problem() == (404, "project_not_found")


async def test_a_deleted_project_leaves_no_variables() -> None:
    """The object goes at once; no event has ever held what was in it."""
    async with api_stage() as stage:
        project_id = await stage.project()
        await stage.call("PUT", f"/api/projects/{project_id}/env", json={"KEY": SESAME})
        assert len(sealed(stage)) == 1
        assert (await stage.call("DELETE", f"/api/projects/{project_id}")).status == 204
        await until(lambda: not sealed(stage))
        changes = [each.event for each in stage.broker.records if isinstance(each.event, ProjectEnvChanged)]
        assert len(changes) == 1
        assert "KEY" not in str(changes)
