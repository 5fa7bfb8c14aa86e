"""VMs in containers, seen from `drape down`: what is remembered of them, and what an engine that is away means."""

import json

import pytest

from deploy.local import containers
from deploy.local.detach import down
from deploy.local.launcher import _default_node
from deploy.local.paths import Home

DEAD = "tcp://127.0.0.1:1"
DOCKER = {"DRAPE_POOL_PROVIDER": "docker", "DRAPE_POOL_DOCKER_HOSTS": DEAD, "DRAPE_POOL_DOCKER_IMAGE": "mine:1"}


@pytest.mark.parametrize("provider", ["local", "simulated", "fly"])
async def test_other_providers_leave_nothing_to_remember(home: Home, provider: str) -> None:
    home.create()
    containers.remember(home, {"DRAPE_POOL_PROVIDER": provider})

    assert containers.remembered(home) is None
    assert containers.allowance_s(home) == 0
    assert await containers.end_containers(home) == (0, ())


async def test_an_engine_that_is_away_is_told_and_asked_again_later(home: Home) -> None:
    """The record stays until all is gone, and names the VMs as the pool does."""
    home.create()
    containers.remember(home, DOCKER)
    found = containers.remembered(home)
    assert found is not None
    assert (found.urls, found.config.image, len(found.home)) == ((DEAD,), "mine:1", 10)

    for _ in range(2):
        report = await down(home)
        assert report.vms == 0
        assert len(report.problems) == 1
        assert DEAD in report.problems[0]
    assert containers.remembered(home) == found


def test_a_record_that_can_not_be_read_is_none(home: Home) -> None:
    home.create()
    (home.run / "containers.json").write_text(json.dumps({"home": 7}))

    assert containers.remembered(home) is None


def test_vms_made_of_an_image_have_its_node_and_not_this_machines() -> None:
    name = "DRAPE_ORCHESTRATOR_DEFAULT_NODE_MAJOR"
    assert set(_default_node({})) == {name}
    assert _default_node({"DRAPE_POOL_PROVIDER": "docker"}) == {}
    assert _default_node({"DRAPE_POOL_PROVIDER": "docker", name: "22"}) == {name: "22"}
