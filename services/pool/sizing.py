"""How large each pool is, and what its VMs are; and from the configuration to the commands that say so. Pure."""

from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from services.pool.config import PoolConfig
from services.pool.shapes import PoolShape
from services.pool.state import DEFAULT, State
from shared.commands import ResizePool
from shared.errors import Invalid
from shared.events import Event, PoolResized
from shared.ids import is_token

POOL_SIZE_MAX = 10_000
POOLS_MAX = 50
MEMORY_MB_MAX = 1_048_576
TARGET_AT_FIRST, MINIMUM_AT_FIRST, MAXIMUM_AT_FIRST = 1, 0, 5
"""Of a pool that is configured without them, and that the log does not know."""


def resize(state: State, command: ResizePool) -> Sequence[Event]:
    """The size must make sense as a whole. A pool that is new has to say what its VMs are."""
    pool = state.pools.get(command.pool)
    if command.drain:
        return (
            [PoolResized(pool=pool.name, target=0, minimum=0, maximum=0)] if pool is not None and pool.maximum else []
        )
    if not 0 <= command.minimum <= command.target <= command.maximum <= POOL_SIZE_MAX or command.maximum == 0:
        raise Invalid(
            "bad_pool_size",
            f"0 <= minimum <= target <= maximum must hold, with a maximum of 1 to {POOL_SIZE_MAX}; "
            f"got {command.minimum}, {command.target}, {command.maximum}.",
        )
    if (pool is None or pool.maximum == 0) and not command.memory_mb:
        names = ", ".join(name for name, each in state.pools.items() if each.maximum)
        raise Invalid("no_such_pool", f"There is no pool {command.pool[:64]!r}.", f"The pools that there are: {names}.")
    event = PoolResized(pool=command.pool, target=command.target, minimum=command.minimum, maximum=command.maximum)
    if command.memory_mb:
        event = replace(event, memory_mb=command.memory_mb, region=command.region, image=command.image)
    elif pool is not None:
        event = replace(event, memory_mb=pool.memory_mb, region=pool.region, image=pool.image)
    if pool is not None and all(getattr(event, name) == getattr(pool, name) for name in COMPARED):
        return []
    return [event]


COMPARED = ("target", "minimum", "maximum", "memory_mb", "region", "image")


def pools_of(config: PoolConfig) -> dict[str, PoolShape]:
    """The pools that are configured; where none is, the one that the other settings describe. Raises `Invalid`
    (`bad_pools`) for what can't be, naming the pool."""
    if not config.pools:
        _check_one(config)
        one = PoolShape(
            memory_mb=config.vm_memory_mb,
            cpu_cores=config.vm_cpu_cores,
            pids_max=config.vm_pids_max,
            target=config.target,
            minimum=config.minimum,
            maximum=config.maximum,
        )
        return {DEFAULT: one}
    if len(config.pools) > POOLS_MAX:
        raise _wrong(f"{len(config.pools)} pools are configured, {POOLS_MAX} are the most")
    alike: dict[tuple[str, str, int], str] = {}
    for name, shape in config.pools.items():
        _check(name, shape)
        same = alike.setdefault((shape.region, shape.image, shape.memory_mb), name)
        if same != name:
            raise _wrong(f"{same} and {name} have the same region, image and memory_mb: nothing tells them apart")
    return config.pools


def commands_for(state: State, config: PoolConfig) -> Iterator[ResizePool]:
    """What makes the log's pools the configured ones: sizes that are left open stay as the log has them."""
    shapes = pools_of(config)
    for name, shape in shapes.items():
        yield _resized(state, name, shape)
    for name, pool in state.pools.items():
        if name not in shapes and pool.maximum:
            yield ResizePool(pool=name, target=0, minimum=0, maximum=0, drain=True)


def _resized(state: State, name: str, shape: PoolShape) -> ResizePool:
    known = state.pools.get(name)
    had = (TARGET_AT_FIRST, MINIMUM_AT_FIRST, MAXIMUM_AT_FIRST)
    if known is not None and known.maximum:
        had = (known.target, known.minimum, known.maximum)
    target, minimum, maximum = had
    maximum = maximum if shape.maximum is None else shape.maximum
    target = min(target, maximum) if shape.target is None else shape.target
    return ResizePool(
        pool=name,
        target=target,
        minimum=min(minimum, target) if shape.minimum is None else shape.minimum,
        maximum=max(maximum, target) if shape.maximum is None else maximum,
        memory_mb=shape.memory_mb,
        region=shape.region,
        image=shape.image,
    )


def _check_one(config: PoolConfig) -> None:
    """The settings of a single pool, by their own names; its sizes are looked at beside what the log has."""
    if not 1 <= config.vm_memory_mb <= MEMORY_MB_MAX:
        what = f"DRAPE_POOL_VM_MEMORY_MB must be 1 to {MEMORY_MB_MAX}, it is {config.vm_memory_mb}."
    elif not config.vm_cpu_cores > 0:
        what = f"DRAPE_POOL_VM_CPU_CORES must be above 0, it is {config.vm_cpu_cores:g}."
    elif config.vm_pids_max < 1:
        what = f"DRAPE_POOL_VM_PIDS_MAX must be above 0, it is {config.vm_pids_max}."
    else:
        return
    raise Invalid("bad_setting", what, "See docs/settings.md.")


def _check(name: str, shape: PoolShape) -> None:
    if not is_token(name):
        raise _wrong(f"{name[:80]!r} is no name for a pool: 1 to 64 characters of a-z, 0-9 and '-'")
    if not 1 <= shape.memory_mb <= MEMORY_MB_MAX:
        raise _wrong(f"{name}: memory_mb must be 1 to {MEMORY_MB_MAX}, it is {shape.memory_mb}")
    if not shape.cpu_cores > 0 or shape.pids_max < 1 or shape.disk_mb < 0:
        raise _wrong(f"{name}: cpu_cores and pids_max must be above 0, and disk_mb not below")
    if shape.maximum is not None and not 1 <= shape.maximum <= POOL_SIZE_MAX:
        raise _wrong(f"{name}: maximum must be 1 to {POOL_SIZE_MAX}, it is {shape.maximum}")
    given = [each for each in (shape.minimum, shape.target, shape.maximum) if each is not None]
    if given != sorted(given) or any(each < 0 for each in given):
        raise _wrong(f"{name}: 0 <= minimum <= target <= maximum must hold")


def _wrong(what: str) -> Invalid:
    return Invalid("bad_pools", f"DRAPE_POOL_POOLS: {what}.", "See docs/settings.md.")
