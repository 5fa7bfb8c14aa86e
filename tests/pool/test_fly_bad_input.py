"""What Fly, its network or a setting may get wrong: each ends in an error that says what to do, in bounded time, and leaves
nothing behind."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.pool.adapters.fly import FlyProvider
from services.pool.adapters.fly_config import FlyConfig, token_of
from services.pool.adapters.fly_machines import size
from services.pool.ports import ProviderError
from tests.fly.machines_api import APP, FAR_IMAGE, TOKEN, FakeFly, Fault
from tests.pool.contract_home import WAIT_S, a_vm, listed
from tests.pool.test_fly_provider import HOME, config_for, fly

__all__ = ["fly"]

MACHINE = r"/machines/\w+$"


class Stand:
    """Providers on one fake, with short limits; closed at the end."""

    def __init__(self, fly: FakeFly) -> None:
        self.fly = fly
        self._made: list[FlyProvider] = []

    def provider(self, *, token: str = TOKEN, home: str = HOME, **changes: Any) -> FlyProvider:
        quick = {"lease_timeout_s": 0.3, "backoff_s": 0.01, "ignored_s": 0.3, **changes}
        provider = FlyProvider(msgspec.structs.replace(config_for(self.fly), **quick), token, home)
        self._made.append(provider)
        return provider

    async def close(self) -> None:
        for provider in self._made:
            await provider.close()


@pytest.fixture
async def stand(fly: FakeFly) -> AsyncIterator[Stand]:
    stand = Stand(fly)
    yield stand
    await stand.close()


async def refused(call: Awaitable[Any]) -> ProviderError:
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(ProviderError) as raised:
            await call
    assert TOKEN not in f"{raised.value!r}{raised.value}{raised.value.__cause__!r}"
    return raised.value


# --- whose token, whose app ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("", "FLY_API_TOKEN is not set"),
        ("fm2_wrong-or-expired-token", "missing, wrong or expired"),
        ("fm2_token-of-another-org", "another organization"),
    ],
)
async def test_a_token_that_may_not(stand: Stand, token: str, said: str) -> None:
    """What the API echoes of the token is not shown; trying again is no use."""
    stand.fly.tokens["fm2_token-of-another-org"] = "others"
    provider = stand.provider(token=token)
    for call in (provider.create(a_vm()), provider.list(), provider.destroy("vm-000001")):
        error = await refused(call)
        assert (error.code, error.retryable) == ("provider_unauthorized", False)
        assert said in error.message
        assert "fly tokens create deploy -a drape-vms" in error.message
        assert not token or token not in error.message


async def test_an_app_that_is_not_there(stand: Stand) -> None:
    error = await refused(stand.provider(app="no-such-app").create(a_vm()))
    assert error.code == "provider_unauthorized"
    assert "is there an app no-such-app" in error.message


async def test_a_missing_app_is_made_where_an_organization_is_named(stand: Stand) -> None:
    provider = stand.provider(app="fresh-app", org="drape")
    await provider.create(a_vm("vm-000001"))
    assert (stand.fly.apps["fresh-app"], stand.fly.addresses) == ("drape", [])
    await provider.destroy("vm-000001")


async def test_an_app_that_is_reached_through_its_address_gets_one(stand: Stand) -> None:
    edge: dict[str, Any] = {
        "reach": "edge",
        "edge_host": "127.0.0.1",
        "edge_port": stand.fly.edge.port,
        "edge_tls": False,
    }
    provider = stand.provider(app="fresh-app", org="drape", **edge)
    await provider.create(a_vm("vm-000001"))
    assert stand.fly.addresses == [("fresh-app", "shared_v4"), ("fresh-app", "v6")]
    await provider.destroy("vm-000001")


async def test_a_name_that_another_organization_has(stand: Stand) -> None:
    """Names are unique in all of Fly; an app that is not ours may look as if it were not there."""
    stand.fly.apps["theirs"] = "others"
    stand.fly.faults.append(Fault(method="GET", path="/apps/theirs$", status=404, body='{"error": "app not found"}'))
    error = await refused(stand.provider(app="theirs", org="drape").create(a_vm()))
    assert (error.code, error.retryable) == ("provider_unauthorized", False)
    assert "choose another DRAPE_POOL_FLY_APP" in error.message


def test_a_token_file_that_cant_be_read(tmp_path: Path) -> None:
    """It goes before the environment, so a wrong path must not fall back to another token."""
    with pytest.raises(ProviderError, match="DRAPE_POOL_FLY_TOKEN_FILE"):
        token_of(FlyConfig(token_file=str(tmp_path / "none")), {"FLY_API_TOKEN": "other"})
    (tmp_path / "token").write_text("of-the-file\n")
    assert token_of(FlyConfig(token_file=str(tmp_path / "token")), {"FLY_API_TOKEN": "other"}) == "of-the-file"
    assert token_of(FlyConfig(), {"FLY_API_TOKEN": "other"}) == "other"


# --- image, region, size ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "code"),
    [
        (f"registry.fly.io/{APP}:latest", "invalid_spec"),
        ("", "invalid_spec"),
        (f"registry.fly.io/{APP}@sha256:{'9' * 64}", "image_missing"),
        (FAR_IMAGE, "image_unusable"),
    ],
)
async def test_an_image_that_will_not_do(stand: Stand, image: str, code: str) -> None:
    error = await refused(stand.provider(image=image).create(a_vm()))
    assert (error.code, error.retryable) == (code, False)
    assert "deploy/fly/push-image" in error.message
    assert stand.fly.leftovers() == []


async def test_a_full_region_is_passed_over(stand: Stand) -> None:
    stand.fly.full = {"fra"}
    await stand.provider(regions="fra, ams").create(a_vm("vm-000001"))
    assert stand.fly.of("vm-000001").region == "ams"


async def test_no_region_has_room(stand: Stand) -> None:
    """The disk that was made already goes again."""
    stand.fly.full = {"fra", "ams"}
    error = await refused(stand.provider(regions="fra,ams").create(a_vm()))
    assert (error.code, error.retryable) == ("region_full", True)
    assert "fra" in error.message
    assert "DRAPE_POOL_FLY_REGIONS" in error.message
    assert stand.fly.leftovers() == []


async def test_a_spec_names_its_region(stand: Stand) -> None:
    stand.fly.full = {"iad"}
    error = await refused(stand.provider(regions="fra").create(a_vm(region="iad")))
    assert error.code == "region_full"


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ((0.5, 200), (1, 256)),
        ((2, 2048), (2, 2048)),
        ((1, 4000), (2, 4096)),
        ((3, 256), (4, 1024)),
        ((2.0, 513), (2, 768)),
    ],
)
def test_sizes_are_rounded_up_to_what_fly_has(asked: tuple[float, int], given: tuple[int, int]) -> None:
    guest = size(*asked, "shared")
    assert (guest.cpus, guest.memory_mb) == given


def test_a_size_that_fly_does_not_have() -> None:
    with pytest.raises(ProviderError, match="DRAPE_POOL_FLY_CPU_KIND"):
        size(2, 64 << 10, "shared")
    assert size(2, 64 << 10, "performance").cpus == 8


# --- states that do not pass --------------------------------------------------------------------------------------


async def test_a_machine_stuck_in_starting_is_given_up_and_removed(stand: Stand) -> None:
    stand.fly.stuck = {"starting"}
    error = await refused(stand.provider(boot_timeout_s=0.5).create(a_vm()))
    assert (error.code, error.retryable) == ("boot_timeout", True)
    assert stand.fly.leftovers() == []


@pytest.mark.parametrize("state", ["replacing", "starting", "stopping", "a-state-of-next-year"])
async def test_a_machine_stuck_in_a_passing_state(stand: Stand, state: str) -> None:
    """Verbs wait for it, within a bound; it can be destroyed by force as it is."""
    provider, patient = stand.provider(settle_timeout_s=0.5), stand.provider()
    await provider.create(a_vm("vm-000001"))
    machine = stand.fly.of("vm-000001")
    machine.become(state)

    error = await refused(provider.suspend("vm-000001"))

    assert (error.code, error.retryable) == (("vm_stopped", False) if state == "stopping" else ("vm_stuck", True))
    assert state in error.message or state == "stopping"
    await patient.destroy("vm-000001")
    assert stand.fly.leftovers() == []


async def test_a_machine_stuck_in_destroying(stand: Stand) -> None:
    """It is listed as stopped all the while, so that the pool tries again; once Fly is done, so is the pool."""
    provider, patient = stand.provider(settle_timeout_s=0.5), stand.provider()
    await provider.create(a_vm("vm-000001"))
    stand.fly.stuck = {"destroying"}

    error = await refused(provider.destroy("vm-000001"))

    assert (error.code, error.retryable) == ("vm_stuck", True)
    found = await listed(provider, "vm-000001")
    assert found is not None
    assert (found.state, found.address) == ("stopped", None)
    stand.fly.stuck = set()
    await patient.destroy("vm-000001")
    assert stand.fly.leftovers() == []


async def test_a_suspension_that_never_ends(stand: Stand) -> None:
    provider, patient = stand.provider(settle_timeout_s=0.5), stand.provider()
    await provider.create(a_vm("vm-000001"))
    stand.fly.stuck = {"suspending"}
    assert (await refused(provider.suspend("vm-000001"))).code == "vm_stuck"
    await patient.destroy("vm-000001")


async def test_a_destroy_that_is_answered_and_does_nothing(stand: Stand) -> None:
    """Once is made up for; twice is reported, to be tried again."""
    provider = stand.provider()
    await provider.create(a_vm("vm-000001"))
    stand.fly.ignored_destroys = 2
    error = await refused(provider.destroy("vm-000001"))
    assert (error.code, error.retryable) == ("destroy_failed", True)
    assert "it is still started" in error.message

    stand.fly.ignored_destroys = 1
    await provider.destroy("vm-000001")
    assert stand.fly.leftovers() == []


# --- leases -------------------------------------------------------------------------------------------------------


async def test_a_machine_that_another_pool_holds_is_busy(stand: Stand) -> None:
    provider, other = stand.provider(), stand.provider()
    await provider.create(a_vm("vm-000001"))
    machine = stand.fly.of("vm-000001")
    async with other._machines.leased(machine.id):
        for call in (provider.suspend("vm-000001"), provider.destroy("vm-000001"), provider.create(a_vm("vm-000001"))):
            error = await refused(call)
            assert (error.code, error.retryable) == ("vm_busy", True)
        assert machine.state == "started"
    await provider.suspend("vm-000001")
    await provider.destroy("vm-000001")


async def test_two_pools_that_make_one_vm_make_one(stand: Stand) -> None:
    """One wins; the other is told that it is busy, and takes nothing of the winner's away."""
    pools = [stand.provider(), stand.provider()]
    outcomes = await asyncio.gather(*(pool.create(a_vm("vm-000001")) for pool in pools), return_exceptions=True)
    errors = [each for each in outcomes if isinstance(each, ProviderError)]
    assert [error.code for error in errors] == ["vm_busy"]
    assert stand.fly.of("vm-000001").state == "started"
    assert len([each for each in stand.fly.machines.values() if each.state != "destroyed"]) == 1
    await pools[0].destroy("vm-000001")


async def test_every_change_is_made_under_a_lease(stand: Stand) -> None:
    provider = stand.provider()
    await provider.create(a_vm("vm-000001"))
    await provider.suspend("vm-000001")
    await provider.resume("vm-000001")
    await provider.destroy("vm-000001")
    changes = [
        nonce
        for method, path, nonce in stand.fly.calls
        if (method == "POST" and re.search(r"/(suspend|start)$", path)) or (method == "DELETE" and "/machines/" in path)
    ]
    assert len(changes) >= 6
    assert all(changes)


# --- whose machines -----------------------------------------------------------------------------------------------


async def test_machines_of_others_are_never_touched(stand: Stand) -> None:
    """Another installation's VM of the same id, and a machine without any metadata of ours."""
    ours, theirs = stand.provider(), stand.provider(home="another-home")
    await theirs.create(a_vm("vm-000001"))
    machine = stand.fly.of("vm-000001")

    assert await ours.list() == []
    await ours.destroy("vm-000001")
    assert (await refused(ours.suspend("vm-000001"))).code == "vm_not_found"
    await ours.create(a_vm("vm-000001"))
    await ours.destroy("vm-000001")
    assert machine.state == "started"
    machine.config["metadata"] = {"drape_vm": "vm-000001"}
    await ours.destroy("vm-000001")
    assert (await ours.list(), machine.state) == ([], "started")
    machine.config["metadata"]["drape_home"] = "another-home"
    await theirs.destroy("vm-000001")


# --- disks --------------------------------------------------------------------------------------------------------


async def test_a_disk_comes_and_goes_with_its_machine(stand: Stand) -> None:
    provider = stand.provider(volumes=True, regions="ams")
    await provider.create(a_vm("vm-000001", disk_mb=3000))
    [volume] = stand.fly.volumes.values()
    assert (volume["size_gb"], volume["region"], volume["name"]) == (3, "ams", "drape_0a1b2c_vm_000001")
    assert stand.fly.of("vm-000001").config["mounts"] == [{"volume": volume["id"], "path": "/vm"}]
    await provider.destroy("vm-000001")
    assert stand.fly.leftovers() == []


async def test_a_disk_whose_machine_could_not_be_made_goes_too(stand: Stand) -> None:
    stand.fly.faults.append(Fault(method="POST", path="/machines$", status=412, body='{"error": "no capacity here"}'))
    assert (await refused(stand.provider(volumes=True).create(a_vm("vm-000001", disk_mb=10)))).code == "region_full"
    assert len(stand.fly.volumes) == 1
    assert stand.fly.leftovers() == []


async def test_a_disk_that_lost_its_machine_is_found_and_destroyed(stand: Stand) -> None:
    """It is listed as a VM that has ended; another home's disk is not."""
    provider = stand.provider(volumes=True)
    await provider.create(a_vm("vm-000001", disk_mb=10))
    await stand.fly.lose("vm-000001")
    [volume] = stand.fly.volumes.values()
    volume.pop("attached_machine_id")
    stand.fly.volumes["other"] = {**volume, "id": "other", "name": "drape_ffffff_vm_000001"}
    [found] = await provider.list()
    assert (found.vm_id, found.state) == ("vm-000001", "stopped")
    await provider.destroy("vm-000001")
    assert await provider.list() == []
    assert stand.fly.volumes.pop("other")["state"] == "created"
