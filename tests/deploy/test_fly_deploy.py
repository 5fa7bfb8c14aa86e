"""`deploy/fly/deploy`, run against a program that stands in for flyctl: it notes each call and remembers what was made."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

ROOT = Path(__file__).parents[2]
IMAGE = "registry.fly.io/drape-images@sha256:" + "0" * 64
FLY = """\
#!{python} -IS
import json, os, pathlib, sys, time
folder = pathlib.Path({folder!r})
args = sys.argv[1:]
option = lambda name: args[args.index(name) + 1]
with (folder / "calls").open("a") as calls:
    calls.write(json.dumps(args) + "\\n")
path = folder / "world.json"
world = json.loads(path.read_text()) if path.exists() else {{"apps": [], "machines": {{}}, "volumes": 0, "secrets": {{}}}}
match args:
    case ["status", *_]:
        sys.exit(0 if option("--app") in world["apps"] else 1)
    case ["apps", "create", name, *_]:
        world["apps"].append(name)
    case ["secrets", "import", *_]:
        names = [line.partition("=")[0] for line in sys.stdin.read().splitlines()]
        world["secrets"].setdefault(option("--app"), []).extend(names)
    case ["secrets", "list", *_]:
        print(json.dumps([{{"name": each}} for each in world["secrets"].get(option("--app"), [])]))
    case ["volumes", "list", *_]:
        print(json.dumps([{{}}] * world["volumes"]))
    case ["volumes", "create", *_]:
        world["volumes"] += int(option("--count"))
    case ["deploy", *_]:
        world["machines"].setdefault("drape-" + option("--config").removesuffix(".toml"), 1)
    case ["machine", "list", *_]:
        app = option("--app")
        print(json.dumps([{{"id": app + str(n)}} for n in range(world["machines"].get(app, 0))]))
    case ["scale", "count", count, *_]:
        world["machines"][option("--app")] = int(count)
    case ["proxy", *_]:
        (folder / "tunnel").touch()
        time.sleep(30)
    case _:
        sys.exit("no such command: " + " ".join(args))
# At once, for the tunnel reads it beside the other calls.
(folder / f"world.{{os.getpid()}}").write_text(json.dumps(world))
(folder / f"world.{{os.getpid()}}").replace(path)
"""
DRAPE = """\
#!/bin/sh
[ "$2" = --out ] && exec {drape} "$@"
[ -e {folder}/tunnel ] || exit 1
echo "$NATS_URL $DRAPE_STREAM_REPLICAS $DRAPE_NATS_SEED_FILE" >>{folder}/provisioned
"""


class Fly:
    """The stand-ins and what they have noted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys = folder / "keys"
        for name, text in (("fly", FLY), ("drape", DRAPE)):
            drape = Path(sys.executable).parent / "drape"
            path = folder / name
            path.write_text(text.format(python=sys.executable, folder=str(folder), drape=drape))
            path.chmod(0o755)

    def deploy(self, **more: str) -> "subprocess.CompletedProcess[str]":
        """One run; `more` goes into its environment."""
        env = {**os.environ, "PATH": f"{self.folder}:{os.environ['PATH']}", "DRAPE": str(self.folder / "drape")}
        env |= {"KEYS": str(self.keys), "ORG": "acme", "IMAGE": IMAGE, **more}
        command = [str(ROOT / "deploy" / "fly" / "deploy")]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=150, check=False)

    def calls(self) -> list[list[str]]:
        """What flyctl was asked for since the last look."""
        path = self.folder / "calls"
        lines = path.read_text().splitlines()
        path.unlink()
        return [msgspec.json.decode(line, type=list[str]) for line in lines]


@pytest.fixture
def fly(tmp_path: Path) -> Fly:
    """Stand-ins in a folder of their own."""
    if shutil.which("jq") is None:
        pytest.skip("there is no jq, which deploy/fly/deploy needs")
    return Fly(tmp_path)


def test_deploys(fly: Fly) -> None:
    """The first run makes everything in order; no secret is an argument; the second makes nothing again."""
    token = fly.folder / "token"
    token.write_text("FlyV1 fm2_secret")
    first = fly.deploy(DATABASE_URL="postgresql://drape:hunter2@db/drape", VM_TOKEN_FILE=str(token))
    calls = fly.calls()

    assert first.returncode == 0, first.stderr
    deployed = [call[2] for call in calls if call[0] == "deploy"]
    assert deployed == [f"{name}.toml" for name in ("nats", "telemetry", "pool", "orchestrator", "gateway")]
    assert next(call for call in calls if call[0] == "deploy" and "--no-public-ips" not in call)[2] == "gateway.toml"
    provisioned = (fly.folder / "provisioned").read_text().split()
    assert provisioned == ["nats://127.0.0.1:14222", "3", str(fly.keys / "nats" / "provision.nk")]
    assert calls.index(["proxy", "14222:4222", "--app", "drape-nats", "--quiet"]) < [c[:3] for c in calls].index(
        ["deploy", "--config", "telemetry.toml"]
    )
    networks = {call[2]: call[call.index("--network") + 1] for call in calls if call[:2] == ["apps", "create"]}
    assert networks.pop("drape-vms") == "drape-vms"
    assert set(networks.values()) == {"drape"}
    urls = {call[call.index("--env") + 1] for call in calls if call[0] == "deploy" and "--env" in call}
    assert urls == {
        "NATS_URL=" + ",".join(f"nats://drape-nats{n}.vm.drape-nats.internal:4222" for n in range(3)),
    }
    secrets = [path.read_text().strip() for path in [*fly.keys.glob("nats/*.nk"), fly.keys / "platform", token]]
    spoken = " ".join(word for call in calls for word in call) + first.stdout + first.stderr
    assert not [each for each in [*secrets, "hunter2"] if each in spoken]
    assert (fly.keys / "platform").stat().st_mode & 0o077 == 0

    kept = (fly.keys / "platform").read_text()
    second = fly.deploy()

    assert second.returncode == 0, second.stderr
    assert not [call for call in fly.calls() if call[0] in ("apps", "scale") or call[:2] == ["volumes", "create"]]
    assert (fly.keys / "platform").read_text() == kept


def test_what_is_missing_is_said(fly: Fly) -> None:
    """An image that may move is refused before anything is made; so is a first run without a database."""
    moving = fly.deploy(IMAGE="registry.fly.io/drape-images:latest")

    assert moving.returncode == 2
    assert "sha256" in moving.stderr
    assert not (fly.folder / "calls").exists()

    without = fly.deploy()

    assert without.returncode == 1
    assert "DATABASE_URL is needed the first time" in without.stderr
