"""`deploy/fly/push-image`: builds the VM image for Fly, pushes it to the app's registry, and pins its digest in a config.

The image is that of `deploy/workspace/build` with an entry point which gives the agent its token from the file that Fly
writes. What a pool then starts is named by its digest: a tag that moves changes no VM.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from services.pool.adapters.fly_config import FlyConfig, token_of
from services.pool.ports import ProviderError

ROOT = Path(__file__).parents[2]
REGISTRY = "registry.fly.io"
ARCHITECTURE = "amd64"
TABLE = "[pool.fly]"
BUILD_S, PUSH_S, LOOK_S = 1800.0, 1800.0, 60.0
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
APP = re.compile(r"[a-z0-9-]{1,63}")
USER = "x"
"""The registry takes any name; the token alone counts."""


class Failed(Exception):
    """What went wrong, and what to do: shown as it is."""


def main(arguments: Sequence[str] | None = None, env: Mapping[str, str] = os.environ) -> int:
    """Gives the exit code. The pinned name is the only line on standard output."""
    options = _parser().parse_args(arguments)
    try:
        app = options.app or env.get("DRAPE_POOL_FLY_APP", "")
        if not APP.fullmatch(app):
            raise Failed(f"{app!r} is no app of Fly's: name it with --app, or in DRAPE_POOL_FLY_APP")
        token = token_of(FlyConfig(token_file=env.get("DRAPE_POOL_FLY_TOKEN_FILE", "")), env)
        if not token:
            raise Failed("FLY_API_TOKEN is not set: make a token with `fly tokens create deploy -a " + app + "`")
        pinned = push(app, token, registry=options.registry, base=options.base, ca=options.ca)
        if options.config:
            pin(Path(options.config), pinned)
            print(f"pinned in {options.config}", file=sys.stderr)
    except (Failed, ProviderError) as error:
        print(f"push-image: {error}", file=sys.stderr)
        return 1
    print(f"DRAPE_POOL_FLY_IMAGE={pinned}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="deploy/fly/push-image", description=__doc__)
    parser.add_argument("--app", default="", help="the VMs' app (default: DRAPE_POOL_FLY_APP)")
    parser.add_argument(
        "--config", default="", help="a file of settings: its [pool.fly] table, or its line in an .env file"
    )
    parser.add_argument("--base", default="", help="a VM image that is there already, instead of building one")
    parser.add_argument("--ca", default="", help="further certificates that VMs trust (PEM)")
    parser.add_argument("--registry", default=REGISTRY, help="where to push to")
    return parser


def push(app: str, token: str, *, registry: str = REGISTRY, base: str = "", ca: str = "") -> str:
    """Builds and pushes; gives `registry/app@sha256:…`. Raises `Failed`.

    The engine is logged in with a configuration of its own, which goes at the end: no credentials stay behind.
    """
    if shutil.which("docker") is None:
        raise Failed("there is no `docker` here: install Docker's client, and point DOCKER_HOST at an engine")
    if not base:
        build = [str(ROOT / "deploy/workspace/build"), *(["--ca", ca] if ca else [])]
        _run(build, BUILD_S, "the VM image could not be built")
        base = "drape-workspace:latest"
    config = _inspect(base)
    if config["Architecture"] != ARCHITECTURE:
        raise Failed(
            f"{base} is made for {config['Architecture']}, and Fly's machines are {ARCHITECTURE}: build it on one"
        )
    entry: list[str] = config["Config"]["Entrypoint"] or []
    if not entry:
        raise Failed(f"{base} has no entry point that starts the agent: build it with deploy/workspace/build")
    with tempfile.TemporaryDirectory(prefix="drape-push-") as folder:
        home = Path(folder)
        name = f"{registry}/{app}:vm"
        _build(home, base, entry, name)
        docker = ["docker", "--config", str(home)]
        user = token.split(" ", 1)[-1]
        login = [*docker, "login", "--username", USER, "--password-stdin", registry]
        _run(login, LOOK_S, f"{registry} does not take the token", stdin=user)
        said = _run([*docker, "push", name], PUSH_S, f"{name} could not be pushed")
    digests = DIGEST.findall(said)
    if not digests:
        raise Failed(f"the engine did not say under which digest {name} was pushed; it said: {said[-300:]}")
    return f"{registry}/{app}@{digests[-1]}"


def _build(folder: Path, base: str, entry: Sequence[str], name: str) -> None:
    context = folder / "context"
    context.mkdir()
    shutil.copy(ROOT / "deploy/fly/start", context / "start")
    (context / "Dockerfile").write_text(
        f"FROM {base}\nUSER 0\nCOPY start /opt/drape/start\nENTRYPOINT {json.dumps(['/opt/drape/start', *entry])}\n",
        "utf-8",
    )
    build = ["docker", "build", "--quiet", "--tag", name, str(context)]
    _run(build, BUILD_S, "the entry point could not be put on the VM image", env={"DOCKER_BUILDKIT": "0"})


def _inspect(image: str) -> dict[str, Any]:
    said = _run(["docker", "image", "inspect", image], LOOK_S, f"there is no image {image}")
    found: dict[str, Any] = json.loads(said)[0]
    return found


def _run(
    command: Sequence[str], timeout_s: float, failing: str, *, stdin: str = "", env: Mapping[str, str] | None = None
) -> str:
    """What it wrote to standard output. Secrets go in by `stdin` alone, so that what is shown on failure has none."""
    try:
        done = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env={**os.environ, **(env or {})},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(f"{failing}: {error}") from error
    if done.returncode:
        said = " ".join(f"{done.stdout}\n{done.stderr}".replace(stdin or "\0", "[token]").split())
        raise Failed(f"{failing}: {said[-600:]}")
    return done.stdout


def pin(path: Path, pinned: str) -> None:
    """Names the image in a file of settings: `image` in `[pool.fly]` of a TOML file, else `DRAPE_POOL_FLY_IMAGE=` on a line
    of its own. The rest of the file stays as it is; the file is replaced as a whole, or not at all. Raises `Failed`."""
    try:
        text = path.read_text("utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise Failed(f"{path} can't be read: {error}") from error
    fresh = _in_toml(text, pinned) if path.suffix == ".toml" else _in_env(text, pinned)
    beside = path.with_name(f".{path.name}.new")
    try:
        beside.write_text(fresh, "utf-8")
        if path.exists():
            shutil.copymode(path, beside)
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise Failed(f"{path} can't be written: {error}; pin it by hand: DRAPE_POOL_FLY_IMAGE={pinned}") from error


def _in_env(text: str, pinned: str) -> str:
    line = f"DRAPE_POOL_FLY_IMAGE={pinned}"
    fresh, found = re.subn(r"^DRAPE_POOL_FLY_IMAGE=.*$", line, text, flags=re.MULTILINE)
    return fresh if found else f"{text}{'' if text.endswith(chr(10)) or not text else chr(10)}{line}\n"


def _in_toml(text: str, pinned: str) -> str:
    line, lines = f'image = "{pinned}"', text.splitlines()
    heads = [number for number, each in enumerate(lines) if each.split("#")[0].strip() == TABLE]
    if not heads:
        return "\n".join([*lines, *([""] if lines else []), TABLE, line]) + "\n"
    start = heads[0] + 1
    tables = (number for number, each in enumerate(lines) if number >= start and each.lstrip().startswith("["))
    end = next(tables, len(lines))
    for number in range(start, end):
        if re.match(r"\s*image\s*=", lines[number]):
            lines[number] = line
            return "\n".join(lines) + "\n"
    return "\n".join([*lines[:start], line, *lines[start:]]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
