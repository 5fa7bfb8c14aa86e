"""The Docker provider: the contract, and what only it promises. Skipped where no engine answers."""

import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import aiohttp
import psutil
import pytest

from services.pool.adapters import docker_vm
from services.pool.adapters.docker import DEFAULT_URL, DockerProvider, urls_of
from services.pool.adapters.docker_engine import Container
from services.pool.ports import ProviderError
from tests.pool.contract_home import Agent, a_vm, listed, until
from tests.pool.docker_stage import IMAGE, URL, DockerHome, build_image, docker, fresh_home, load_image, needs_engine
from tests.pool.provider_contract import ProviderContract

DEAD = "tcp://127.0.0.1:1"
FOREIGN = "foreign"


@pytest.fixture(scope="module")
def key() -> Iterator[str]:
    build_image()
    yield from fresh_home("vms")


@pytest.fixture
def docker_home(key: str) -> Iterator[DockerHome]:
    home = DockerHome(key)
    yield home
    home.stop()


@needs_engine
class TestDocker(ProviderContract):
    """On this machine's engine."""

    @pytest.fixture
    def home(self, docker_home: DockerHome) -> DockerHome:
        return docker_home


@pytest.fixture
async def provider(docker_home: DockerHome) -> AsyncIterator[DockerProvider]:
    provider = docker_home.provider()
    yield provider
    for vm in await provider.list():
        await provider.destroy(vm.vm_id)
    await provider.close()
    assert docker_home.leftovers() == []


async def refused(provider: DockerProvider, **spec: Any) -> ProviderError:
    """What a create is refused with; the provider is closed."""
    try:
        with pytest.raises(ProviderError) as raised:
            await provider.create(a_vm(**spec))
    finally:
        await provider.close()
    return raised.value


@needs_engine
async def test_a_removed_container_is_not_listed(docker_home: DockerHome, provider: DockerProvider) -> None:
    """A VM that somebody removed is gone: not listed, `vm_not_found`, and destroying it is no error."""
    spec = a_vm()
    await provider.create(spec)
    docker("rm", "-f", docker_vm.name_of(docker_home.key, spec.vm_id))

    assert await listed(provider, spec.vm_id) is None
    with pytest.raises(ProviderError) as raised:
        await provider.suspend(spec.vm_id)
    assert raised.value.code == "vm_not_found"
    await provider.destroy(spec.vm_id)


@needs_engine
async def test_destroy_reaches_what_left_its_session(provider: DockerProvider) -> None:
    """A process that left its session and lost its parents dies with the VM; on this machine it can be seen."""
    marker = f"marker-{uuid4().hex}"
    fork = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: time.sleep(600)\n    os._exit(0)\n"
    spec = a_vm()
    address = await provider.create(spec)
    async with aiohttp.ClientSession() as http:
        await Agent(http, address).start(fork + "os.wait()\ntime.sleep(600)", marker)
        await until(lambda: len(with_argument(marker)) == 2, "the job and its orphan run")

    await provider.destroy(spec.vm_id)

    assert with_argument(marker) == []


def with_argument(word: str) -> list[int]:
    """The processes of this machine that have it in their argv."""
    return [each.pid for each in psutil.process_iter(["cmdline"]) if word in (each.info["cmdline"] or ())]


@needs_engine
async def test_a_container_that_never_began_is_stopped(docker_home: DockerHome, provider: DockerProvider) -> None:
    """What a pool that died has left in `created` lists as stopped once no boot can be under way, and can be destroyed."""
    name = docker_vm.name_of(docker_home.key, "half")
    labels = [f"drape.home={docker_home.key}", "drape.vm=half", "drape.created=1000.0"]
    docker(
        "create", "--name", name, *(part for label in labels for part in ("--label", label)), IMAGE, "--vm-id", "half"
    )

    found = await listed(provider, "half")
    await provider.destroy("half")

    assert found is not None
    assert (found.state, found.address, found.created_at) == ("stopped", None, 1000.0)
    assert docker_home.leftovers() == []


@needs_engine
async def test_a_foreign_container_is_never_removed(docker_home: DockerHome, provider: DockerProvider) -> None:
    """A container of somebody else's that has the VM's name is left as it is, and the error names it."""
    name = docker_vm.name_of(docker_home.key, FOREIGN)
    docker("create", "--name", name, IMAGE)
    try:
        with pytest.raises(ProviderError, match=name) as raised:
            await provider.create(a_vm(FOREIGN))
        assert (raised.value.code, raised.value.retryable) == ("boot_failed", False)
        await provider.destroy(FOREIGN)
        assert docker("inspect", "--format", "{{.State.Status}}", name) == "created"
    finally:
        docker("rm", "-f", name)


@needs_engine
async def test_a_published_agent_is_reached_at_the_host(docker_home: DockerHome) -> None:
    """Engines elsewhere publish the agent's port; its address is the host's, and stays the same."""
    provider = docker_home.provider(reach="published")
    spec = a_vm()
    address = await provider.create(spec)
    await provider.suspend(spec.vm_id)
    await provider.resume(spec.vm_id)

    async with aiohttp.ClientSession() as http:
        assert (address.host, await Agent(http, address).health()) == ("127.0.0.1", 200)
    found = await listed(provider, spec.vm_id)
    assert found is not None
    assert found.address == address
    await provider.destroy(spec.vm_id)
    await provider.close()


@needs_engine
async def test_an_engine_that_is_away_gets_no_vms_and_hides_none(
    docker_home: DockerHome, caplog: pytest.LogCaptureFixture
) -> None:
    """Of two engines the one that answers gets the VMs; `list` fails instead of giving half a list; a VM that was found is
    destroyed all the same, one that was not may be on the other."""
    caplog.set_level(logging.WARNING, "drape.pool.docker")
    provider = docker_home.provider((DEAD, URL), request_timeout_s=10.0)
    spec = a_vm()
    await provider.create(spec)

    with pytest.raises(ProviderError, match=DEAD) as raised:
        await provider.list()
    with pytest.raises(ProviderError) as unknown:
        await provider.destroy("elsewhere")
    await provider.suspend(spec.vm_id)
    await provider.destroy(spec.vm_id)
    await provider.close()

    assert (raised.value.code, raised.value.retryable) == ("provider_unavailable", True)
    assert unknown.value.code == "provider_unavailable"
    assert "no new VMs there" in caplog.text
    assert docker_home.leftovers() == []


@needs_engine
async def test_a_destroy_that_does_nothing_is_found_out(docker_home: DockerHome, provider: DockerProvider) -> None:
    """An engine that answers 204 and removes nothing: `destroy_failed`, to be tried again."""
    spec = a_vm()
    await provider.create(spec)
    idle = docker_home.provider((docker_home.before({"^DELETE ": (204, b"")}),), destroy_timeout_s=0.5)

    with pytest.raises(ProviderError, match="still there") as raised:
        await idle.destroy(spec.vm_id)
    await idle.close()

    assert (raised.value.code, raised.value.retryable) == ("destroy_failed", True)


@needs_engine
async def test_a_removal_that_hangs_is_stuck(docker_home: DockerHome) -> None:
    """A container that stays in `removing` is `vm_stuck`, and is listed as stopped."""
    labels = {"drape.home": docker_home.key, "drape.vm": "stuck", "drape.created": "1000"}
    row = f'[{{"Id": "abc", "State": "removing", "Created": 1000, "Labels": {str(labels).replace(chr(39), chr(34))}}}]'
    canned = {"^GET /v[0-9.]+/containers/json": (200, row.encode()), "^DELETE ": (409, b'{"message": "in progress"}')}
    stuck = docker_home.provider((docker_home.before(canned),), destroy_timeout_s=0.3)

    assert [vm.state for vm in await stuck.list()] == ["stopped"]
    with pytest.raises(ProviderError) as raised:
        await stuck.destroy("stuck")
    await stuck.close()

    assert (raised.value.code, raised.value.retryable) == ("vm_stuck", True)


@needs_engine
async def test_bad_engines_and_images_say_what_to_do(docker_home: DockerHome) -> None:
    """Each is refused before anything is made, with a code, and names what would help."""
    old = docker_home.before({"^GET .*/version": (200, b'{"ApiVersion": "1.40", "Version": "19.03"}')})
    full = docker_home.before({"^POST /v[0-9.]+/containers/create": (500, b'{"message": "no space left on device"}')})
    denied = docker_home.before({".": (403, b'{"message": "denied"}')})
    load_image("drape-test:foreign", architecture="s390x", labels={"drape.agent.version": "2"})
    load_image("drape-test:empty", architecture=_architecture(), labels={})
    load_image(
        "drape-test:newer",
        architecture=_architecture(),
        labels={"drape.agent.version": "999", "drape.agent.protocols": "998-999"},
    )
    cases: tuple[tuple[DockerProvider, str, str], ...] = (
        (docker_home.provider(("unix:///nonexistent.sock",)), "provider_unavailable", "does it run"),
        (docker_home.provider((old,)), "provider_too_old", "install Docker 20.10 or newer"),
        (docker_home.provider((denied,)), "provider_unauthorized", "DRAPE_POOL_DOCKER_TLS_DIR"),
        (docker_home.provider((full,)), "boot_failed", "free space"),
        (docker_home.provider(image="drape-test:missing"), "image_missing", "run deploy/workspace/build"),
        (docker_home.provider(image="drape-test:foreign"), "image_unusable", "is for s390x"),
        (docker_home.provider(image="drape-test:empty"), "image_unusable", "no agent"),
        (docker_home.provider(image="drape-test:newer"), "image_unusable", "version 999"),
        (docker_home.provider(runtime="runsc"), "provider_unavailable", "no runtime runsc"),
        (docker_home.provider(disk="quota"), "provider_unavailable", "XFS"),
    )
    try:
        for provider, code, hint in cases:
            error = await refused(provider)
            assert error.code == code, error
            assert hint in error.message
            assert docker_home.leftovers() == []
    finally:
        docker("rmi", "-f", "drape-test:foreign", "drape-test:empty", "drape-test:newer")


def _architecture() -> str:
    return docker("version", "--format", "{{.Server.Arch}}")


def test_ages_are_told_by_our_clock() -> None:
    """An engine whose clock is a day ahead makes no VM look like an orphan, nor one that never ages."""
    labels = {"drape.vm": "one", "drape.created": "5000.5"}
    row = Container(id="a", state="running", created=5000.0 + 86400, labels=labels)

    assert docker_vm.listing_of(row, None, booting=False).created_at == 5000.5


def test_engines_are_named_once() -> None:
    """Several with commas; none: the environment's, else the usual socket."""
    assert urls_of(" tcp://a:1, tcp://b:1,tcp://a:1,", "unix:///x") == ["tcp://a:1", "tcp://b:1"]
    assert urls_of("", "unix:///x") == ["unix:///x"]
    assert urls_of("", "") == [DEFAULT_URL]
