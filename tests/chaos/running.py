"""One run: a platform on machines of its own, users, faults for a while, then quiet, then the rules."""

import asyncio
import contextlib
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import aiohttp
import msgspec

from deploy.local.paths import Home
from deploy.local.ports import free_port
from deploy.local.status import read_status
from deploy.nats.identities import make_identities, seed_file
from deploy.nats.permissions import OPERATOR
from services.pool.app import definition
from services.pool.config import PoolConfig
from shared.codec import Recorded
from shared.definition import replay
from shared.jetstream.credentials import SEED_FILE
from tests.chaos import hosts, rules
from tests.chaos.faults import Breaker, Fault, schedule
from tests.chaos.ledger import Ledger
from tests.chaos.load import SERVED, TROUBLES, User
from tests.chaos.pacing import until
from tests.live.client import Client
from tests.live.platform import Platform, Ran

USERS = 3
REPLICAS = 2
QUIET_S = 240.0
UP_S = 240.0
FIRST_PAGE_S = 120.0
ENV = {
    "DRAPE_POOL_TARGET": "2",
    "DRAPE_POOL_MINIMUM": "1",
    "DRAPE_POOL_MAXIMUM": "6",
    "DRAPE_POOL_RECONCILE_PERIOD_S": "5",
    "DRAPE_POOL_ORPHAN_GRACE_S": "10",
    "DRAPE_POOL_HEALTH_PERIOD_S": "5",
    "DRAPE_POOL_VM_MEMORY_MB": "512",
    "DRAPE_ORCHESTRATOR_FAILED_KEEP_S": "2",
}


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a run. `broken`: the rules that did not hold; empty is what is wanted. `doctor`: what it called wrong
    at the end."""

    seed: int
    seconds: float
    isolated: bool
    broken: list[str]
    doctor: list[str]
    faults: dict[str, int]
    events: int
    previews: int
    ready: int
    failed: dict[str, int]
    pages: int
    refused: dict[str, int]


class World:
    """The platform under test, wherever its gateways are by now."""

    def __init__(self, platform: Platform, cluster: hosts.Cluster, port: int) -> None:
        self.platform = platform
        self.cluster = cluster
        self._port = port
        self._gateways: list[str] = []

    def up(self) -> None:
        """`drape up`; as an operator does it, again where it does not work at once. Blocks."""
        ran = Ran(1, "", "")
        for _ in range(3):
            words = ("up", "--detach", "--json", "--port", str(self._port), "--replicas", str(REPLICAS))
            ran = self.platform.run(*words, timeout_s=UP_S)
            if ran.code == 0:
                return
        raise AssertionError(f"it does not come up:\n{ran.out}\n{ran.err}")

    def gateways(self) -> list[str]:
        """As they are written down; as they were, where nothing is at this moment."""
        status = read_status(self.platform.home)
        if status is not None:
            self._gateways = [status.gateway]
        return self._gateways


@contextlib.asynccontextmanager
async def world(folder: Path, *, isolated: bool) -> AsyncIterator[World]:
    """All of it, up; and gone whole at the end, however it ends."""
    with contextlib.ExitStack() as stack:
        home = Home(stack.enter_context(hosts.disk(folder / "home", hosts.HOME_MB, isolated=isolated)))
        stack.callback(hosts.end_all, folder)
        home.create()
        keys = make_identities(home.nats_seeds)
        key = str(seed_file(home.nats_seeds, OPERATOR))
        stack.enter_context(_key_of_ours(key))
        async with hosts.cluster(folder, keys, isolated=isolated) as cluster:
            platform = Platform(home.root, ENV)
            platform.env |= {"NATS_URL": cluster.url, "DRAPE_STREAM_REPLICAS": str(hosts.NODES), SEED_FILE: key}
            made = World(platform, cluster, free_port())
            try:
                await asyncio.to_thread(made.up)
                yield made
            finally:
                shutil.copytree(home.logs, folder / "logs", dirs_exist_ok=True)
                await platform.drape("down", "--json", timeout_s=UP_S)


@contextlib.contextmanager
def _key_of_ours(key: str) -> Iterator[None]:
    """This process is the operator too, to whoever asks the environment."""
    before = os.environ.get(SEED_FILE)
    os.environ[SEED_FILE] = key
    try:
        yield
    finally:
        del os.environ[SEED_FILE]
        if before is not None:
            os.environ[SEED_FILE] = before


async def chaos(seconds: float, seed: int, folder: Path, tell: Callable[[str], None]) -> Outcome:
    """The run. Everything of it is below `folder`."""
    missing = await asyncio.to_thread(hosts.isolation_missing)
    if missing:
        tell(f"no cable is cut and no disk filled: {missing}")
    async with world(folder, isolated=not missing) as made:
        faults = schedule(seed, seconds, isolated=not missing, replicas=REPLICAS)
        breaker = Breaker(made.platform, made.cluster, tell, made.up)
        ledger = Ledger()
        await _loaded(made, breaker, faults, seed, ledger)
        tell("quiet")
        records = await _quiet(made, tell)
        wrong = rules.broken(records, ledger, made.platform, folder)
        doctor = await _doctor(made)
        return Outcome(
            seed=seed,
            seconds=seconds,
            isolated=not missing,
            broken=wrong,
            doctor=doctor,
            faults=breaker.done,
            events=len(records),
            previews=len(ledger.previews),
            ready=ledger.ready,
            failed=ledger.failed,
            pages=ledger.pages,
            refused=ledger.refused,
        )


async def _loaded(made: World, breaker: Breaker, faults: list[Fault], seed: int, ledger: Ledger) -> None:
    """Users at work while the faults happen, and until the last has ended."""
    over = asyncio.Event()

    async def seen() -> bool:
        return ledger.pages > 0

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True)) as session:
        users = [User(n, seed, made.gateways, session, ledger, over) for n in range(USERS)]
        working = [asyncio.create_task(user.work()) for user in users]
        try:
            await until(seen, FIRST_PAGE_S)  # what is broken is a platform at work, on a slow machine too
            await breaker.run(faults)
        finally:
            over.set()
            await asyncio.gather(*working)


async def _quiet(made: World, tell: Callable[[str], None]) -> list[Recorded]:
    """Every preview ends or is ready; those that are get stopped; then the pool has settled. Gives the log."""
    records: list[Recorded] = []

    async def settled() -> bool:
        nonlocal records
        try:
            await _stop_all(made)
            async with asyncio.timeout(30):
                records = await made.platform.events()
        except (*TROUBLES, Exception) as error:
            tell(f"not yet: {getattr(error, 'message', '') or error or type(error).__name__}")
            return False
        pool = replay(definition(PoolConfig()), records)
        busy = [vm for vm in pool.vms.values() if vm.status not in ("ready", "kept")]
        return not busy and not rules.unended(records) and not rules.leaked(records, made.platform)

    if not await until(settled, QUIET_S):
        tell(f"it has not settled within {QUIET_S:g} s")
    return records


async def _stop_all(made: World) -> None:
    """Those that are ready, by whichever gateway answers; what is on its way gets the time to end."""
    async with aiohttp.ClientSession() as session:
        client = Client(made.gateways()[0], session)
        listed = await client.call("GET", "/api/previews")
        for view in listed.json["previews"]:
            if view["status"] in (*SERVED, "prepared"):
                await client.stop(view["preview_id"])


async def _doctor(made: World) -> list[str]:
    """What is wrong by doctor's word, once it has had the time to get well."""
    found: list[str] = []

    async def is_well() -> bool:
        nonlocal found
        ran = await made.platform.drape("doctor", "--replay-check", "--json")
        found = [f"{line['check']}: {line['detail']}" for line in ran.lines if line.get("level") == "error"]
        return ran.code == 0

    await until(is_well, 60.0)
    return found


def told(line: str) -> None:
    """Progress, for whoever watches."""
    print(f"{time.strftime('%H:%M:%S')}  {line}", file=sys.stderr, flush=True)


def random_seed() -> int:
    return int.from_bytes(os.urandom(4), "big")
