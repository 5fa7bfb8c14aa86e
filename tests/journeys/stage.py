"""All services together on one in-memory log in virtual time: the stage on which the journeys play.

The machines outlive the services, as real ones do: VMs are the simulated provider's, what runs in them is the
simulated workspace's. Times are virtual seconds since the stage was opened.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

import msgspec

from deploy.simulation.client import Client
from deploy.simulation.files import STATIC, VITE, store_version
from deploy.simulation.machines import Machines, Workspace
from deploy.simulation.replica import Replica, own_tasks
from deploy.simulation.rules import Complaints
from deploy.simulation.services import REACTS_TO, SECRET, SERVICES, Outside, begin
from services.gateway.adapters.feed import Feed
from services.gateway.adapters.waking import Waker
from services.gateway.config import GatewayConfig
from services.gateway.state import SERVED
from services.orchestrator.adapters.simulated import SimulatedDepsCache, SimulatedGatewayProbe
from services.orchestrator.config import OrchestratorConfig
from services.orchestrator.model import Vm
from services.pool.adapters.cleaning import SimulatedVmCleaner
from services.pool.adapters.health import SimulatedHealthProbe
from services.pool.config import PoolConfig
from services.pool.shapes import PoolShape
from shared.codec import Recorded
from shared.commands import (
    Command,
    CreateProject,
    PreviewReply,
    ProjectReply,
    RequestPreview,
    RestartPreview,
    StopPreview,
)
from shared.errors import DrapeError, Unavailable
from shared.events import Event
from shared.memory import MemoryBroker
from shared.output import LogLine
from shared.ports import Cause
from shared.project_files import Manifest
from shared.ulids import new_id

OWNER = "ann"
EPOCH_S = 1_800_000_000.0
VISIT_S = 5.0
NEXT_16 = {"package.json": b'{"scripts": {"dev": "next dev"}, "dependencies": {"next": "16.0.3"}}'}

__all__ = ["SECRET", "SERVICES", "STATIC", "VITE"]

E = TypeVar("E", bound=Event)


class Stage:
    """Open one with `staged`."""

    def __init__(self, pool: PoolConfig, orchestrator: OrchestratorConfig, boot_s: float) -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(own_tasks)
        began = loop.time()
        self.now: Callable[[], float] = lambda: loop.time() - began
        self.clock: Callable[[], float] = lambda: EPOCH_S + self.now()
        self.pool_config, self.orchestrator_config, self.gateway_config = pool, orchestrator, GatewayConfig()
        self.broker = MemoryBroker(self.clock)
        self.bus = self.broker.bus(REACTS_TO)
        self.workspace = Workspace(self.clock)
        self.provider = Machines(self.workspace, boot_s, self.clock)
        self.cleaner = SimulatedVmCleaner(self.workspace.clean)
        self.probe = SimulatedGatewayProbe(reachable=lambda _: self.is_up("gateway"))
        self.deps = SimulatedDepsCache()
        self.forgotten: list[str] = []
        self.replicas: dict[str, Replica] = {}
        self.complaints = Complaints()
        self._news = asyncio.Event()
        self.broker.on_stored.append(lambda _: self._news.set())
        self._versions: dict[str, Manifest] = {}

    # --- replicas ---------------------------------------------------------------------------------------------

    def is_up(self, service: str) -> bool:
        return any(r.service == service and r.alive for r in self.replicas.values())

    def state(self, name: str) -> Any:
        return self.replicas[name].runtime.state

    async def start(self, name: str) -> None:
        """Replay, then serve: as the service's own process does it."""
        assert name not in self.replicas or not self.replicas[name].alive, f"{name} is up already"
        replica = Replica(name)
        await replica.run(self._begin(replica))
        self.replicas[name] = replica

    async def crash(self, name: str) -> None:
        """kill -9: no orderly stop, nothing acknowledged, nothing answered."""
        self.replicas[name].kill()
        await self.replicas[name].buried()

    def crash_when(self, name: str, event: str, nth: int = 1) -> "asyncio.Task[None]":
        """Kill the replica in the moment in which the nth such event is stored. The task ends once it is dead."""
        trapped = asyncio.Event()
        left = [nth]

        def trap(recorded: Recorded) -> None:
            left[0] -= recorded.type == event
            if left[0] == 0 and not trapped.is_set():
                trapped.set()
                self.replicas[name].kill()

        async def bury() -> None:
            await trapped.wait()
            await self.replicas[name].buried()

        self.broker.on_stored.append(trap)
        return asyncio.create_task(bury())

    async def _begin(self, replica: Replica) -> None:
        outside = Outside(
            provider=self.provider,
            health=SimulatedHealthProbe(),
            cleaner=self.cleaner,
            forget=self._forget,
            workspace=self.workspace,
            deps=self.deps,
            probe=self.probe,
            pool=self.pool_config,
            orchestrator=self.orchestrator_config,
            gateway=self.gateway_config,
        )
        await begin(replica, replica.line(self.broker.bus()), outside, self.clock)

    async def _forget(self, project_id: str) -> None:
        self.forgotten.append(project_id)

    # --- what users do ----------------------------------------------------------------------------------------

    async def send(self, command: Command, *, patience_s: float = 60.0) -> bytes:
        """As a client sends it: the same command again while nobody answers, for `patience_s`."""
        command = msgspec.structs.replace(command, id=command.id or new_id())
        until = self.now() + patience_s
        while True:
            try:
                return await self.bus.commands.send(command, Cause(actor="test"))
            except Unavailable:
                if self.now() >= until:
                    raise
                await asyncio.sleep(0.2)

    async def project(self, files: dict[str, bytes] | None = None, owner: str = OWNER) -> str:
        """A new project with these files (default: a Vite project)."""
        reply = msgspec.json.decode(await self.send(CreateProject(owner=owner, name="project")), type=ProjectReply)
        await self.change(reply.project_id, VITE if files is None else files, owner)
        return reply.project_id

    async def change(self, project_id: str, files: dict[str, bytes], owner: str = OWNER) -> int:
        """A new version in which these files are as given. Gives the version."""
        before = self._versions.get(project_id, Manifest(files_version=0, files={}))
        manifest, record = await store_version(self.bus.objects, owner, project_id, before, files)
        self._versions[project_id] = manifest
        return msgspec.json.decode(await self.send(record), type=ProjectReply).files_version

    async def request(
        self, project_id: str, *, owner: str = OWNER, command_id: str = "", patience_s: float = 60.0
    ) -> str:
        """Ask for a preview. Gives its id."""
        command = RequestPreview(id=command_id, project_id=project_id, owner=owner)
        return msgspec.json.decode(await self.send(command, patience_s=patience_s), type=PreviewReply).preview_id

    @asynccontextmanager
    async def visiting(self, preview_id: str, gateway: str = "gateway") -> AsyncIterator[str]:
        """A page of the preview, open through this gateway: what the proxy does for a request or a socket. Gives the
        VM that answered."""
        replica = self.replicas[gateway]
        with replica.activity.using(preview_id):
            await replica.waker.wake(preview_id)
            preview = self.state(gateway).previews[preview_id]
            assert preview.status in SERVED, preview.status
            vm = Vm(preview.vm_id, preview.host, preview.port)
            async with asyncio.timeout(VISIT_S):
                await self.workspace.wait_job(vm, f"dev-{preview.attempt}", 0.0)
            yield preview.vm_id

    def waker(self, gateway: str = "gateway") -> Waker:
        return cast(Waker, self.replicas[gateway].waker)

    async def visit(self, preview_id: str, gateway: str = "gateway") -> float:
        """One request; gives the seconds that its answer took."""
        begun = self.now()
        async with self.visiting(preview_id, gateway):
            return self.now() - begun

    async def stop(self, preview_id: str) -> None:
        await self.send(StopPreview(preview_id=preview_id))

    async def restart(self, preview_id: str) -> None:
        await self.send(RestartPreview(preview_id=preview_id))

    def client(self, project_id: str | None = None, owner: str = OWNER) -> Client:
        """A browser, not connected yet."""
        return Client(self._feed, self.now, owner, project_id)

    def _feed(self) -> tuple[Feed, asyncio.Event] | None:
        up = [r for r in self.replicas.values() if r.service == "gateway" and r.alive]
        return (up[0].feed, up[0].gone) if up else None

    # --- what came of it --------------------------------------------------------------------------------------

    def events(self, kind: type[E], preview_id: str | None = None) -> list[E]:
        """All events of a type, in order."""
        return [
            each.event
            for each in self.broker.records
            if isinstance(each.event, kind) and preview_id in (None, getattr(each.event, "preview_id", None))
        ]

    def at(self, kind: type[Event], preview_id: str | None = None, nth: int = 1) -> float:
        """When the nth such event was stored."""
        times = [
            each.meta.at - EPOCH_S
            for each in self.broker.records
            if isinstance(each.event, kind) and preview_id in (None, getattr(each.event, "preview_id", None))
        ]
        return times[nth - 1]

    def story(self, preview_id: str | None = None) -> list[str]:
        """The names of the events, in order; of one preview where it is given."""
        return [
            each.type
            for each in self.broker.records
            if preview_id is None or getattr(each.event, "preview_id", None) == preview_id
        ]

    async def until(self, kind: type[E], preview_id: str | None = None, *, within_s: float, nth: int = 1) -> E:
        """Wait for the nth such event. Fails, with the log, where it does not come in time."""
        deadline = self.now() + within_s
        while len(found := self.events(kind, preview_id)) < nth:
            self._news.clear()
            try:
                async with asyncio.timeout(deadline - self.now()):
                    await self._news.wait()
            except TimeoutError:
                raise AssertionError(
                    f"no {kind.__name__} ({nth}) within {within_s:g} s; the log:\n{self.told()}"
                ) from None
        return await self.bus.seals.opened(found[nth - 1])

    async def reached(self, event: str, preview_id: str) -> None:
        """Wait for an event of this preview, by its name; at most 60 s."""
        async with asyncio.timeout(60.0):
            while event not in self.story(preview_id):
                self._news.clear()
                await self._news.wait()

    def told(self) -> str:
        """The log, for a person."""
        return "\n".join(
            f"{each.seq:4} {each.meta.at - EPOCH_S:9.3f} {each.meta.actor:16} {each.type} {each.event}"
            for each in self.broker.records
        )

    def log_of(self, preview_id: str) -> list[LogLine]:
        """What the preview printed, as it is stored."""
        return [line for batch in self.broker.preview_logs[preview_id] for line in batch.lines]

    async def fails(self, command: Command) -> DrapeError:
        """The error that the command is answered with."""
        try:
            await self.bus.commands.send(command, Cause(actor="test"))
        except DrapeError as error:
            return error
        raise AssertionError(f"{type(command).__name__} was granted")


@asynccontextmanager
async def staged(
    *,
    target: int = 3,
    minimum: int = 1,
    maximum: int = 5,
    boot_s: float = 0.5,
    warm: bool = True,
    warm_suspended: bool = False,
    replicas: tuple[str, ...] = SERVICES,
    orchestrator: OrchestratorConfig | None = None,
    pools: dict[str, PoolShape] | None = None,
) -> AsyncIterator[Stage]:
    """A stage with every service up and, unless `warm` is off, the pool full."""
    pool = PoolConfig(
        provider="simulated",
        target=target,
        minimum=minimum,
        maximum=maximum,
        pools=pools or {},
        warm_suspended=warm_suspended,
    )
    stage = Stage(pool, orchestrator or OrchestratorConfig(), boot_s)
    logger = logging.getLogger("drape")
    logger.addHandler(stage.complaints)
    try:
        for name in replicas:
            await stage.start(name)
        if warm:
            await asyncio.sleep(boot_s + 10.0)
        yield stage
    finally:
        logger.removeHandler(stage.complaints)
        for name, replica in stage.replicas.items():
            if replica.alive:
                await stage.crash(name)
        for handle in stage.broker.schedules.values():
            handle.cancel()
        asyncio.get_running_loop().set_task_factory(None)
