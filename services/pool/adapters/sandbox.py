"""The bubblewrap sandbox of a local VM: what of this machine it sees, as an argv.

Inside: own user, pid, ipc, uts and cgroup namespaces, no capabilities, user 1000, a read-only root, and only these
files: the system's /usr and a handful of /etc, the Python that runs the agent, the agent's package, the Node that
config names, certificate files, and the VM's own folder at `/vm` (so a project is at `/vm/app` in every VM). Nothing
else of the machine, of Drape, or of other VMs is visible.

The network is shared with the machine, because package managers need it and the proxy dials the dev server: a project
can reach what the machine can reach, loopback and abstract sockets included. Where that is not acceptable, use another
provider; and run Drape as an ordinary user, because to other programs on this machine user 1000 inside is the user that
started it.

This room builds argument lists and tries them once. It starts no VM and sets no environment: values such as proxy URLs
may hold passwords, and bubblewrap's argv is readable by everyone, so the environment is given to the process instead
of `--clearenv --setenv`.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

VM = Path("/vm")
AGENT = Path("/opt/drape")
USER_ID = 1000
PROBE_TIMEOUT_S = 10.0
LINKS_MAX = 16
HOSTNAME = "drape-vm"
# Certificates without /etc/ssl/private; accounts come from `make_folders`, not from the machine.
ETC = (
    *("alternatives", "ca-certificates", "ca-certificates.conf", "crypto-policies", "gai.conf", "host.conf", "hosts"),
    *("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "mime.types", "npmrc", "nsswitch.conf", "os-release"),
    *("pki/ca-trust", "pki/tls/cert.pem", "pki/tls/certs", "protocols", "resolv.conf", "services", "ssl/cert.pem"),
    *("ssl/certs", "ssl/openssl.cnf", "timezone"),
)
# Variables whose value is a certificate file or folder (SSL_CERT_DIR may hold several).
CERTIFICATES = (
    "NODE_EXTRA_CA_CERTS",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NPM_CONFIG_CAFILE",
    "npm_config_cafile",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
)
# What the agent is told of the sandbox, so that it can empty it: these folders are on a tmpfs of its own, /dev is too.
OWN = ("--isolated", "--scratch", "/tmp,/dev/shm", "--fixed", "/dev")
# Features that newer versions add; used where `bwrap --help` names them.
OPTIONAL = ("--size", "--disable-userns")


class SandboxUnusable(Exception):
    """bubblewrap can't be used here; the message says why and what to install or allow."""


class Bubblewrap(msgspec.Struct, frozen=True):
    """A bubblewrap that was seen to work, and which of the optional features it has."""

    path: str
    features: frozenset[str] = frozenset()


class View(msgspec.Struct, frozen=True, kw_only=True):
    """What the sandbox shows: `read_only` files at their own paths, the agent's package, /tmp of `tmp_bytes_max`."""

    read_only: tuple[Path, ...]
    agent_package: Path
    tmp_bytes_max: int


def find(view: View) -> Bubblewrap:
    """The bubblewrap on PATH, proven by a run of the real argument list. Raises SandboxUnusable."""
    path = shutil.which("bwrap")
    if path is None:
        raise SandboxUnusable("bubblewrap is not installed; install the package `bubblewrap` (the command `bwrap`)")
    said = _run([path, "--help"])
    offered = frozenset(feature for feature in OPTIONAL if feature in said.stdout + said.stderr)
    result = said
    for features in dict.fromkeys((offered, frozenset[str]())):
        bubblewrap = Bubblewrap(path, features)
        with tempfile.TemporaryDirectory(prefix="drape-probe-") as folder:
            make_folders(Path(folder))
            result = _run([*argv(bubblewrap, view, Path(folder)), "--", "/bin/sh", "-c", ":"])
        if result.returncode == 0:
            return bubblewrap
    reason = (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[-1][:300]
    raise SandboxUnusable(
        f"bubblewrap is installed but does not work here ({reason}); it needs unprivileged user namespaces: see "
        "the sysctls user.max_user_namespaces and kernel.unprivileged_userns_clone, and AppArmor's rules for bwrap"
    )


def make_folders(folder: Path) -> None:
    """A VM's folders: root/{app,home,state} for the agent, tmp/, bin/ for commands, etc/ with the accounts inside.

    Only this user may enter: files that a project makes belong to the user that runs the sandbox, and one of them may
    have the set-user-id bit.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    for name in ("root", "root/app", "root/home", "root/state", "tmp", "etc", "bin"):
        (folder / name).mkdir(mode=0o700)
    name, home = "drape", VM / "home"
    (folder / "etc/passwd").write_text(f"{name}:x:{USER_ID}:{USER_ID}:{name}:{home}:/bin/sh\n")
    (folder / "etc/group").write_text(f"{name}:x:{USER_ID}:\n")


def argv(bubblewrap: Bubblewrap, view: View, folder: Path, descriptors: tuple[int, int] | None = None) -> list[str]:
    """Arguments up to, and without, the `--` before the command.

    `folder` is the VM's (see `make_folders`). `descriptors` are (info, block): bubblewrap writes the id of the
    sandbox's first process to `info`, and holds the command back until `block` can be read.
    """
    args = [bubblewrap.path, *_isolation(bubblewrap), *_system()]
    for name in ("passwd", "group"):
        args += _show(folder / "etc" / name, Path("/etc") / name)
    # Started by root, user 1000 is still root to the kernel where it asks for no capability, as for /proc/sys: a
    # read-only /proc is what keeps a project from setting this machine's kernel.core_pattern.
    args += ["--proc", "/proc", "--remount-ro", "/proc", "--dev", "/dev"]
    args += ["--size", str(view.tmp_bytes_max)] if "--size" in bubblewrap.features else []
    args += ["--tmpfs", "/tmp"]
    for path in view.read_only:
        args += _show(path, path)
    package, inside = view.agent_package, AGENT / view.agent_package.parent.name
    args += _show(package, inside / package.name)
    if (package.parent / "__init__.py").is_file():
        args += _show(package.parent / "__init__.py", inside / "__init__.py")
    args += _show(folder / "bin", AGENT / "bin")
    args += ["--bind", str(folder / "root"), str(VM), "--chdir", str(VM), "--remount-ro", "/"]
    if descriptors is not None:
        args += ["--info-fd", str(descriptors[0]), "--block-fd", str(descriptors[1])]
    return args


def _isolation(bubblewrap: Bubblewrap) -> list[str]:
    args = ["--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    args += ["--uid", str(USER_ID), "--gid", str(USER_ID), "--hostname", HOSTNAME, "--cap-drop", "ALL", "--new-session"]
    return args + (["--disable-userns"] if "--disable-userns" in bubblewrap.features else [])


def _show(path: Path, inside: Path) -> list[str]:
    return ["--ro-bind", str(path), str(inside)]


def read_only_paths(
    *,
    python: Path,
    node_dir: Path | None,
    extra: tuple[Path, ...],
    environment: Mapping[str, str],
    hidden: Path,
) -> tuple[Path, ...]:
    """What beyond the system must be visible, outermost paths first and without those that /usr already shows.

    Raises SandboxUnusable when one of them would show `hidden` (the folder of all VMs) or a whole home folder.
    """
    wanted = [*_python_paths(python), *extra, *_certificates(environment)]
    if node_dir is not None:
        wanted += [node_dir, node_dir.resolve()]
    wanted = [Path(os.path.abspath(path)) for path in wanted if path.exists()]
    homes = {Path.home(), Path("/root"), Path("/home"), Path("/")}
    for path in wanted:
        shown = path.resolve()
        if shown in homes or hidden.resolve().is_relative_to(shown):
            raise SandboxUnusable(
                f"the sandbox would have to show {path}, and with it files that are none of a project's business; "
                "install Python and Node in folders of their own"
            )
    kept: list[Path] = []
    for path in sorted(set(wanted), key=lambda p: len(p.parts)):
        if not any(path.is_relative_to(outer) for outer in (Path("/usr"), *kept)):
            kept.append(path)
    return tuple(kept)


def _python_paths(python: Path) -> list[Path]:
    """The interpreter, each link on the way to it, its environment and its base installation."""
    paths, link = [], python
    for _ in range(LINKS_MAX):
        paths.append(link)
        if not link.is_symlink():
            break
        link = Path(os.path.abspath(link.parent / link.readlink()))
    if python == Path(sys.executable):
        prefixes = [Path(sys.prefix), Path(sys.base_prefix)]
    else:
        said = _run([str(python), "-c", "import sys; print(sys.prefix); print(sys.base_prefix)"])
        prefixes = [Path(line) for line in said.stdout.splitlines()]
    for prefix in prefixes:
        paths += [prefix, prefix.resolve()]
    return paths


def _certificates(environment: Mapping[str, str]) -> list[Path]:
    named = [part for name in CERTIFICATES for part in environment.get(name, "").split(os.pathsep) if part]
    return [Path(part) for part in named if Path(part).is_absolute()]


def _system() -> list[str]:
    """/usr, the names that lead into it (links on most systems, folders on some), and the chosen part of /etc."""
    args = ["--ro-bind", "/usr", "/usr"]
    for path in [Path("/bin"), Path("/sbin"), *sorted(Path("/").glob("lib*"))]:
        if path.is_symlink():
            args += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            args += ["--ro-bind", str(path), str(path)]
    for name in ETC:
        path = Path("/etc") / name
        if path.exists():
            args += ["--ro-bind", str(path), str(path)]
    return args


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SandboxUnusable(f"{command[0]} could not be run: {error}") from error
