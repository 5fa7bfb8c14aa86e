"""`deploy/compose`: Drape with Docker on one machine. Makes secrets and images, then has compose do the rest.

Starts no container itself: whatever compose can do with compose.yaml, it does through here too.
"""

import argparse
import asyncio
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.local import records
from deploy.local.errors import LauncherError
from deploy.local.nats_config import Node, cluster_of
from deploy.local.paths import Home
from deploy.local.secrets import load_or_make_one
from deploy.nats.authorization import authorization, users
from deploy.nats.identities import make_identities
from services.pool.adapters.docker_config import DockerConfig
from services.pool.adapters.docker_removal import remove_home

DEPLOY = Path(__file__).parent
FILE = DEPLOY / "compose.yaml"
LOCAL_FILE = DEPLOY / "compose.local.yaml"
NODES = ("nats-1", "nats-2", "nats-3")
PROJECT = "drape"
"""As compose.yaml names it."""
SOCKET = "/var/run/docker.sock"
PROXY_IMAGE = "drape-proxy:local"
CLIENT_PORT, ROUTES_PORT, MONITOR_PORT = 4222, 6222, 8222
READY_LIMIT_S = 300
"""For `up`: three elections, and a replay."""
REMOVE_LIMIT_S = 60
"""For all VMs at once."""
_FOLDER_MODE, _FILE_MODE = 0o700, 0o444


def make_secrets(folder: Path) -> None:
    """What compose.yaml mounts, made where it is missing. Compose gives a container the file as it is on this machine, and
    the users in there differ: so everybody may read the files, and only the owner may enter their folder.

    Raises LauncherError `secret_unreadable`, `seed_wrong`, `identities_not_writable`.
    """
    keys = make_identities(folder)
    folder.chmod(_FOLDER_MODE)
    load_or_make_one(folder / "platform", secrets.token_hex(32))
    load_or_make_one(folder / "api_tokens", f"{secrets.token_hex(24)}:local")
    load_or_make_one(folder / "grafana_password", secrets.token_urlsafe(24))
    password = load_or_make_one(folder / "postgres_password", secrets.token_hex(32))
    # Without `sslmode` clients ask for TLS first, which the server in the next container does not have.
    load_or_make_one(folder / "database_url", f"postgresql://drape:{password}@postgres:5432/drape?sslmode=disable")
    routes = load_or_make_one(folder / "routes_password", f"r{secrets.token_hex(32)}")
    _rewrite(folder / "server-auth.conf", authorization(users(keys)))
    anywhere = _node("0.0.0.0")  # noqa: S104 (inside a container, on a network of the deployment's own)
    _rewrite(folder / "routes-auth.conf", cluster_of(anywhere, [_node(name) for name in NODES], routes))
    for path in folder.iterdir():
        path.chmod(_FILE_MODE)


def environment(environ: Mapping[str, str], folder: Path) -> dict[str, str]:
    """What compose.yaml asks of the environment; what the caller has set goes before."""
    found = {"DRAPE_COMPOSE_SECRETS": str(folder), **environ}
    engine = environ.get("DOCKER_HOST", "")
    # The pool's engine is compose's own. On a Mac the engine is in a machine of its own, where its socket is at the usual place.
    if not found.get("DRAPE_DOCKER_SOCKET") and engine.startswith("unix://") and sys.platform == "linux":
        found["DRAPE_DOCKER_SOCKET"] = engine.removeprefix("unix://")
    socket = Path(found.get("DRAPE_DOCKER_SOCKET") or SOCKET)
    if "DRAPE_DOCKER_GID" not in found and socket.exists():
        found["DRAPE_DOCKER_GID"] = str(socket.stat().st_gid)
    return found


def find_compose() -> list[str]:
    """Compose as the engine's plugin, or as a command of its own. Raises LauncherError `compose_missing`."""
    for argv in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(argv[0]) is None:
            continue
        told = subprocess.run([*argv, "version", "--short"], capture_output=True, text=True, check=False)
        if told.returncode == 0 and told.stdout.strip().lstrip("v").partition(".")[0] >= "2":
            return argv
    raise LauncherError(
        "compose_missing",
        "Neither `docker compose` nor `docker-compose` of version 2 or newer is here.",
        "Install Docker's compose plugin: https://docs.docker.com/compose/install/",
    )


def command(compose: Sequence[str], local: bool, words: Sequence[str]) -> list[str]:
    """The whole command; `up` returns once everything is healthy."""
    files = ["--file", str(FILE), *(("--file", str(LOCAL_FILE)) if local else ())]
    if words[:1] == ["up"]:
        words = ["up", "--detach", "--wait", "--wait-timeout", str(READY_LIMIT_S), "--remove-orphans", *words[1:]]
    return [*compose, *files, *words]


def build_images(local: bool, environ: Mapping[str, str]) -> None:
    """The services' image, and with `local` those that could not be pulled; what somebody names is theirs to make. Raises
    LauncherError `build_failed`."""
    if "DRAPE_SERVICE_IMAGE" not in environ:
        _run([str(DEPLOY / "images" / "build-services")], environ)
    if not local:
        return
    if not {"DRAPE_NATS_IMAGE", "DRAPE_POSTGRES_IMAGE"} <= environ.keys():
        _run([str(DEPLOY / "images" / "build")], environ)
    if "DRAPE_PROXY_IMAGE" not in environ:
        network = environ.get("DRAPE_BUILD_NETWORK", "")
        base = environ.get("DRAPE_BUILD_BASE") or "drape-base:bookworm"
        build = ["docker", "build", "--quiet", "--tag", PROXY_IMAGE, "--build-arg", f"BASE={base}"]
        _run([*build, *(("--network", network) if network else ()), str(DEPLOY / "images" / "proxy")], environ)


def remove_vms(environ: Mapping[str, str]) -> None:
    """VMs are the pool's, and compose knows none of them, nor of their network and its firewall rules: without their pool they
    would end minutes later, and the rest would stay. Raises LauncherError `vms_left`."""
    home = environ.get("COMPOSE_PROJECT_NAME") or PROJECT
    image = environ.get("DRAPE_WORKSPACE_IMAGE") or DockerConfig().image
    config = DockerConfig(image=image, tls_dir=environ.get("DOCKER_CERT_PATH", ""))
    removed = asyncio.run(remove_home(config, [engine_of(environ)], home, timeout_s=REMOVE_LIMIT_S))
    if removed.vms:
        print(f"removed VMs: {removed.vms}")
    if removed.problems:
        problem = f"VMs, their network or its firewall rules may be left: {removed.problems[0]}."
        raise LauncherError("vms_left", problem, "Once that is mended, `deploy/compose down` removes them.")


def engine_of(environ: Mapping[str, str]) -> str:
    """The engine that compose speaks to, as a URL: `DOCKER_HOST`, or that of Docker's current context."""
    argv = ["docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"]
    found = ""
    if shutil.which(argv[0]) is not None:
        found = subprocess.run(argv, env=environ, capture_output=True, text=True, check=False).stdout.strip()
    return found or environ.get("DOCKER_HOST") or f"unix://{SOCKET}"


def _run(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    if subprocess.run(argv, env=environ, check=False).returncode != 0:
        raise LauncherError(
            "build_failed", f"{Path(argv[0]).name} did not end well.", "What it printed above says why."
        )


def _node(host: str) -> Node:
    store = Path("/data")
    return Node(
        name=host,
        host=host,
        port=CLIENT_PORT,
        monitor_port=MONITOR_PORT,
        cluster_port=ROUTES_PORT,
        store=store,
        log=store,
    )


def _rewrite(path: Path, text: str) -> None:
    """A new file in place of the old one, where it differs: containers that run keep the one that they were started with."""
    if not path.exists() or path.read_text("utf-8") != text:
        records.write_private(path, text.encode())


def main() -> None:
    """Parse the command line and become compose."""
    parser = argparse.ArgumentParser(prog="deploy/compose", description=__doc__)
    parser.add_argument("--local", action="store_true", help="only images that are built here; no Grafana")
    parser.add_argument("--no-build", action="store_true", help="with up: the images are there")
    parser.add_argument(
        "words", nargs=argparse.REMAINDER, metavar="COMMAND", help="of compose: up, down, ps, logs, config, …"
    )
    given = parser.parse_args()
    if not given.words:
        parser.error("give a command of compose: up, down, ps, logs, config, …")
    folder = Home.from_env().root / "compose"
    try:
        compose = find_compose()
        make_secrets(folder)
        environ = environment(os.environ, folder)
        if given.words[0] == "up" and not given.no_build:
            build_images(given.local, environ)
    except LauncherError as error:
        sys.exit(f"compose: {error.code}: {error.message} {error.hint}")
    code = subprocess.run(command(compose, given.local, given.words), env=environ, check=False).returncode
    if code == 0 and given.words[0] == "down":
        try:
            remove_vms(environ)
        except LauncherError as error:
            sys.exit(f"compose: {error.code}: {error.message} {error.hint}")
    if code == 0 and given.words[0] == "up":
        where = f"http://localhost:{environ.get('DRAPE_PORT') or 8080}/"
        print(f"Drape is up: {where} - its token is the first part of {folder / 'api_tokens'}")
    sys.exit(code)


if __name__ == "__main__":
    main()
