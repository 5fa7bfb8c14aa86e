"""The entry point of a Fly machine, tried on the real VM image in a container: the token is handed over, root is let go."""

import io
import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from deploy.fly.push_image import ROOT, _build, _inspect
from tests.deploy.test_push_image import _docker, _engine, _forget
from tests.deploy.waiting import eventually

BASE, TOKEN = "drape-workspace:latest", "fly-start-token-81c2"


def _has_image() -> bool:
    if not _engine():
        return False
    return subprocess.run(["docker", "image", "inspect", BASE], capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not _has_image(), reason=f"no engine with {BASE} (deploy/workspace/build)")


@pytest.fixture
def image(tmp_path: Path) -> Iterator[str]:
    name = f"drape-fly-test-{uuid4().hex[:8]}"
    _build(tmp_path, BASE, _inspect(BASE)["Config"]["Entrypoint"], name)
    yield name
    _forget(name)


@pytest.fixture
def machine(image: str) -> Iterator[str]:
    """A container made as a pool makes a machine, its token's file in it; not started."""
    name = f"drape-fly-test-{uuid4().hex[:8]}"
    _docker("create", "--name", name, image, "--vm-id", "vm-000001", "--root", "/vm", "--listen", "[::]:4711")
    yield name
    subprocess.run(["docker", "rm", "--force", name], capture_output=True, check=False)


def _write_token(machine: str) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        folder = tarfile.TarInfo("drape")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(folder)
        file = tarfile.TarInfo("drape/token")
        file.size, file.mode = len(TOKEN) + 1, 0o400
        tar.addfile(file, io.BytesIO(f"{TOKEN}\n".encode()))
    _docker("cp", "-", f"{machine}:/etc", stdin=archive.getvalue())


def _health(machine: str) -> dict[str, object]:
    """What the agent says of itself; nothing while it does not answer."""
    asked = ["docker", "exec", machine, "curl", "-s", "-m", "2", "-H", f"Authorization: Bearer {TOKEN}"]
    done = subprocess.run([*asked, "http://127.0.0.1:4711/health"], capture_output=True, check=False)
    answer: dict[str, object] = json.loads(done.stdout) if done.returncode == 0 and done.stdout else {}
    return answer


async def test_the_agent_gets_its_token_and_no_rights(machine: str) -> None:
    """It runs as the user of VMs, without a capability, and can gain none; the file is gone."""
    _write_token(machine)
    _docker("start", machine)
    await eventually(lambda: _health(machine).get("vm_id") == "vm-000001", timeout_s=60.0)
    status = _docker("exec", machine, "cat", "/proc/1/status")
    said = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert {said[name].strip() for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert said["NoNewPrivs"] == "1"
    assert said["Uid"].split()[0] != "0"
    assert _docker("exec", machine, "ls", "/etc/drape") == ""


def test_a_machine_without_a_token_says_so(machine: str) -> None:
    assert subprocess.run(["docker", "start", "--attach", machine], capture_output=True, check=False).returncode == 2
    logs = subprocess.run(["docker", "logs", machine], capture_output=True, check=True).stderr.decode()
    assert "there is no /etc/drape/token" in logs


def test_it_is_a_script_that_may_be_run() -> None:
    assert (ROOT / "deploy/fly/start").stat().st_mode & 0o111
