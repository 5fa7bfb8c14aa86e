"""What goes wrong while it lasts: kills, cuts, clocks, VMs that go, and a climate for all of it that the seed chooses."""

import asyncio
from random import Random
from typing import TYPE_CHECKING

from deploy.simulation.outside import Trouble
from deploy.simulation.wire import Weather
from shared.commands import Command, MaintainPool, RestartPreview, ResumePreview, StopPreview
from shared.errors import DrapeError
from shared.ports import Cause

if TYPE_CHECKING:
    from deploy.simulation.world import Simulation

STEPS_MAX = 150
"""A replica that is to die does so within so many steps of its tasks."""
CUT_S = 14.0
"""The longest cut: more than the wait for an acknowledgement, so that work is taken over from who still does it."""
JUMP_S = 4.0
"""The farthest that a replica's clock is off."""
STORM = 4


def climate(random: Random) -> tuple[Weather, Trouble]:
    """Each kind of fault is there in two seeds of three, or so, and then more or less often."""

    def some(most: float) -> float:
        return most * random.random() ** 2 if random.random() < 0.65 else 0.0

    weather = Weather(
        delay_s=random.choice((0.002, 0.02, 0.2)),
        lost=some(0.06),
        refused=some(0.05),
        lag_s=some(4.0),
        again=some(0.1),
        late_s=some(5.0),
        twice=some(0.2),
    )
    trouble = Trouble(
        boot_fails=some(0.4),
        boot_slow=some(0.4),
        destroy_fails=some(0.5),
        destroy_lies=some(0.3),
        list_fails=some(0.4),
        list_s=some(3.0),
        freeze_fails=some(0.3),
        agent_silent=some(0.1),
        clean_fails=some(0.3),
        job_fails=some(0.2),
        job_hangs=some(0.15),
        job_dies=some(0.3),
    )
    return weather, trouble


class Chaos:
    """What befalls one simulation."""

    def __init__(self, world: "Simulation") -> None:
        self._world = world
        self._random = world.stream("chaos")
        rates = self._random
        self._rates = {name: rates.random() ** 2 if rates.random() < 0.7 else 0.0 for name in _RATES_MAX}

    async def run(self, until_s: float) -> None:
        """Until then; and then everything is as it should be."""
        world, random = self._world, self._random
        total = sum(self._rates[name] * most for name, most in _RATES_MAX.items())
        while world.now() < until_s:
            await asyncio.sleep(min(random.expovariate(total) if total else until_s, until_s - world.now()))
            if world.now() < until_s:
                kinds = list(_RATES_MAX)
                weights = [self._rates[name] * _RATES_MAX[name] for name in kinds]
                await self._befall(random.choices(kinds, weights)[0])
        for name, wire in world.wires.items():
            wire.heal()
            world.replicas[name].steps_left = 0
        world.weather.fair()
        world.trouble.fair()

    async def _befall(self, kind: str) -> None:
        world, random = self._world, self._random
        name = random.choice(world.names())
        match kind:
            case "kill":
                world.doom(name, random.randint(1, STEPS_MAX))
            case "cut":
                self._cut(name, CUT_S * random.random() ** 2)
            case "clock":
                world.skews[name] = JUMP_S * (2 * random.random() - 1)
                world.fault(f"the clock of {name} is off by {world.skews[name]:.1f} s")
            case "lose":
                if world.provider.vms:
                    vm_id = random.choice(list(world.provider.vms))
                    world.fault(f"{vm_id} is lost")
                    world.provider.lose(vm_id)
            case "storm":
                await self._storm()
            case _:
                await self._restart(name)

    def _cut(self, name: str, lasts_s: float) -> None:
        wire = self._world.wires[name]
        if wire.up:
            self._world.fault(f"{name} is cut off for {lasts_s:.1f} s")
            wire.cut()
            asyncio.get_running_loop().call_later(lasts_s, wire.heal)

    async def _restart(self, name: str) -> None:
        """As a rolling restart does it: in order."""
        world = self._world
        replica = world.replicas[name]
        if replica.alive and replica.runtime is not None and replica.runtime.ready:
            world.fault(f"{name} is restarted in order")
            try:
                async with asyncio.timeout(5.0):
                    await replica.run(replica.runtime.stop())
            except (TimeoutError, asyncio.CancelledError):
                if asyncio.current_task().cancelling():  # type: ignore[union-attr]
                    raise
            world.kill(name)

    async def _storm(self) -> None:
        """Several who want different things of the same preview at once."""
        world, random = self._world, self._random
        previews = [each for user in world.users for project in user.projects for each in project.previews]
        wishes: list[Command] = [MaintainPool() for _ in range(STORM)]
        if previews:
            preview_id = random.choice(previews)
            kinds = (RestartPreview, ResumePreview, StopPreview)
            wishes += [random.choice(kinds)(preview_id=preview_id) for _ in range(STORM)]
        world.fault(f"a storm of {len(wishes)}")
        await asyncio.gather(*(self._wish(wish) for wish in wishes))

    async def _wish(self, wish: Command) -> None:
        try:
            await self._world.storm_bus.commands.send(wish, Cause(actor="storm"))
        except DrapeError as error:
            self._world.tell(f"  storm: {error.code}")


_RATES_MAX = {"kill": 1.2, "cut": 0.8, "clock": 0.3, "lose": 0.4, "storm": 0.3, "restart": 0.3}
"""Times a second at most, of all replicas together."""
