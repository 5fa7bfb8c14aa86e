"""One simulation: all services in several replicas, what is outside of them, users, and what goes wrong. A seed gives the
same story each time."""

import asyncio
import gc
import hashlib
import logging
from collections import defaultdict
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
from ulid import ULID

from deploy.simulation.chaos import Chaos, climate
from deploy.simulation.client import Client
from deploy.simulation.consumers import Durable, RemoteCommands, RemoteReactions
from deploy.simulation.ledger import broken_promises
from deploy.simulation.loop import NumberedTask, Stalled, VirtualLoop
from deploy.simulation.outside import (
    GatewayLook,
    TroubledAgents,
    TroubledCleaner,
    TroubledHealth,
    TroubledProvider,
)
from deploy.simulation.planted import Plant, definition_with, log_with
from deploy.simulation.replica import Replica, note_owner
from deploy.simulation.rules import Complaints, broken_rules, complaints_of, idle_rules, lasting_rules
from deploy.simulation.services import REACTS_TO, SERVICES, Outside, begin, definition_of
from deploy.simulation.users import User
from deploy.simulation.wire import Remote, RemoteFeed, RemotePreviewLogs, Weather, Wire
from services.gateway.adapters.feed import Feed
from services.orchestrator.adapters.simulated import SimulatedDepsCache
from services.orchestrator.config import OrchestratorConfig
from services.pool.config import PoolConfig
from services.pool.shapes import PoolShape
from shared import ulids
from shared.codec import Recorded
from shared.errors import DrapeError
from shared.memory import SECRET, MemoryBroker
from shared.memory.feeds import MemoryObjects, MemoryPreviewLogs, MemoryTimers
from shared.memory.keys import MemoryKeys
from shared.ports import Bus, TimerFired
from shared.runtime import Limits
from shared.seals import Seals

log = logging.getLogger("drape.simulation")

EPOCH_S = 1_800_000_000.0
POOL = PoolConfig(
    provider="simulated",
    pools={
        "small": PoolShape(memory_mb=1024, target=2, minimum=1, maximum=4),
        "large": PoolShape(memory_mb=2048, target=1, minimum=0, maximum=3),
    },
    boot_timeout_s=5.0,
    boot_lost_s=25.0,
    boot_backoff_max_s=5.0,
    maintain_period_s=5.0,
    health_period_s=10.0,
    reconcile_period_s=10.0,
    orphan_grace_s=15.0,
    kept_age_max_s=40.0,
    clean_timeout_s=5.0,
    clean_lost_s=20.0,
)
ORCHESTRATOR = OrchestratorConfig(
    acquire_limit_s=20.0,
    sync_limit_s=15.0,
    install_limit_s=15.0,
    boot_limit_s=20.0,
    confirm_limit_s=15.0,
    limit_grace_s=5.0,
    hung_s=8.0,
    failed_keep_s=15.0,
    prepared_keep_s=15.0,
    suspend_after_s=8.0,
    idle_check_s=3.0,
    residents_period_s=10.0,
    resident_retry_s=20.0,
    keep_build_after_s=5.0,
    tick_s=1.0,
)
"""Limits as in production, but shorter: a minute of faults shall see all of them pass."""
LIMITS = Limits(reaction_outages_max=10_000)
REPLICAS = {"pool": 2, "orchestrator": 2, "gateway": 2, "telemetry": 1}
OWNERS = ("ann", "bob", "eve")
QUIET_S = 240.0
"""So long after the last fault everything has to have come to its end: the sum of a preview's limits, and some."""
LOOK_S = 5.0
CHAOS_S = 25.0
SNAPSHOT_EVENTS = 30
"""So few that most replicas which come back start from a snapshot."""
BROKEN_MAX = 20
STORY_TAIL = 60


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a seed. `story`: what happened, the newest last, where a rule was broken; `digest`: of all of it."""

    seed: int
    broken: list[str]
    events: int
    faults: int
    virtual_s: float
    digest: str
    story: list[str] = []


class Broker(MemoryBroker):
    """The server, whose timers may be late and come twice."""

    def __init__(self, clock: Callable[[], float], weather: Weather, random: Random) -> None:
        super().__init__(clock)
        self._weather = weather
        self._chance = random
        queues: Any = defaultdict(lambda: Durable(random))
        self.event_queues = queues
        timers: Any = defaultdict(lambda: Durable(random))
        self.timer_queues = timers
        self._fired = 0

    def fire(self, service: str, name: str, timer_id: str, data: dict[str, str | int]) -> None:
        self._fired += 1
        fired = TimerFired(name=name, id=timer_id, key=f"{name}-{timer_id}-{self._fired}", data=data)
        put = self.timer_queues[service].put
        loop = asyncio.get_running_loop()
        for _ in range(2 if self._chance.random() < self._weather.twice else 1):
            loop.call_later(self._weather.late_s * self._chance.random() ** 3, put, fired)


class Simulation:
    """Give it a seed, and `run` it on a `VirtualLoop`."""

    def __init__(self, seed: int, plant: Plant | None, chaos_s: float) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self.seed = seed
        self.plant: Plant | None = plant
        self.chaos_s = chaos_s
        self.story: list[str] = []
        self.faults = 0
        self.now = loop.time
        self.random = self.stream("world")
        self.weather, self.trouble = climate(self.stream("climate"))
        self.broker = Broker(self.true_clock, self.weather, self.stream("broker"))
        self.broker.on_stored.append(self._tell_event)
        self.broker.bus(REACTS_TO)
        self.workspace = TroubledAgents(self.trouble, self.stream("agents"), self.true_clock)
        args = (self.workspace, self.trouble, self.stream("provider"), self.true_clock)
        self.provider = TroubledProvider(*args, slow_boot_s=2 * POOL.boot_timeout_s)
        self.look = GatewayLook(lambda: self.alive("gateway"), self.workspace, self.stream("look"))
        self.outside = Outside(
            provider=self.provider,
            health=TroubledHealth(self.provider, self.trouble, self.stream("health")),
            cleaner=TroubledCleaner(self.workspace, self.trouble, self.stream("cleaner")),
            forget=self._forget,
            workspace=self.workspace,
            deps=SimulatedDepsCache(keeping=True),
            probe=self.look,
            pool=POOL,
            orchestrator=ORCHESTRATOR,
            limits=LIMITS,
            snapshot_events=SNAPSHOT_EVENTS,
        )
        self.replicas: dict[str, Replica] = {}
        self.wires: dict[str, Wire] = {}
        self.skews: dict[str, float] = {}
        self.complaints = Complaints()
        self.premature: list[str] = []
        self.revisions: dict[str, int] = defaultdict(int)
        self.hopeless = asyncio.Event()
        self.over = False
        self.users = [self._user(owner) for owner in OWNERS]
        self.storm_bus = self.bus(Wire(self.broker, self.weather, self.stream("storm")))
        self._lives: dict[str, int] = defaultdict(int)
        loop.set_task_factory(_owned)

    def stream(self, name: str) -> Random:
        """Chances of one part, which no other part moves."""
        return Random(f"{self.seed}/{name}")

    def true_clock(self) -> float:
        return EPOCH_S + self.now()

    def tell(self, text: str) -> None:
        self.story.append(f"{self.now():9.3f} {text}")

    def fault(self, text: str) -> None:
        self.faults += 1
        self.tell(f"! {text}")

    def _tell_event(self, recorded: Recorded) -> None:
        self.tell(f"{recorded.seq:5} {recorded.meta.actor:16} {recorded.meta.rev:3} {recorded.event}")
        if self.revisions[recorded.key] + 1 != recorded.meta.rev:
            self.hopeless.set()  # no need to play on: what is wrong now stays wrong
        self.revisions[recorded.key] = recorded.meta.rev
        if recorded.type == "PreviewReady":
            attempt = (recorded.event.preview_id, recorded.event.attempt)  # type: ignore[union-attr]
            if attempt not in self.look.seen:
                self.premature.append(f"seq {recorded.seq}: {attempt} is ready, and nobody has had an answer of it")

    def _last_seq(self) -> int:
        return len(self.broker.records)

    async def _forget(self, _project_id: str) -> None:
        """Nothing is kept of a project alone."""

    # --- replicas ---------------------------------------------------------------------------------------------

    def alive(self, service: str) -> list[Replica]:
        """Those that have begun, and live."""
        running = (self.replicas.get(name) for name in self.names() if name.partition("/")[0] == service)
        return [each for each in running if each is not None and each.alive and each.runtime is not None]

    def names(self) -> list[str]:
        return [f"{service}/{number}" for service in SERVICES for number in range(1, REPLICAS[service] + 1)]

    async def keep_up(self, name: str) -> None:
        """Start the replica, again whenever it has died: what a process supervisor does."""
        while not self.over:
            self._lives[name] += 1
            random = self.stream(f"{name}/{self._lives[name]}")
            replica, wire = Replica(name), Wire(self.broker, self.weather, random)
            self.replicas[name], self.wires[name] = replica, wire
            try:
                await replica.run(self._begin(replica, wire))
                gone = asyncio.create_task(replica.gone.wait())
                await asyncio.wait({gone, replica.runtime.crashed}, return_when=asyncio.FIRST_COMPLETED)
                gone.cancel()
            except DrapeError as error:
                self.tell(f"  {name} does not start: {error.message}")
            except asyncio.CancelledError:
                if replica.alive:
                    raise
            self.kill(name)
            await replica.buried()
            await asyncio.sleep(0.3 + 3 * random.random())

    async def _begin(self, replica: Replica, wire: Wire) -> None:
        definition = definition_with(self.plant, definition_of(replica.service, self.outside))
        bus = replica.line(self.bus(wire))
        name = replica.name
        await begin(replica, bus, self.outside, lambda: self.true_clock() + self.skews.get(name, 0.0), definition)

    def bus(self, wire: Wire) -> Bus:
        """All ports at the end of this wire. A port that consists of requests alone needs no more than `Remote`."""

        async def close() -> None:
            wire.close()

        return Bus(
            log=log_with(self.plant, wire),
            reactions=RemoteReactions(wire, first_ack=self.plant == "ack-before-effect"),
            commands=RemoteCommands(wire),
            timers=Remote(wire, MemoryTimers(self.broker)),
            progress=RemoteFeed(wire, self.broker.progress_listeners),
            activity=RemoteFeed(wire, self.broker.activity_listeners),
            preview_logs=RemotePreviewLogs(wire, MemoryPreviewLogs(self.broker)),
            objects=Remote(wire, MemoryObjects(self.broker)),
            parked=Remote(wire, self.broker.parked),
            seals=Seals(Remote(wire, MemoryKeys(self.broker)), SECRET, self.stream("keys").randbytes),
            snapshots=Remote(wire, self.broker.snapshots),
            connected=lambda: wire.up,
            close=close,
        )

    def doom(self, name: str, steps: int) -> None:
        """Have the replica die after so many steps of its tasks, at whichever await that is."""
        replica = self.replicas.get(name)
        if replica is None or not replica.alive:
            return
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)

        def die() -> None:
            if replica.alive:
                self.fault(f"{name} is killed")
                self.kill(name)

        replica.steps_left = steps
        replica.on_last_step = lambda: loop.call_first(die)

    def kill(self, name: str) -> None:
        """At once: first it is cut off, so that nothing of what its tasks do when they are cancelled is seen."""
        self.wires[name].close()
        self.replicas[name].kill()

    # --- users ------------------------------------------------------------------------------------------------

    def _user(self, owner: str) -> User:
        wire = Wire(self.broker, self.weather, self.stream(f"user/{owner}"))
        chance = self.stream(f"browser/{owner}")

        def feed() -> tuple[Feed, asyncio.Event] | None:
            up = [replica for replica in self.alive("gateway") if replica.feed is not None]
            replica = chance.choice(up) if up else None
            return (replica.feed, replica.gone) if replica is not None else None

        client = Client(feed, self.now, owner, None)
        return User(
            owner,
            self.bus(wire),
            client,
            self.stream(f"acts/{owner}"),
            self.now,
            self.tell,
            lambda: len(self.broker.records),
        )

    # --- from beginning to end --------------------------------------------------------------------------------

    async def run(self) -> Outcome:
        """A time of faults, a quiet one in which everything has to come to its end, and the end of all previews."""
        logger = logging.getLogger("drape")
        logger.addHandler(self.complaints)
        ulids.source.set(_Ids(self.stream("ids"), self.true_clock))
        keeping = [asyncio.create_task(self.keep_up(name), name=f"keep-{name}") for name in self.names()]
        playing = asyncio.create_task(self._play())
        hopeless = asyncio.create_task(self.hopeless.wait())
        try:
            await asyncio.wait({playing, hopeless}, return_when=asyncio.FIRST_COMPLETED)
            broken = playing.result() if playing.done() else self._never_again()
        finally:
            logger.removeHandler(self.complaints)
            playing.cancel()
            hopeless.cancel()
        self.over = True
        for name, task in zip(self.names(), keeping, strict=True):
            self.kill(name)
            task.cancel()
        return self._outcome(broken)

    async def _play(self) -> list[str]:
        chaos = Chaos(self)
        until_s = self.now() + self.chaos_s
        await asyncio.gather(chaos.run(until_s), *(user.live(until_s) for user in self.users))
        if broken := self._never_again():
            return broken
        self.tell("--- the faults are over")
        if broken := await self._settle(self._broken):
            return broken
        self.tell("--- all previews are stopped")
        await asyncio.gather(*(user.end() for user in self.users))
        return await self._settle(lambda: [*self._broken(), *idle_rules(self, self.broker)])

    async def _settle(self, look: Callable[[], list[str]]) -> list[str]:
        """What is still broken after the longest time that anything may take; nothing as soon as nothing is."""
        until_s = self.now() + QUIET_S
        while self.now() < until_s:
            await asyncio.sleep(LOOK_S)
            if self._never_again() or not look():
                break
        return look()

    def _never_again(self) -> list[str]:
        """What no time mends."""
        return [*lasting_rules(self.broker.records), *self.premature, *complaints_of(self)]

    def _broken(self) -> list[str]:
        missing = [f"{name} is not up" for name in self.names() if not self.replicas[name].alive]
        promises = broken_promises([told for user in self.users for told in user.told], self.broker.records)
        return [*missing, *self.premature, *broken_rules(self), *promises]

    def _outcome(self, broken: list[str]) -> Outcome:
        text = "\n".join(self.story)
        return Outcome(
            seed=self.seed,
            broken=broken[:BROKEN_MAX],
            events=len(self.broker.records),
            faults=self.faults,
            virtual_s=round(self.now(), 3),
            digest=hashlib.sha256(text.encode()).hexdigest(),
            story=self.story[-STORY_TAIL:] if broken else [],
        )


class _Ids:
    """ULIDs of virtual time and seeded chance."""

    def __init__(self, random: Random, clock: Callable[[], float]) -> None:
        self._random = random
        self._clock = clock

    def __call__(self) -> str:
        value = ULID.from_bytes(int(self._clock() * 1000).to_bytes(6, "big") + self._random.randbytes(10))
        return str(value).lower()


def simulate(seed: int, plant: Plant | None = None, chaos_s: float = CHAOS_S) -> Outcome:
    """Play one seed, in no more than its processor time. A loop that stalls is a broken rule too."""
    simulation: list[Simulation] = []

    async def play() -> Outcome:
        simulation.append(Simulation(seed, plant, chaos_s))
        return await simulation[0].run()

    gc.disable()  # what it collects, and when, would depend on the process
    try:
        with asyncio.Runner(loop_factory=lambda: VirtualLoop(f"{seed}/loop")) as runner:
            return runner.run(play())
    except Stalled as stalled:
        return simulation[0]._outcome([f"the loop stalls: {stalled}"])
    finally:
        gc.enable()
        gc.collect()


def _owned(loop: asyncio.AbstractEventLoop, coro: Any, **kwargs: Any) -> NumberedTask:
    assert isinstance(loop, VirtualLoop)
    task = NumberedTask(coro, loop=loop, **kwargs)
    replica = note_owner(task, kwargs.get("context"))
    if replica is not None:
        task.on_step = replica.step
    return task
