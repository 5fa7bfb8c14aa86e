"""What is done to the platform: a list of faults drawn from a seed, each of which ends by itself."""

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec
import psutil

from deploy.local import records
from deploy.local.options import SERVICES
from tests.chaos.hosts import Cluster, Node, fill
from tests.chaos.pacing import lasting, until
from tests.live.platform import Platform

Kind = Literal[
    "kill_service",
    "stop_service",
    "kill_vm",
    "kill_nats",
    "stop_nats",
    "cut_nats",
    "fill_nats",
    "kill_postgres",
    "fill_home",
    "kill_supervisor",
    "wipe_nats",
    "rollout",
]
WEIGHTS: dict[Kind, int] = {
    "kill_service": 6,
    "stop_service": 5,
    "kill_vm": 3,
    "kill_nats": 3,
    "stop_nats": 2,
    "cut_nats": 3,
    "fill_nats": 2,
    "kill_postgres": 2,
    "fill_home": 2,
    "kill_supervisor": 1,
    "wipe_nats": 1,
    "rollout": 2,
}
NEEDS_ISOLATION: tuple[Kind, ...] = ("cut_nats", "fill_nats", "fill_home")
LASTS_S = {"stop_service": (3.0, 15.0), "stop_nats": (3.0, 12.0), "cut_nats": (4.0, 15.0)}
FILLS_S = (2.0, 6.0)
GAP_S = (2.0, 5.0)
COSTS_S: dict[Kind, float] = {"kill_supervisor": 12.0, "wipe_nats": 8.0, "rollout": 8.0}
"""About how long the fault itself takes; nobody waits by it."""
WELL_S = 60.0


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """`after_s`: since the fault before it has ended. `pick`: 0..1, which of those that are there. `replica`: of a
    service."""

    kind: Kind
    after_s: float
    lasts_s: float = 0.0
    service: str = ""
    replica: int = 0
    pick: float = 0.0


def schedule(seed: int, seconds: float, *, isolated: bool, replicas: int) -> list[Fault]:
    """As many as there is time for. The same seed and circumstances give the same list."""
    draw = random.Random(seed)
    kinds = [kind for kind in WEIGHTS if isolated or kind not in NEEDS_ISOLATION]
    faults: list[Fault] = []
    spent_s = 0.0
    while True:
        kind = draw.choices(kinds, [WEIGHTS[kind] for kind in kinds])[0]
        low, high = LASTS_S.get(kind, FILLS_S if kind.startswith("fill") else (0.0, 0.0))
        fault = Fault(
            kind=kind,
            after_s=round(draw.uniform(*GAP_S), 2),
            lasts_s=round(draw.uniform(low, high), 2),
            service=draw.choice(SERVICES),
            replica=draw.randrange(replicas),
            pick=round(draw.random(), 4),
        )
        spent_s += fault.after_s + fault.lasts_s + COSTS_S.get(kind, 0.0)
        if spent_s > seconds:
            return faults
        faults.append(fault)


class Breaker:
    """Does faults, one after another: two NATS nodes at once would be more than a cluster promises to bear."""

    def __init__(
        self, platform: Platform, cluster: Cluster, tell: Callable[[str], None], up: Callable[[], None]
    ) -> None:
        self._platform = platform
        self._cluster = cluster
        self._tell = tell
        self._up = up
        self.done: dict[str, int] = {}

    async def run(self, faults: list[Fault]) -> None:
        for fault in faults:
            await lasting(fault.after_s)
            what = await self._do(fault)
            self._tell(f"{fault.kind} {what}" + (f" for {fault.lasts_s:g} s" if fault.lasts_s else ""))
            self.done[fault.kind] = self.done.get(fault.kind, 0) + 1

    async def _do(self, fault: Fault) -> str:
        """What it was done to; empty where there was nothing of the kind."""
        node = self._cluster.nodes[int(fault.pick * len(self._cluster.nodes))]
        match fault.kind:
            case "kill_service":
                return self._signal(fault, signal.SIGKILL)
            case "stop_service":
                return await self._stop(self._pid(fault), fault.lasts_s, self._record(fault))
            case "kill_vm":
                return self._kill_vm(fault.pick)
            case "kill_nats":
                os.kill(node.pid, signal.SIGKILL)
            case "stop_nats":
                return await self._stop(node.pid, fault.lasts_s, node.host.name)
            case "cut_nats":
                self._cluster.cut(node)
                try:
                    await lasting(fault.lasts_s)
                finally:
                    self._cluster.mend(node)
            case "fill_nats":
                await _full(node.host.folder, fault.lasts_s)
            case "kill_postgres":
                with contextlib.suppress(psutil.Error, OSError):
                    self._platform.kill_postgres()
                return "postgres"
            case "fill_home":
                await _full(self._platform.home.root, fault.lasts_s)
                return "home"
            case "kill_supervisor":
                self._platform.kill(records.SUPERVISOR)
                await lasting(2.0)
                await asyncio.to_thread(self._up)
                return "supervisor"
            case "wipe_nats":
                return await self._wipe(node)
            case "rollout":
                ran = await self._platform.drape("rollout", "--service", fault.service, "--json")
                return fault.service if ran.code == 0 else f"{fault.service}: {ran.out[-200:]}"
        return node.host.name

    async def _wipe(self, node: Node) -> str:
        """A new disk for one node, while the others have everything; the next fault comes when it has everything too."""
        if not await until(self._cluster.is_well, WELL_S):
            return "none: the nodes are not well"
        node.wipe()
        await until(self._cluster.is_well, WELL_S)
        return node.host.name

    def _record(self, fault: Fault) -> str:
        return f"{fault.service}-{fault.replica}" if fault.replica else fault.service

    def _pid(self, fault: Fault) -> int:
        """Of the process on record, where it lives; 0 while it is being started again."""
        record = records.read(self._platform.home, self._record(fault))
        return record.pid if record is not None and record.process() is not None else 0

    def _signal(self, fault: Fault, number: signal.Signals) -> str:
        if pid := self._pid(fault):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return self._record(fault)

    async def _stop(self, pid: int, lasts_s: float, name: str) -> str:
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
            try:
                await lasting(lasts_s)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        return name

    def _kill_vm(self, pick: float) -> str:
        """The first process of a VM: the machine is switched off."""
        vms = sorted(path.parent.name for path in self._platform.home.vms.glob("*/vm.json"))
        if not vms:
            return ""
        vm_id = vms[int(pick * len(vms))]
        try:
            record = self._platform.vm(vm_id)
        except (OSError, msgspec.DecodeError):
            return ""
        process = records.process_if(record["pid"], record["created"])
        if process is not None:
            with contextlib.suppress(psutil.Error):
                process.kill()
        return vm_id


async def _full(folder: Path, lasts_s: float) -> None:
    """No room on this disk for so long."""
    filler = fill(folder)
    try:
        await lasting(lasts_s)
    finally:
        filler.unlink(missing_ok=True)
