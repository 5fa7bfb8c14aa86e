"""`drape doctor --provider docker`: what it finds on a real engine, and on what is none."""

from deploy.doctor.docker import docker
from deploy.doctor.finding import Finding
from tests.pool.docker_stage import IMAGE, URL, DockerHome, build_image, needs_engine
from tests.pool.docker_stage import docker as command


def by_check(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings}


@needs_engine
async def test_an_engine_that_can_do_it_all() -> None:
    """Engine, limits, image, network and one VM's life are well, each said; nothing is left behind."""
    build_image()
    before = command("network", "ls", "-q", "--filter", "label=drape.home")

    environ = {"DOCKER_HOST": URL, "DRAPE_POOL_DOCKER_IMAGE": IMAGE, "DRAPE_POOL_BOOT_TIMEOUT_S": "90"}
    found = by_check(await docker(environ))

    assert set(found) >= {"engine", "clock", "limits", "gvisor", "image", "isolation", "internet", "vm"}
    wrong = [finding.detail for finding in found.values() if finding.level == "error"]
    assert wrong == []
    assert all(word in found["vm"].what for word in ("create", "suspend", "resume", "destroy"))
    assert found["gvisor"].level == "ok" or found["gvisor"].todo
    assert command("network", "ls", "-q", "--filter", "label=drape.home") == before


@needs_engine
async def test_a_clock_that_is_wrong_and_limits_that_are_missing() -> None:
    """An engine elsewhere whose clock is years off and that can't limit: two warnings with what to do, and the image's error."""
    home = DockerHome("doctor")
    info = b'{"Architecture": "x86_64", "SystemTime": "2001-01-01T00:00:00Z", "PidsLimit": false, "MemoryLimit": true}'
    try:
        url = home.before({"^GET .*/info": (200, info)})
        found = by_check(
            await docker({"DRAPE_POOL_DOCKER_HOSTS": url, "DRAPE_POOL_DOCKER_IMAGE": "drape-test:missing"})
        )
    finally:
        home.stop()

    assert (found["clock"].code, found["limits"].code) == ("clock_skew", "limits_unavailable")
    assert "processes" in found["limits"].what
    assert (found["image"].level, found["image"].code) == ("error", "image_missing")
    assert "deploy/workspace/build" in found["image"].detail
    assert "vm" not in found


async def test_no_engine_is_an_error_with_a_reason() -> None:
    """Of several engines each is looked at; one that nobody answers for is named."""
    hosts = "unix:///nonexistent.sock,tcp://127.0.0.1:1"

    findings = await docker({"DRAPE_POOL_DOCKER_HOSTS": hosts})

    assert [finding.code for finding in findings] == ["provider_unavailable"] * 2
    assert "nonexistent.sock" in findings[0].detail
