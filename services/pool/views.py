"""What others may read of the pool. Pure."""

from collections import Counter
from collections.abc import Sequence

import msgspec

from services.pool import placing
from services.pool.config import PoolConfig
from services.pool.state import Pool, State
from shared.commands import AcquireVm, ClaimReply, Command, Reply
from shared.events import ClaimExpired, Event, VmAcquired
from shared.gauges import Gauge


class PoolNumbers(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One of the pools. `waiting`: claims that it makes VMs for; `boot_failures`: in a row. Sizes of 0: it is no more, but
    for the VMs that somebody holds."""

    name: str
    memory_mb: int
    region: str
    image: str
    available: int
    in_use: int
    booting: int
    kept: int
    going: int
    waiting: int
    total: int
    target: int
    min: int
    max: int
    boot_failures: int


class PoolSummary(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`GET /health/pool`. Counts of VMs of all `pools`, and of each; `suspended`: of those in use; `kept`: emptied, or being
    emptied, for their owner's next preview; `waiting`: claims in the queue."""

    available: int
    in_use: int
    suspended: int
    booting: int
    kept: int
    going: int
    waiting: int
    total: int
    target: int
    min: int
    max: int
    boot_failures: int
    pools: tuple[PoolNumbers, ...] = ()


def summary(state: State, config: PoolConfig | None = None, at: float = 0.0) -> PoolSummary:
    """The pools in numbers, all together and each. `at`: seconds, UTC."""
    count = Counter(vm.status for vm in state.vms.values())
    pools = [pool for pool in state.pools.values() if pool.maximum or pool.vms]
    return PoolSummary(
        available=count["ready"],
        in_use=count["acquired"],
        suspended=sum(vm.suspended for vm in state.vms.values() if vm.status == "acquired"),
        booting=count["booting"],
        kept=count["cleaning"] + count["kept"],
        going=count["going"],
        waiting=len(state.claims),
        total=len(state.vms),
        target=sum(pool.target for pool in pools),
        min=sum(pool.minimum for pool in pools),
        max=sum(pool.maximum for pool in pools),
        boot_failures=max((pool.boot_failures for pool in pools), default=0),
        pools=_each(state, pools, placing.demand(state, at, config or PoolConfig())),
    )


def _each(state: State, pools: Sequence[Pool], waiting: Counter[str]) -> tuple[PoolNumbers, ...]:
    count = Counter((vm.pool, vm.status) for vm in state.vms.values())
    return tuple(
        PoolNumbers(
            name=pool.name,
            memory_mb=pool.memory_mb,
            region=pool.region,
            image=pool.image,
            available=count[pool.name, "ready"],
            in_use=count[pool.name, "acquired"],
            booting=count[pool.name, "booting"],
            kept=count[pool.name, "cleaning"] + count[pool.name, "kept"],
            going=count[pool.name, "going"],
            waiting=waiting[pool.name],
            total=pool.vms,
            target=pool.target,
            min=pool.minimum,
            max=pool.maximum,
            boot_failures=pool.boot_failures,
        )
        for pool in pools
    )


def gauges(state: State, config: PoolConfig, at: float) -> list[Gauge]:
    """What whoever scales machines for VMs looks at, of each pool. A state without VMs is 0, so that no series comes and
    goes."""
    pools = summary(state, config, at).pools
    waiting, vms = "Claims that wait for a VM.", "VMs by state; ready ones are warm."
    return [
        *(
            Gauge(name="drape_pool_claims_waiting", help=waiting, value=each.waiting, labels={"pool": each.name})
            for each in pools
        ),
        *(
            Gauge(name="drape_pool_vms", help=vms, value=value, labels={"pool": each.name, "state": name})
            for each in pools
            for name, value in _by_state(each).items()
        ),
    ]


def _by_state(pool: PoolNumbers) -> dict[str, int]:
    return {
        "booting": pool.booting,
        "ready": pool.available,
        "in_use": pool.in_use,
        "kept": pool.kept,
        "going": pool.going,
    }


def story_of(state: State, event: Event) -> str:
    """What ends a claim's waiting belongs to the story of who waits, whichever VM's boot or end allows it."""
    claim = state.claims.get(event.preview_id) if isinstance(event, VmAcquired | ClaimExpired) else None
    return claim.traceparent if claim is not None else ""


def answer(state: State, command: Command) -> Reply:
    """What a granted command answers."""
    if isinstance(command, AcquireVm):
        vm_id = state.holders.get(command.preview_id)
        waiting = list(state.claims)
        position = waiting.index(command.preview_id) + 1 if command.preview_id in state.claims else 0
        return ClaimReply(vm_id=vm_id, position=position)
    return Reply()
