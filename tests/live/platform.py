"""A whole platform for live tests: one DRAPE_HOME, started and ended through the CLI as a user does it.

Synchronous at its edges, so that one platform serves many tests, each with an event loop of its own. Kills processes
only by the ids that this platform wrote down. Never sleeps: every wait is on a condition or an event, with a bound.
"""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import psutil
from nats.aio.client import Client as NatsClient

from deploy.local import records
from deploy.local.options import SERVICES, RunStatus
from deploy.local.paths import Home
from deploy.local.status import read_status
from deploy.nats.identities import seed_file
from shared.codec import Recorded
from shared.jetstream import denials
from shared.jetstream.connection import bus_on, connect
from shared.jetstream.servers import public_url
from shared.ports import Bus
from tests.deploy.waiting import alive

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
UP_TIMEOUT_S = 120.0
DOWN_TIMEOUT_S = 120.0
COMMAND_TIMEOUT_S = 170.0
EVENT_TIMEOUT_S = 60.0
EVENTS_WAITING_MAX = 100_000
DENIED = "drape-live-denied"
"""The connection's name of a test that tries what it may not: its violations are what it is about."""

Json = dict[str, Any]

QUIET_ENV = {
    "DRAPE_POOL_TARGET": "1",
    "DRAPE_POOL_MINIMUM": "1",
    "DRAPE_POOL_MAXIMUM": "6",
}
"""One warm VM is enough for tests, and leaves the processor to what is tested."""


class Ran(msgspec.Struct, frozen=True):
    """What a command did. `lines`: its standard output as JSON objects, where `--json` was given."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[Json]:
        return [msgspec.json.decode(line) for line in self.out.splitlines()]

    @property
    def last(self) -> Json:
        assert self.out, f"no output; exit code {self.code}; {self.err}"
        return self.lines[-1]


def excused(line: str) -> bool:
    """Whether a denial is one that a test asks for; or that of an answer: it may be given on the connection on which the
    question came, and is denied after a reconnect. Who has asked asks again."""
    return DENIED in line or re.search(r'publish (violation - subject ")?_inbox_', line, re.IGNORECASE) is not None


class Platform:
    """One DRAPE_HOME. `env` is added to what its processes get."""

    def __init__(self, root: Path, env: Mapping[str, str] | None = None) -> None:
        self.home = Home(root)
        own = {key: value for key, value in os.environ.items() if not key.startswith(("DRAPE_", "NATS_", "OTEL_"))}
        own.pop("DATABASE_URL", None)
        self.env = {**own, **QUIET_ENV, **(env or {}), "DRAPE_HOME": str(root)}

    # --- the CLI ----------------------------------------------------------------------------------------------

    def argv(self, *arguments: str | Path) -> list[str]:
        """The command line of `drape ARGUMENTS`."""
        return [sys.executable, "-m", "deploy.cli.main", *map(str, arguments)]

    def run(self, *arguments: str | Path, timeout_s: float = COMMAND_TIMEOUT_S) -> Ran:
        """`drape ARGUMENTS`, to its end. Blocks."""
        done = subprocess.run(
            self.argv(*arguments),
            env=self.env,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    async def drape(self, *arguments: str | Path, timeout_s: float = COMMAND_TIMEOUT_S) -> Ran:
        """`drape ARGUMENTS`, to its end."""
        return await asyncio.to_thread(self.run, *arguments, timeout_s=timeout_s)

    def up(self, *arguments: str) -> Ran:
        """`drape up --detach` on a free port. Fails the test when it does not come up."""
        ran = self.run("up", "--detach", "--json", "--port", "0", *arguments, timeout_s=UP_TIMEOUT_S)
        assert ran.code == 0, f"{ran.out}\n{ran.err}"
        return ran

    def down(self) -> None:
        """`drape down`; fails the test when something of it is still alive."""
        before = [record.pid for record in records.read_all(self.home)]
        ran = self.run("down", "--json", timeout_s=DOWN_TIMEOUT_S)
        assert ran.code == 0, f"{ran.out}\n{ran.err}"
        left = [pid for pid in before if alive(pid)] + [process.pid for process in self.vm_processes()]
        assert not left, f"alive after `down`: {left}"
        assert not self.violations(), f"a permission is missing: {self.violations()}"

    def violations(self) -> list[str]:
        """What NATS has denied to anybody but tests that ask for it (`DENIED`): from the server's log and the services'."""
        lines = [
            line
            for path in sorted(self.home.logs.glob("*.log*"))
            for line in path.read_text("utf-8", "replace").splitlines()
        ]
        wanted = ("Publish Violation", "Subscription Violation", f'"{denials.CODE}"')
        return [line for line in lines if any(each in line for each in wanted) and not excused(line)]

    # --- what runs --------------------------------------------------------------------------------------------

    @property
    def status(self) -> RunStatus:
        """What runs now."""
        found = read_status(self.home)
        assert found is not None, "the platform does not run"
        return found

    @property
    def gateway(self) -> str:
        return self.status.gateway

    def pid(self, name: str) -> int:
        """The process id in `run/<name>.pid`; 0 while there is none."""
        path = self.home.run / f"{name}.pid"
        return int(path.read_text()) if path.exists() else 0

    def kill(self, name: str) -> int:
        """SIGKILL to what `run/<name>.pid` names; gives the id."""
        pid = self.pid(name)
        assert pid, f"{name} has no pid file"
        os.kill(pid, signal.SIGKILL)
        return pid

    def kill_everything(self) -> None:
        """SIGKILL to the supervisor first, so that it restarts nothing, then to all that it started."""
        self.kill_services()
        self.kill("nats")
        self.kill_postgres()

    def kill_services(self) -> None:
        """SIGKILL to the supervisor first, then to the services; servers that it has started go on."""
        for name in (records.SUPERVISOR, *SERVICES):
            self.kill(name)

    def kill_postgres(self) -> None:
        """SIGKILL to PostgreSQL's first process and to all of its workers."""
        first = psutil.Process(self.pid("postgres"))
        for process in [first, *first.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    @contextmanager
    def supervisor_paused(self) -> Iterator[None]:
        """The supervisor restarts nothing within the block: it is stopped (SIGSTOP), and goes on afterwards."""
        pid = self.pid(records.SUPERVISOR)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def vm(self, vm_id: str) -> Json:
        """The provider's own record of a VM."""
        found: Json = msgspec.json.decode((self.home.vms / vm_id / "vm.json").read_bytes())
        return found

    def vm_processes(self, vm_id: str | None = None) -> list[psutil.Process]:
        """The living processes of one VM, or of all: first process and tree."""
        found: list[psutil.Process] = []
        for path in self.home.vms.glob(f"{vm_id or '*'}/vm.json"):
            record = msgspec.json.decode(path.read_bytes())
            process = records.process_if(record["pid"], record["created"])
            if process is not None:
                found += [process, *process.children(recursive=True)]
        return found

    # --- its log ----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def bus(self) -> AsyncIterator[Bus]:
        """A connection to the platform's NATS as the operator: it reads, and sends what a person may send."""
        client = await connect(self.status.nats, "drape-live-test")
        try:
            yield bus_on(client, "live", (self.home.secrets / "platform").read_text("ascii").strip())
        finally:
            await client.close()

    @asynccontextmanager
    async def connected(self, identity: str, *, denied: bool = False) -> AsyncIterator[NatsClient]:
        """A connection as one of the identities, with its key. `denied`: it will try what it may not."""
        seed = seed_file(self.home.nats_seeds, identity).read_text()
        client = await connect(
            public_url(self.status.nats), DENIED if denied else f"drape-live-{identity}", identity=identity, seed=seed
        )
        try:
            yield client
        finally:
            await client.close()

    async def events(self, preview_id: str | None = None) -> list[Recorded]:
        """The log as it is now, its sealed texts opened; only what names `preview_id`, where it is given."""
        async with self.bus() as bus:
            found = [each async for each in bus.log.read() if _of(each, preview_id)]
            return [msgspec.structs.replace(each, event=await bus.seals.opened(each.event)) for each in found]

    async def event(
        self, kind: str, preview_id: str, *, after: int = 0, timeout_s: float = EVENT_TIMEOUT_S
    ) -> Recorded:
        """The first event of this type after `after` that names the preview; waits for it."""
        queue: asyncio.Queue[Recorded | BaseException] = asyncio.Queue(maxsize=EVENTS_WAITING_MAX)
        async with self.bus() as bus, asyncio.timeout(timeout_s):
            subscription = await bus.log.follow(after, queue.put_nowait, queue.put_nowait)
            try:
                while True:
                    item = await queue.get()
                    if isinstance(item, BaseException):
                        raise item
                    if item.type == kind and _of(item, preview_id):
                        return msgspec.structs.replace(item, event=await bus.seals.opened(item.event))
            finally:
                await subscription.stop()


def _of(recorded: Recorded, preview_id: str | None) -> bool:
    return preview_id is None or getattr(recorded.event, "preview_id", None) == preview_id
