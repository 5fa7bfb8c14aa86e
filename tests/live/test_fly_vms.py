"""A whole platform whose VMs are Fly machines, with a Machines API of our own: on the private network, and by the app's address."""

import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from shared.events import VmLost
from tests.deploy.waiting import eventually
from tests.fly.machines_api import APP, IMAGE, TOKEN
from tests.fly.running import Running, running_fly
from tests.gateway.test_tunnels import certificate
from tests.live.client import Client, Json
from tests.live.platform import Platform
from tests.live.test_idle import FILES, PAGE, SUSPEND_AFTER_S

__all__ = ["certificate"]

SETTINGS = {
    "FLY_API_TOKEN": TOKEN,
    "DRAPE_POOL_PROVIDER": "fly",
    "DRAPE_POOL_FLY_APP": APP,
    "DRAPE_POOL_FLY_IMAGE": IMAGE,
    "DRAPE_POOL_WARM_SUSPENDED": "true",
    "DRAPE_POOL_MAINTAIN_PERIOD_S": "1",
    "DRAPE_POOL_RECONCILE_PERIOD_S": "2",
    "DRAPE_ORCHESTRATOR_SUSPEND_AFTER_S": str(SUSPEND_AFTER_S),
    "DRAPE_ORCHESTRATOR_IDLE_CHECK_S": "1",
    "DRAPE_GATEWAY_ACTIVITY_PERIOD_S": "0.5",
}
WAIT_S = 60.0
LAG_S = 0.8
"""What a machine takes for each change: while it wakes, nobody answers at its address."""


class Stage:
    """A platform and what it takes for Fly."""

    def __init__(self, platform: Platform, running: Running) -> None:
        self.platform = platform
        self.running = running
        self.fly = running.fly

    def state(self, vm_id: str) -> str:
        """Fly's word for the VM's machine."""
        return next((m.state for m in self.fly.machines.values() if m.config["metadata"]["drape_vm"] == vm_id), "none")

    async def asleep(self, vm_id: str) -> None:
        await eventually(lambda: self.state(vm_id) == "suspended", WAIT_S)

    async def warm_asleep(self, but: str = "") -> str:
        """The VM that waits for a claim, once it stands still."""
        found: list[str] = []

        def there() -> bool:
            found[:] = [
                machine.config["metadata"]["drape_vm"]
                for machine in self.fly.machines.values()
                if machine.state == "suspended" and machine.config["metadata"]["drape_vm"] != but
            ]
            return bool(found)

        await eventually(there, WAIT_S)
        return found[0]


@pytest.fixture(scope="module", params=["private", "edge"])
def fly_stage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path]
) -> Iterator[Stage]:
    """The platform, and after it what has to hold of every reach: requests as Fly has them, nothing left, no token shown."""
    folder = tmp_path_factory.mktemp(f"fly-{request.param}")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*certificate)
    with running_fly(folder / "machines", tls) as running:
        running.fly.lag_s = LAG_S
        settings = {**SETTINGS, "DRAPE_POOL_FLY_API_URL": running.fly.url, "DRAPE_POOL_FLY_REACH": request.param}
        if request.param == "edge":
            settings["DRAPE_POOL_FLY_EDGE_HOST"] = "127.0.0.1"
            settings["DRAPE_POOL_FLY_EDGE_PORT"] = str(running.fly.edge.port)
            settings["SSL_CERT_FILE"] = str(certificate[0])
        platform = Platform(folder / "home", settings)
        try:
            platform.up()
            yield Stage(platform, running)
        finally:
            platform.down()
        assert running.fly.schema.violations == []


@pytest.fixture
async def user(fly_stage: Stage) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as session:
        yield Client(fly_stage.platform.gateway, session)


async def shown(user: Client, preview_id: str, text: str) -> None:
    """The preview's page, once it is this one."""

    async def there() -> bool:
        answer = await user.visit(preview_id)
        return (answer.status, answer.text) == (200, text)

    await eventually(there, WAIT_S)


async def losses(stage: Stage) -> list[VmLost]:
    return [each.event for each in await stage.platform.events() if isinstance(each.event, VmLost)]


async def lost(stage: Stage, view: Json) -> VmLost:
    recorded = await stage.platform.event("VmLost", view["preview_id"], timeout_s=WAIT_S)
    assert isinstance(recorded.event, VmLost)
    return recorded.event


@pytest.mark.timeout(170)
async def test_a_preview_from_a_suspended_warm_machine(fly_stage: Stage, user: Client) -> None:
    """Page, socket and edit; it sleeps when nobody uses it, and the next request has the whole page."""
    warm = await fly_stage.warm_asleep()
    view = await user.ready(FILES)
    preview_id = view["preview_id"]
    assert (view["vm_id"], (await user.visit(preview_id)).text == PAGE) == (warm, True)

    headers = {"Host": f"{preview_id}.preview.localhost:{urlsplit(user.gateway).port}"}
    async with user.session.ws_connect(user.gateway, headers=headers) as socket:
        await user.patch(view["project_id"], 1, {"note.txt": "second"})
        assert (await socket.receive(timeout=WAIT_S)).data == "changed"

    await fly_stage.asleep(view["vm_id"])
    assert (await user.preview(preview_id))["status"] == "suspended"
    answer = await user.visit(preview_id)
    assert (answer.status, answer.text == PAGE.replace("first", "second")) == (200, True)
    assert await losses(fly_stage) == []
    await user.stop(preview_id)
    await eventually(lambda: fly_stage.state(view["vm_id"]) == "destroyed", WAIT_S)


@pytest.mark.timeout(170)
async def test_a_machine_that_goes_behind_the_pools_back(fly_stage: Stage, user: Client) -> None:
    """The preview comes back in another one, by itself."""
    view = await user.ready(FILES)
    fly_stage.running.call(fly_stage.fly.lose(view["vm_id"]))

    assert (await lost(fly_stage, view)).vm_id == view["vm_id"]
    await shown(user, view["preview_id"], PAGE)
    assert (await user.preview(view["preview_id"]))["vm_id"] != view["vm_id"]
    await user.stop(view["preview_id"])


@pytest.mark.timeout(170)
@pytest.mark.parametrize("fly_stage", ["private"], indirect=True)
async def test_a_suspended_machine_that_boots_anew(fly_stage: Stage, user: Client) -> None:
    """Files and server are gone with it: the preview moves to another, whose page has the newest text. A warm one had
    nothing to lose, and serves."""
    warm = await fly_stage.warm_asleep()
    fly_stage.fly.forget(warm)
    view = await user.ready(FILES)
    assert view["vm_id"] == warm
    await user.patch(view["project_id"], 1, {"note.txt": "second"})
    await shown(user, view["preview_id"], PAGE.replace("first", "second"))
    assert (await user.preview(view["preview_id"]))["vm_id"] == warm

    await fly_stage.asleep(warm)
    fly_stage.fly.forget(warm)
    await shown(user, view["preview_id"], PAGE.replace("first", "second"))

    assert "anew" in (await lost(fly_stage, view)).detail
    assert (await user.preview(view["preview_id"]))["vm_id"] != warm
    kinds = [each.type for each in await fly_stage.platform.events(view["preview_id"])]
    assert not {"PreviewFailed", "DevServerExited"} & set(kinds)
    await user.stop(view["preview_id"])


async def test_the_token_is_shown_nowhere(fly_stage: Stage) -> None:
    """Not in the home (logs, streams on the disk), nor in the log's events."""
    home = fly_stage.platform.home.root
    assert (home / "logs" / "pool.log").exists()
    shown_in = [str(path) for path in home.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    assert shown_in == []
    assert TOKEN not in "".join(repr(each) for each in await fly_stage.platform.events())


@pytest.mark.timeout(170)
@pytest.mark.parametrize("fly_stage", ["private"], indirect=True)
async def test_what_down_leaves_the_next_up_goes_on_with(fly_stage: Stage, user: Client) -> None:
    """Machines are not of this machine: they stay, awake or asleep, and the preview is still in its own."""
    view = await user.ready(FILES)
    await fly_stage.asleep(view["vm_id"])
    await fly_stage.warm_asleep(but=view["vm_id"])
    fly_stage.platform.down()
    left = {machine.id for machine in fly_stage.fly.machines.values() if machine.state == "suspended"}
    assert len(left) == 2

    fly_stage.platform.up()
    again = Client(fly_stage.platform.gateway, user.session)
    await shown(again, view["preview_id"], PAGE)
    assert (await again.preview(view["preview_id"]))["vm_id"] == view["vm_id"]
    assert {each.id for each in fly_stage.fly.machines.values() if each.state != "destroyed"} == left
    await again.stop(view["preview_id"])
