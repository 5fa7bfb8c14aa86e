"""`deploy/fly/push-image`: a real engine pushes to a registry; the digest that it got is the one that is pinned."""

import asyncio
import io
import json
import shutil
import subprocess
import tarfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from deploy.fly import push_image
from deploy.fly.push_image import Failed, pin
from tests.fly.registry import Registry

TOKEN = "fm2_test-token-of-the-registry"
PINNED = f"registry.fly.io/vms@sha256:{'a' * 64}"


def _docker(*arguments: str, stdin: bytes = b"") -> str:
    return subprocess.run(["docker", *arguments], input=stdin, capture_output=True, check=True).stdout.decode().strip()


def _forget(image: str) -> None:
    subprocess.run(["docker", "image", "rm", "--force", image], capture_output=True, check=False)


def _engine() -> bool:
    if shutil.which("docker") is None:
        return False
    try:
        return subprocess.run(["docker", "version"], capture_output=True, timeout=20, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


needs_engine = pytest.mark.skipif(not _engine(), reason="no Docker engine answers here")


@pytest.fixture
def base() -> Iterator[str]:
    """An image with nothing in it but a file and an entry point; what was built on it goes too."""
    name = f"drape-fly-test-{uuid4().hex[:8]}"
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo("agent")
        entry.size = len(name)
        tar.addfile(entry, io.BytesIO(name.encode()))
    _docker("import", "--change", 'ENTRYPOINT ["/agent", "--isolated"]', "-", name, stdin=archive.getvalue())
    yield name
    _forget(name)


async def _push(registry: Registry, base: str, config: Path, token: str = TOKEN) -> int:
    arguments = ["--app", "vms", "--base", base, "--registry", registry.name, "--config", str(config)]
    return await asyncio.to_thread(push_image.main, arguments, {"FLY_API_TOKEN": token})


@needs_engine
async def test_what_is_pushed_is_what_is_pinned(base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By a digest that the registry has; the image's entry point is ours, around the one that was there."""
    config = tmp_path / "drape.toml"
    async with Registry(TOKEN) as registry:
        try:
            assert await _push(registry, base, config) == 0
        finally:
            await asyncio.to_thread(_forget, f"{registry.name}/vms:vm")
        [digest] = registry.manifests
        manifest = json.loads(registry.manifests[digest])
        pushed = json.loads(registry.blobs[manifest["config"]["digest"]])

    said = capsys.readouterr()
    assert said.out == f"DRAPE_POOL_FLY_IMAGE={registry.name}/vms@{digest}\n"
    assert tomllib.loads(config.read_text())["pool"]["fly"]["image"] == f"{registry.name}/vms@{digest}"
    assert pushed["config"]["Entrypoint"] == ["/opt/drape/start", "/agent", "--isolated"]
    assert pushed["config"]["User"] == "0"
    assert TOKEN not in said.out + said.err


@needs_engine
async def test_a_registry_that_does_not_take_the_token(
    base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "drape.toml"
    async with Registry("another") as registry:
        assert await _push(registry, base, config) == 1
        assert registry.refused > 0
        await asyncio.to_thread(_forget, f"{registry.name}/vms:vm")
    said = capsys.readouterr()
    assert "does not take the token" in said.err
    assert TOKEN not in said.out + said.err
    assert not config.exists()


@needs_engine
def test_an_image_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--app", "vms", "--base", "drape-no-such-image", "--registry", "127.0.0.1:1"]
    assert push_image.main(arguments, {"FLY_API_TOKEN": TOKEN}) == 1
    assert "there is no image drape-no-such-image" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "env", "said"),
    [
        ([], {"FLY_API_TOKEN": TOKEN}, "DRAPE_POOL_FLY_APP"),
        (["--app", "No App"], {"FLY_API_TOKEN": TOKEN}, "is no app of Fly's"),
        (["--app", "vms"], {}, "FLY_API_TOKEN is not set"),
    ],
)
def test_what_is_missing_is_said(
    arguments: list[str], env: dict[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push_image.main(arguments, env) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("drape.toml", "", f'[pool.fly]\nimage = "{PINNED}"\n'),
        ("drape.toml", "[pool]\ntarget = 3\n", f'[pool]\ntarget = 3\n\n[pool.fly]\nimage = "{PINNED}"\n'),
        (
            "drape.toml",
            '[pool.fly] # VMs\napp = "vms"\nimage = "old"\n[common]\nimage = "kept"\n',
            f'[pool.fly] # VMs\napp = "vms"\nimage = "{PINNED}"\n[common]\nimage = "kept"\n',
        ),
        (
            "drape.toml",
            '[pool.fly]\napp = "vms"\n\n[gateway]\nport = 1\n',
            f'[pool.fly]\nimage = "{PINNED}"\napp = "vms"\n\n[gateway]\nport = 1\n',
        ),
        (".env", "A=1\nDRAPE_POOL_FLY_IMAGE=old\nB=2\n", f"A=1\nDRAPE_POOL_FLY_IMAGE={PINNED}\nB=2\n"),
        (".env", "A=1", f"A=1\nDRAPE_POOL_FLY_IMAGE={PINNED}\n"),
    ],
)
def test_pinning_changes_one_line(tmp_path: Path, name: str, before: str, after: str) -> None:
    path = tmp_path / name
    path.write_text(before)
    path.chmod(0o600)
    pin(path, PINNED)
    assert path.read_text() == after
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == [name]


def test_a_config_that_cant_be_written(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="pin it by hand"):
        pin(tmp_path / "no folder" / "drape.toml", PINNED)
