"""Servers and everything else are killed with -9: nothing that was acknowledged is lost, and all comes back by itself."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest

from deploy.local import records
from tests.deploy.waiting import alive, eventually
from tests.live.choice import EMBEDDED, choice
from tests.live.client import SERVER, TAR, Client, node_project, tar_of
from tests.live.servers import Broken, broken_embedded, broken_in_containers

BACK_WITHIN_S = 60.0
PREVIEW_BACK_WITHIN_S = 120.0


@pytest.fixture(scope="module")
def broken(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broken]:
    """A platform on servers of the session's kind that may be taken from it."""
    if choice().kind == EMBEDDED:
        yield broken_embedded(request.getfixturevalue("rough"))
        return
    with broken_in_containers(tmp_path_factory.mktemp("broken")) as found:
        yield found


@pytest.fixture
async def user(broken: Broken) -> AsyncIterator[Client]:
    """A user of the platform that is broken on purpose, wherever its gateway is now."""
    async with aiohttp.ClientSession() as session:
        yield Client(broken.platform.gateway, session)


async def _answers(client: Client, preview_id: str) -> bool:
    try:
        return (await client.visit(preview_id)).status == 200
    except aiohttp.ClientError:
        return False


async def test_everything_is_killed_and_up_brings_back_the_same_state(broken: Broken, user: Client) -> None:
    """kill -9 of the supervisor, the services, NATS and PostgreSQL: after `drape up` the same projects and previews are
    there, every service's state follows from the log, and the preview that was ready answers again."""
    view = await user.ready(node_project(SERVER), name="survivor")
    projects = (await user.call("GET", "/api/projects")).json
    previews = {each["preview_id"] for each in (await user.call("GET", "/api/previews")).json["previews"]}
    last_seq = (await broken.platform.events())[-1].seq
    pids = [record.pid for record in records.read_all(broken.platform.home)]
    broken.kill_everything()
    await eventually(lambda: not any(alive(pid) for pid in pids))

    await asyncio.to_thread(broken.up_again)

    user.gateway = broken.platform.gateway
    assert (await user.call("GET", "/api/projects")).json == projects
    assert {each["preview_id"] for each in (await user.call("GET", "/api/previews")).json["previews"]} == previews
    events = await broken.platform.events()
    assert [event.seq for event in events[:last_seq]] == list(range(1, last_seq + 1))
    await eventually(lambda: _answers(user, view["preview_id"]), PREVIEW_BACK_WITHIN_S)
    assert (await user.preview(view["preview_id"]))["status"] == "ready"
    doctor = await broken.platform.drape("doctor", "--replay-check", "--json")
    assert (doctor.code, doctor.last["ok"]) == (0, True), doctor.out
    checks = [line for line in doctor.lines if line.get("check", "").startswith("replay ")]
    assert [check["level"] for check in checks] == ["ok"] * 4
    await user.stop(view["preview_id"])


async def _writes(client: Client) -> bool:
    try:
        return (await client.call("POST", "/api/projects", json={"name": "after"})).status == 201
    except aiohttp.ClientError:
        return False


async def test_nats_dies_and_comes_back(broken: Broken, user: Client) -> None:
    """While NATS is away, what needs the log answers 503 problem JSON with a code and Retry-After; what is in memory is
    served on, the preview too; once NATS is back, writing works again by itself."""
    view = await user.ready(node_project(SERVER))
    with broken.without_nats():
        await eventually(lambda: _unavailable(user))
        for method, path, body in (
            ("POST", "/api/projects", {"name": "lost"}),
            ("POST", "/api/previews", {"project_id": view["project_id"]}),
            ("GET", "/health/pool", None),
        ):
            refused = await user.call(method, path, json=body)
            status, code = refused.problem()
            assert status == 503, (path, refused.text)
            assert code in ("log_unavailable", "service_unavailable", "service_silent")
            assert int(refused.headers["Retry-After"]) >= 1
        files = await user.call(
            "PUT", f"/api/projects/{view['project_id']}/files", data=tar_of({"a.txt": "a"}), headers=TAR
        )
        assert files.problem() == (503, "log_unavailable")
        assert (await user.call("GET", "/api/projects")).status == 200
        assert (await user.visit(view["preview_id"])).status == 200
    began = time.monotonic()
    await eventually(lambda: _writes(user), BACK_WITHIN_S)
    assert time.monotonic() - began < BACK_WITHIN_S
    assert (await user.preview(view["preview_id"]))["status"] == "ready"
    await user.stop(view["preview_id"])
    again = await user.ready(node_project(SERVER))
    await user.stop(again["preview_id"])


async def _unavailable(client: Client) -> bool:
    return (await client.call("GET", "/health")).status == 503


async def test_postgres_dies_and_comes_back(broken: Broken, user: Client) -> None:
    """While PostgreSQL is away, previews go on and only the figures answer 503; afterwards the figures are complete, the
    preview that ran meanwhile included."""
    last_seq = (await broken.platform.events())[-1].seq

    async def projected() -> bool:
        return bool((await user.call("GET", "/metrics/stats?days=7")).json["position"] >= last_seq)

    await eventually(projected, BACK_WITHIN_S)
    before = (await user.call("GET", "/metrics/stats?days=7")).json
    with broken.without_postgres():
        view = await user.ready(node_project(SERVER))
        refused = await user.call("GET", "/metrics/stats?days=7")
        assert refused.problem()[0] == 503
        assert int(refused.headers["Retry-After"]) >= 1

    async def complete() -> bool:
        answer = await user.call("GET", "/metrics/stats?days=7")
        return answer.status == 200 and answer.json["previews"]["success"] == before["previews"]["success"] + 1

    await eventually(complete, BACK_WITHIN_S)
    await user.stop(view["preview_id"])
