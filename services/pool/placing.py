"""Which pool a preview's VM comes from. Pure.

A claim is served by any pool of its region and image whose VMs have enough memory; where none has, by the largest. Its own
pools are the smallest of those that can boot, where it takes what is warm; a bigger one lends what it has warm beyond its
minimum, while none of its own claims waits. A pool whose boots fail is nobody's own until its pause is over, and then of
one claim, which finds out.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from services.pool.config import PoolConfig
from services.pool.state import Claim, Need, Pool, State, Vm
from shared.errors import Invalid
from shared.ids import VmId

UNLIMITED = sys.maxsize


def active(state: State) -> list[Pool]:
    """The pools that make VMs, the smallest first."""
    return sorted((pool for pool in state.pools.values() if pool.maximum > 0), key=_memory_mb)


def fitting(state: State, need: Need) -> list[Pool]:
    """The pools that may serve this, best first; nothing where the region or image is gone."""
    able = [pool for pool in active(state) if _is_of(pool, need)]
    largest_mb = max((pool.memory_mb for pool in able), default=0)
    wanted_mb = min(need.memory_mb, largest_mb)
    return [pool for pool in able if not pool.memory_mb or pool.memory_mb >= wanted_mb]


def check(state: State, need: Need) -> None:
    """Raises `Invalid` (`no_such_region`, `no_such_image`) naming those that there are."""
    pools = active(state)
    regions = {pool.region: None for pool in pools if pool.region}
    if need.region and need.region not in regions:
        raise Invalid("no_such_region", f"No pool is in the region {need.region[:64]!r}.", _known("regions", regions))
    images = {pool.image: None for pool in pools if pool.image and need.region in ("", pool.region)}
    if need.image and need.image not in images:
        where = f" in the region {need.region}" if need.region else ""
        raise Invalid("no_such_image", f"No pool has the image {need.image[:200]!r}{where}.", _known("images", images))


def serves(state: State, vm: Vm, need: Need) -> bool:
    """Whether a VM that has been used already is as good as a new one."""
    pools = fitting(state, need)
    enough_mb = min((pool.memory_mb for pool in pools), default=need.memory_mb)
    return _is_of(vm, need) and (not vm.memory_mb or vm.memory_mb >= min(need.memory_mb, enough_mb))


def is_drained(state: State, vm: Vm) -> bool:
    """Its pool is no more, or makes others by now."""
    pool = state.pools[vm.pool]
    same = (vm.region, vm.image) == (pool.region, pool.image) and vm.memory_mb in (0, pool.memory_mb)
    return pool.maximum == 0 or (pool.memory_mb > 0 and vm.memory_mb > 0 and not same)


def warm(state: State, pool: Pool) -> Iterator[Vm]:
    """What this pool can hand out, in the order in which it got there."""
    ready = map(state.vms.__getitem__, state.ready)
    return (vm for vm in ready if vm.pool == pool.name and not is_drained(state, vm))


def homes(state: State, needs: Sequence[Need], at: float, config: PoolConfig) -> list[Pool | None]:
    """The pool that each of these waits for, in their order, and that makes VMs for it. One that is full passes on to
    another of the same memory; one that can't boot to a bigger one too."""
    held = Counter(state.vms[vm_id].pool for vm_id in state.holders.values() if vm_id in state.vms)
    room = {pool.name: pool.maximum - held[pool.name] for pool in state.pools.values()}
    boots = {pool.name: boots_at_once(pool, at, config) for pool in state.pools.values()}
    fits = _fits(state, needs)
    found: list[Pool | None] = []
    for need in needs:
        home = _home(fits[need], room, boots)
        found.append(home)
        if home is not None:
            room[home.name] -= 1
            boots[home.name] -= 1
    return found


def _fits(state: State, needs: Iterable[Need]) -> dict[Need, list[Pool]]:
    return {need: fitting(state, need) for need in set(needs)}


def _home(pools: Sequence[Pool], room: dict[str, int], boots: dict[str, int]) -> Pool | None:
    booting = [pool for pool in pools if boots[pool.name] > 0]
    smallest = [pool for pool in booting if pool.memory_mb == booting[0].memory_mb]
    return next((pool for pool in smallest if room[pool.name] > 0), next(iter((*smallest, *pools)), None))


def boots_at_once(pool: Pool, at: float, config: PoolConfig) -> int:
    """How many VMs of it may boot at once: while boots fail, one at a time finds out whether they still do."""
    if pool.boot_failures == 0:
        return UNLIMITED
    pause_s: float = config.boot_backoff_s * 2 ** min(pool.boot_failures - 1, 30)
    return 0 if at < pool.boot_failed_at + min(pause_s, config.boot_backoff_max_s) else 1


def demand(state: State, at: float, config: PoolConfig) -> Counter[str]:
    """How many claims each pool makes VMs for."""
    needs = [claim.need for claim in state.claims.values()]
    return Counter(pool.name for pool in homes(state, needs, at, config) if pool is not None)


def is_waited_for(state: State, pool: str) -> bool:
    """Whether a claim waits that this pool may serve."""
    needs = {claim.need for claim in state.claims.values()}
    return any(each.name == pool for need in needs for each in fitting(state, need))


def at_once(state: State, need: Need, busy: frozenset[str], at: float, config: PoolConfig) -> Vm | None:
    """The warm VM that this claim gets now, without overtaking one that waits. `busy`: keys of VMs that others are taking at
    this moment; one of its own pools is tried all the same where there is no other."""
    waiting = [claim.need for claim in state.claims.values()]
    *theirs, home = homes(state, [*waiting, need], at, config)
    if home is None:
        return None
    firsts, others = _waited_for(state, waiting, theirs)
    second: Vm | None = None
    for pool in fitting(state, need):
        own = pool.memory_mb <= home.memory_mb
        if pool.name in firsts or (not own and pool.name in others):
            continue
        free = (vm for vm in warm(state, pool) if _key(vm.vm_id) not in busy)
        vm = next(free, None)
        if own and vm is None and second is None:
            second = next(warm(state, pool), None)
        if vm is not None and (own or 1 + sum(1 for _ in free) > pool.minimum):
            return vm
    return second


def _waited_for(state: State, needs: Iterable[Need], homes: Iterable[Pool | None]) -> tuple[set[str], set[str]]:
    """The pools that are somebody's own, and those that may lend to somebody."""
    firsts: set[str] = set()
    others: set[str] = set()
    for need, home in set(zip(needs, homes, strict=True)):
        for pool in fitting(state, need):
            own = home is None or pool.memory_mb <= home.memory_mb
            (firsts if own else others).add(pool.name)
    return firsts, others


def hand_out(state: State, claims: Sequence[Claim], at: float, config: PoolConfig) -> list[tuple[Claim, Vm]]:
    """The warm VMs to those who wait, in this order: to each from its own pools first, then what bigger ones can spare."""
    if not state.ready or not claims:
        return []
    free = {pool.name: list(warm(state, pool)) for pool in active(state)}
    waiting = list(zip(claims, homes(state, [claim.need for claim in claims], at, config), strict=True))
    fits = _fits(state, (claim.need for claim in claims))
    given: list[tuple[Claim, Vm]] = []

    def give(keep: Callable[[Pool, Pool], int]) -> None:
        for claim, home in tuple(waiting):
            pool = next((each for each in fits[claim.need] if home and len(free[each.name]) > keep(each, home)), None)
            if pool is not None:
                given.append((claim, free[pool.name].pop(0)))
                waiting.remove((claim, home))

    give(lambda pool, home: 0 if pool.memory_mb <= home.memory_mb else pool.maximum)
    if any(free.values()):
        give(lambda pool, home: 0 if pool.memory_mb <= home.memory_mb else pool.minimum)
    return given


def _is_of(it: Pool | Vm, need: Need) -> bool:
    return need.region in ("", it.region) and need.image in ("", it.image)


def _memory_mb(pool: Pool) -> int:
    return pool.memory_mb


def _key(vm_id: VmId) -> str:
    return f"pool.vm.{vm_id}"


def _known(what: str, names: Iterable[str]) -> str:
    told = ", ".join(sorted(names)[:20])
    return f"The {what} that there are: {told}." if told else f"No pool names {what}: leave it out."
